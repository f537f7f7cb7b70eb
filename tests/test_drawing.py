"""Architecture drawings: what they say is true of the network; only the last tests need Graphviz's program dot."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import graphviz
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchsummary import summary

from utils.__main__ import main
from utils.boxes import columns, read, residual_edges
from utils.drawing import COLOURS, RESIDUAL, STRIDED, draw, label, save
from utils.errors import InputError
from utils.models import MODELS, build_model

IMAGE = (3, 32, 32)
IMAGES = Path(__file__).parent.parent / "images"
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program dot is not installed")


class Network(nn.Module):
    """From a function `body(self, x)` and the modules it uses."""

    def __init__(self, body, **modules):
        super().__init__()
        self.body = body
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.body(self, x)


def conv(channels_in=3, channels_out=3, kernel=3, **arguments) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, **arguments)


def boxes(model) -> dict:
    """The boxes of a drawing by name."""
    return {node.name: node for node in read(model, IMAGE)}


def edges(model) -> set:
    return {(source.name, node.name) for node in read(model, IMAGE) for source in node.inputs}


def text_of(part: str) -> str:
    """A label of the Graphviz source or a piece of SVG, without its markup and with ordinary spaces."""
    words = re.sub("<.*?>", " ", part).replace("\N{NO-BREAK SPACE}", " ").replace("&#45;", "-").replace("&#160;", " ")
    return " ".join(words.split())


def look(graph: graphviz.Digraph, name: str) -> str:
    """The line of the Graphviz source that has the box with this name."""
    (line,) = (x.strip() for x in graph.source.splitlines() if re.match(rf'\s*"?{re.escape(name)}"? \[label=', x))
    return line


@pytest.mark.parametrize("name", MODELS)
def test_every_convolution_stands_as_it_is(name):
    """Against the modules themselves: kernel, channels, stride, dilation, groups, and the shape that comes out."""
    model = build_model(name).eval()
    expected = {}

    def note(which):
        def hook(module, inputs, output):
            words = {"stride": module.stride, "dilation": module.dilation}
            details = {f"{word} {sides[0]}" for word, sides in words.items() if sides != (1, 1)}
            details |= {f"{module.groups} groups"} - {"1 groups"}
            kernel = "{}x{}".format(*module.kernel_size)
            expected[which] = (kernel, module.in_channels, module.out_channels, details, tuple(output.shape[1:]))

        return hook

    for which, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(which))
    model(torch.zeros(1, *IMAGE))
    shown = {}
    for node in boxes(model).values():
        if found := re.fullmatch(r"(\w+) (\d+x\d+), (\d+)( → (\d+))?", node.text):
            word, kernel, first, _, second = found.groups()
            details = set(node.details) - {"no padding"}
            shown[node.name] = (kernel, int(first), int(second or first), details, node.shape)
            module = model.get_submodule(node.name)
            kind = "depthwise" if module.groups == module.in_channels else "pointwise" if kernel == "1x1" else "conv"
            assert word == kind
            assert ("no padding" in node.details) == (kernel != "1x1" and module.padding == (0, 0))
    assert shown == expected


@pytest.mark.parametrize("name", MODELS)
def test_shapes_are_those_of_torchsummary(name, capsys):
    summary(build_model(name), IMAGE, device="cpu")
    rows = re.findall(r"(?:Conv2d|Linear)-\d+\s+\[-1, ([\d, ]+)\]", capsys.readouterr().out)
    layers = ("convolution", "depthwise", "pointwise", "dilated", "dilated depthwise", "linear")
    shown = [node.shape for node in boxes(build_model(name)).values() if node.kind in layers]
    assert shown == [tuple(map(int, row.split(","))) for row in rows]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s7", "c1.1.0>c2.0 c2.0>c2.1 c2.2.0>c3.0 c3.0>c3.1 c3.1>c3.2 c3.3.1>c4.0"),
        ("s7_dilated", "c1.1.0>c2.0 c2.0>c2.1 c2.2.0>c3.0 c3.0>c3.1 c3.1>c3.2 c3.3.1>c4.0"),
        (
            "s7_max",
            "c1.0.0>c1.1 c1.1>c1.2 c1.3.1>c2.0 c2.0>c2.1 c2.1>c2.2 c2.2>c2.3 "
            "c2.4.1>c3.0 c3.0>c3.1 c3.1>c3.2 c3.2>c3.3 c3.4.1>c4.0",
        ),
        (
            "s7_mirror",
            "c1.0.0>c1.1 c1.1>c1.2 c1.3.1>c2.0 c2.0>c2.1 c2.1>c2.2 c2.2>c2.3 "
            "c2.4.1>c3.0 c3.0>c3.1 c3.1>c3.2 c3.2>c3.3 c3.4.1>c4.0",
        ),
        # from where the ways part to the convolution on the shorter one, and from there to the addition
        ("residual", "input>c1.1.0 c1.1.0>c1 c1>c2.1.0 c2.1.0>c2 c2>c3.1.0 c3.1.0>c3 c3>c4.1.0 c4.1.0>c4"),
        *((name, "") for name in ("dilated_valid", "strided_separable", "experiment2", "transition")),
    ],
)
def test_residual_edges_are_where_they_are_and_dashed(name, expected):
    model = build_model(name)
    found = residual_edges(read(model, IMAGE))
    assert found == {tuple(edge.split(">")) for edge in expected.split()}
    assert found <= edges(model)
    source = draw(model).source
    assert sum("dashed" in line and "->" in line for line in source.splitlines()) == len(found)
    assert ("dashed: residual" in source) == bool(found)


def test_blocks_have_frames_with_their_names():
    assert re.findall(r'label="?(\w+)"? labeljust', draw(build_model("s7")).source) == [
        "c1",
        "c2",
        "c3",
        "c4",
        "output",
    ]
    model = build_model("transition")
    blocks = dict(columns(model, read(model, IMAGE)))
    assert [node.name for node in blocks["c2"]] == ["c2.0", "c2.4", "c2.5"]
    model = build_model("dilated_valid")  # whose last two layers are in no block
    assert [heading for heading, _ in columns(model, read(model, IMAGE))] == ["c1", "c2", "c3", "average, output"]


def test_a_network_without_blocks_has_frames_by_size():
    model = build_model("experiment2")
    assert [heading for heading, _ in columns(model, read(model, IMAGE))] == ["32 × 32", "16 × 16", "8 × 8", "1 × 1"]
    valid = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 5))
    assert [heading for heading, _ in columns(valid, read(valid, IMAGE))] == ["30 × 30 to 24 × 24"]


def test_a_block_that_is_too_long_for_a_page_is_parted_by_size():
    model = nn.Sequential(nn.Sequential(*(conv() for _ in range(7)), *(conv(stride=2) for _ in range(2))), conv())
    assert [heading for heading, _ in columns(model, read(model, IMAGE))] == ["0", "1"]
    model[0].extend(conv() for _ in range(6))
    assert [heading for heading, _ in columns(model, read(model, IMAGE))] == ["32 × 32", "16 × 16", "8 × 8"]


def test_kinds_are_told_apart_by_colour_and_by_words():
    graph = draw(build_model("s7_dilated"))
    for name, colour, words in (
        ("c1.0.0", COLOURS["convolution"], "conv 3x3, 3 → 16"),
        ("c1.1.0", COLOURS["dilated"], "conv 3x3, 16 → 48 dilation 5, no padding"),
        ("c3.3.0", f"{COLOURS['depthwise']}:{COLOURS['dilated']}", "depthwise 3x3, 64 dilation 4, 64 groups"),
        ("c4.0.0.0", COLOURS["depthwise"], "depthwise 3x3, 72 72 groups"),
        ("c4.0.0.1", COLOURS["pointwise"], "pointwise 1x1, 72 → 72"),
        ("output.0", COLOURS["pooling"], "global average pool 72 × 1 × 1"),
        ("output.2", COLOURS["linear"], "linear, 72 → 10 10"),
    ):
        assert f'fillcolor="{colour}"' in look(graph, name)
        assert words in text_of(look(graph, name))
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert "s7_dilated: 199,922 parameters" in graph.source


def test_strided_layers_have_a_bold_frame():
    graph = draw(build_model("residual"))
    bold = [line.split('"')[1] for line in graph.source.splitlines() if f'color="{STRIDED}" fillcolor' in line]
    assert sorted(bold) == ["c1.0.6", "c1.1.0", "c2.0.6", "c2.1.0", "c3.0.6", "c3.1.0"]
    assert "bold frame: strided" in graph.source
    assert "bold frame" not in draw(build_model("s7_dilated")).source


def test_what_runs_between_layers_is_written_into_the_layer_before():
    node = boxes(build_model("dilated_valid"))["c1.6"]
    assert node.then == ["ReLU", "BN", "dropout 0.1"]
    assert "ReLU BN dropout 0.1" in text_of(label(node))


def test_what_runs_behind_a_view_of_a_shared_result_has_its_own_box():
    def gated(self, x):
        y = self.a(x)
        gate = torch.sigmoid(y.view(y.shape))
        return self.b(F.relu(y)) * gate

    boxes = {node.name: node for node in read(Network(gated, a=conv(), b=conv()), IMAGE)}
    assert "sigmoid" not in boxes["a"].then
    assert boxes["sigmoid"].inputs == [boxes["a"]]


def test_a_name_with_a_colon_is_no_port_of_graphviz():
    network = nn.Sequential()
    network.add_module("a:b", conv())
    network.add_module("c", conv())
    drawn = draw(network).source
    assert '"a.b" -> c' in drawn or '"a.b" -> "c"' in drawn
    assert "a:b" not in drawn.replace("<b>a:b</b>", "")


def test_a_network_of_functions_alone():
    weight = nn.Parameter(torch.zeros(8, 3, 5, 5))
    model = Network(
        lambda self, x: F.relu6(F.max_pool2d(F.conv2d(x, self.w, stride=(2, 1), padding=2), 2)).mean((2, 3))
    )
    model.w = weight
    shown = [(node.text, node.details, node.then, node.shape) for node in read(model, IMAGE)]
    assert shown == [
        ("input", [], [], (3, 32, 32)),
        ("conv 5x5, 3 → 8", ["stride 2x1"], [], (8, 16, 32)),
        ("max pool 2x2", [], ["ReLU6"], (8, 8, 16)),
        ("global average pool", [], [], (8,)),
        ("output", [], [], (8,)),
    ]


@pytest.mark.parametrize(
    ("layer", "text", "details"),
    [
        (nn.MaxPool2d(3, 2), "max pool 3x3", ["stride 2"]),
        (nn.MaxPool2d(2, dilation=3), "max pool 2x2", ["dilation 3"]),
        (nn.AdaptiveAvgPool2d(4), "adaptive average pool", []),
        (nn.AdaptiveMaxPool2d(1), "global max pool", []),
        (lambda x: x.amax((-2, -1)), "global max pool", []),
        (nn.ConvTranspose2d(3, 4, 2, 2), "conv 2x2, 3 → 4", ["transposed", "stride 2"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 5, bias=False)), "linear, 3072 → 5", []),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5)), "conv 5, 3 → 4", ["no padding"]),
    ],
)
def test_what_a_layer_is_called_and_what_is_not_the_default(layer, text, details):
    nodes = read(Network(lambda self, x: layer(x)), IMAGE)
    assert [(node.text, node.details) for node in nodes[1:-1]] == [(text, details)]


def test_only_a_hardtanh_from_0_to_6_is_a_relu6():
    bounds = (0, 6), (-1, 1)
    written = [read(nn.Sequential(conv(), nn.Hardtanh(*pair)), IMAGE)[1].then for pair in bounds]
    assert written == [["ReLU6"], ["hardtanh"]]


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_over_channels_keeps_the_map(bias):
    model = Network(lambda self, x: self.b(self.a(x.permute(0, 2, 3, 1))), a=nn.Linear(3, 5, bias), b=nn.Linear(5, 4))
    assert [boxes(model)[name].shape for name in ("a", "b")] == [(32, 32, 5), (32, 32, 4)]
    mixed = Network(lambda self, x: self.b(self.a(x).permute(0, 2, 3, 1)), a=conv(3, 64), b=nn.Linear(64, 8, bias))
    assert [heading for heading, _ in columns(mixed, read(mixed, IMAGE))] == ["32 × 32"]
    assert boxes(Network(lambda self, x: self.a(x.flatten(1)).view(1, 4, 2), a=nn.Linear(3072, 8)))["a"].shape == (8,)


def test_an_instance_norm_is_no_batch_norm():
    model = nn.Sequential(conv(), nn.InstanceNorm2d(3, affine=True), nn.ReLU(), nn.BatchNorm2d(3))
    assert read(model, IMAGE)[1].then == ["instance norm", "ReLU", "BN"]


def test_the_heading_of_single_layers_names_no_function():
    model = Network(lambda self, x: self.b(self.a(x)).mean((2, 3)), a=nn.Sequential(conv(), conv()), b=conv())
    assert [heading for heading, _ in columns(model, read(model, IMAGE))] == ["a", "b"]


def test_a_module_called_twice_stands_twice():
    model = Network(lambda self, x: self.a(F.relu(self.a(x))), a=conv())
    assert edges(model) == {("input", "a"), ("a", "a (2)"), ("a (2)", "output")}


def test_concatenation_is_no_residual():
    model = Network(lambda self, x: self.b(torch.cat([x, self.a(x)], 1)), a=conv(), b=conv(6, 10))
    assert edges(model) == {("input", "a"), ("input", "cat"), ("a", "cat"), ("cat", "b"), ("b", "output")}
    assert boxes(model)["cat"].text == "concat"
    assert boxes(model)["cat"].shape == (6, 32, 32)
    assert residual_edges(read(model, IMAGE)) == set()
    assert RESIDUAL not in draw(model).source


def test_an_addition_in_place_is_residual_and_two_equal_ways_are_not():
    def add(self, x):
        y = self.b(self.a(x))
        y += x
        return y

    found = residual_edges(read(Network(add, a=conv(), b=conv()), IMAGE))
    assert found == {("input", "add_")}
    assert residual_edges(read(Network(lambda self, x: self.a(x) + self.b(x), a=conv(), b=conv()), IMAGE)) == set()


def test_the_output_is_what_is_returned_not_what_ran_last():
    def dead_end(self, x):
        y = self.a(x)
        self.b(y)
        return y

    model = Network(dead_end, a=conv(3, 7), b=conv(7, 5))
    assert ("a", "output") in edges(model)
    assert ("b", "output") not in edges(model)
    assert boxes(model)["output"].shape == (7, 32, 32)


def test_what_is_also_returned_has_no_more_written_into_it():
    def both(self, x):
        y = self.a(x)
        return y, F.relu(y)

    assert edges(Network(both, a=conv())) == {("input", "a"), ("a", "output"), ("a", "relu"), ("relu", "output")}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Identity(), "Identity does nothing to the image"),
        (Network(lambda self, x: torch.zeros(1, 10)), "Network does nothing to the image"),
        (Network(lambda self, x: (self.a(x), torch.zeros(1, 10))[1], a=conv()), "Network does nothing to the image"),
        (conv(5), "Conv2d does not run on an image of 3x32x32: .*expected input"),
        (Network(lambda self, x: self.missing(x)), "Network does not run on an image of 3x32x32: .*missing"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), r"run it once, as in model\(torch.zeros\(1, 3, 32, 32\)\)"),
    ],
)
def test_a_network_that_cannot_be_drawn_is_refused_in_one_line(model, says):
    with pytest.raises(InputError, match=says) as refused:
        draw(model)
    assert "\n" not in str(refused.value)


def test_the_network_stays_as_it_was(network):
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    draw(network)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in network.modules())
    random = Network(lambda self, x: self.a(x) + torch.rand(1), a=conv())
    state = torch.get_rng_state()
    draw(random)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", MODELS)
def test_the_pictures_in_images_show_the_networks_as_they_are(name):
    """`make drawings` makes them anew."""
    groups = ElementTree.parse(IMAGES / f"{name}.svg").iter("{http://www.w3.org/2000/svg}g")
    shown = {
        g[0].text: text_of(" ".join(g.itertext()))[len(g[0].text) :].strip() for g in groups if g.get("class") == "node"
    }
    assert {text: shown[text] for text in shown if shown[text]} == {
        node.name: text_of(label(node)[1:-1] if node.kind != "operation" else label(node))
        for node in read(build_model(name), IMAGE)
    }


def test_without_dot_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["draw", "s7", "--out", str(tmp_path / "s7.svg")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "apt-get install graphviz" in line
    assert list(tmp_path.iterdir()) == []


def test_what_dot_cannot_do_is_said_in_one_line(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise graphviz.CalledProcessError(1, ["dot"], stderr="Format: svg not recognized.\nUse one of:\n")

    monkeypatch.setattr(graphviz.Digraph, "pipe", fail)
    with pytest.raises(InputError, match="dot failed: Format: svg not recognized.$"):
        save(build_model("s7"), tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["s8"], "unknown model 's8'"),
        (["s7", "--out", "s7.png"], "ends in .svg"),
        (["s7", "--out", "file/s7.svg"], "file/s7.svg: the drawing cannot be written"),
    ],
)
def test_bad_input_is_answered_in_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphviz.Digraph, "pipe", lambda *arguments, **options: "<svg/>")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["draw", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_draw_writes_into_this_folder_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(graphviz.Digraph, "pipe", lambda *arguments, **options: "<svg/>")
    monkeypatch.chdir(tmp_path)
    assert main(["draw", "residual"]) == 0
    assert Path("residual.svg").read_text() == "<svg/>"
    assert main(["draw", "s7", "--out", "new/folder/a.svg"]) == 0
    assert Path("new/folder/a.svg").exists()


def test_draw_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["draw", "--help"])
    assert "example:\n  python -m utils draw s7" in capsys.readouterr().out


@needs_dot
def test_the_picture_is_readable_at_the_width_of_a_readme(tmp_path):
    for name in MODELS:
        save(build_model(name), tmp_path / "a.svg")
        picture = ElementTree.parse(tmp_path / "a.svg").getroot()
        smallest = min(float(text.get("font-size")) for text in picture.iter("{http://www.w3.org/2000/svg}text"))
        assert smallest * 900 / float(picture.get("viewBox").split()[2]) >= 9  # pixels
    first = (tmp_path / "a.svg").read_bytes()
    save(build_model(name), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == first


def places(model, path, axis) -> dict:
    """x or y of the first line in every box and of every frame's heading; y grows downwards."""
    save(model, path)
    groups = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}g")
    texts = {group[0].text: group.find("{http://www.w3.org/2000/svg}text") for group in groups}
    return {name: float(text.get(axis)) for name, text in texts.items() if text is not None}


@needs_dot
def test_layers_stand_from_top_to_bottom(tmp_path):
    heights = places(nn.Sequential(*(conv() for _ in range(3))), tmp_path / "a.svg", "y")
    assert heights["input"] < heights["0"] < heights["1"] < heights["2"] < heights["output"]


@needs_dot
def test_input_stands_above_the_first_frame_and_output_below_the_last(tmp_path):
    heights = places(build_model("s7"), tmp_path / "a.svg", "y")
    assert heights["input"] < heights["cluster_0"] < heights["c1.0.0"] < heights["c1.1.0"] < heights["c2.0"]
    assert heights["output.0"] < heights["output.2"] < heights["output"] < heights["c4.0"]
    lefts = places(build_model("s7"), tmp_path / "a.svg", "x")
    for end, layer in (("input", "c1.0.0"), ("output", "output.2")):
        assert abs(lefts[end] - lefts[layer]) < 50


@needs_dot
@pytest.mark.parametrize(
    "model",
    [
        nn.Flatten(),
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
        Network(lambda self, x: self.b(torch.cat([x, self.a(x)], 1)), a=conv(), b=conv(6, 10)),
        Network(lambda self, x: (self.a(x), self.b(x)), a=nn.Sequential(conv()), b=nn.Sequential(conv())),
        Network(lambda self, x: x + self.a(x) + self.b(x), a=nn.Sequential(conv()), b=nn.Sequential(conv(), conv())),
        nn.Sequential(*(conv() for _ in range(30))),
        Network(lambda self, x: self.a(x).mean((2, 3)).squeeze(), a=conv(3, 10)),
    ],
    ids=["no layers", "one layer", "concatenation", "two outputs", "ways of three lengths", "thirty layers", "no axis"],
)
def test_any_network_can_be_laid_out(model, tmp_path):
    save(model, tmp_path / "a.svg")
    titles = [g[0].text for g in ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}g")]
    assert set(boxes(model)) <= set(titles)
