"""The report of an audit: its rows for the five systems and ours, its forms, broken networks, nothing left behind."""

import copy
import json
import math
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from trap_networks import FIELDS, Net, Restless, chain, conv, state

import utils
from utils.audit import MAX_PARAMETERS, MIN_RECEPTIVE_FIELD, Report, audit
from utils.auditing.footprint import Probe
from utils.errors import InputError
from utils.models import build_model
from utils.models.s7 import S7Net
from utils.recipes import RECIPES

IDS = [
    "structure",
    "max_pooling",
    "bonus",
    "rf",
    "depthwise",
    "dilated",
    "gap",
    "params",
    "augment",
    "data",
    "accuracy",
]
YES, NO = True, False


@pytest.fixture(scope="module")
def s7() -> Report:
    return audit(build_model("s7"), RECIPES["fast"])


@pytest.mark.parametrize(
    ("name", "structure", "bonus", "rf", "depthwise", "params"),
    [
        ("dilated_valid", NO, YES, NO, NO, 178_506),  # five dilated convolutions shrink the map: five blocks
        ("strided_separable", YES, NO, NO, YES, 197_922),
        ("experiment2", NO, NO, YES, YES, 86_954),  # two strides: three blocks
        ("transition", YES, NO, YES, YES, 180_298),
        ("residual", YES, NO, YES, NO, 197_472),
        ("s7", YES, NO, YES, YES, 199_922),
        ("s7_dilated", YES, YES, YES, YES, 199_922),
    ],
)
def test_all_rows_of_the_five_systems_and_ours(name, structure, bonus, rf, depthwise, params):
    report = audit(build_model(name))
    verdicts = [row.passed for row in report.requirements]
    assert verdicts == [structure, YES, bonus, rf, depthwise, YES, YES, YES, None, None, None]
    assert report.parameters == report.trainable_parameters == params
    assert report.passed is (structure and rf and depthwise)


@pytest.mark.parametrize(
    ("name", "row", "where"),
    [
        ("dilated_valid", "dilated", ("c1.3", "c1.6", "c2.3", "c2.6", "c3.0")),
        ("strided_separable", "depthwise", ("c1.0.depthwise",)),
        ("experiment2", "structure", ("conv2", "conv3")),
        ("transition", "depthwise", ("c3.0",)),  # its text says block 2
        ("residual", "depthwise", ()),
        ("residual", "gap", ("output.0",)),
    ],
)
def test_rows_name_the_layers_that_show_it(name, row, where):
    assert audit(build_model(name))[row].where == where


def test_what_only_looks_depthwise_is_said_of_the_systems():
    assert audit(build_model("dilated_valid"))["depthwise"].measured == "none; grouped, not depthwise: c2.0"
    lonely = "none; depthwise without a pointwise after it: c2.0.3"
    assert audit(build_model("residual"))["depthwise"].measured == lonely


def test_where_lists_every_layer_once_and_the_table_shortens_it():
    report = audit(chain(*[conv(dilation=2) for _ in range(6)]))
    assert report["dilated"].where == ("0", "1", "2", "3", "4", "5")
    assert report.to_dict()["requirements"][5]["where"] == ["0", "1", "2", "3", "4", "5"]
    assert "0, 1, 2, 3 and 2 more" in str(report)
    shared = conv(dilation=2)
    assert audit(chain(shared, shared))["dilated"].where == ("0",)


def test_the_report_as_a_dictionary_is_json(s7):
    found = json.loads(json.dumps(s7.to_dict()))
    assert list(found) == [
        "model",
        "passed",
        "parameters",
        "trainable_parameters",
        "receptive_field",
        "receptive_field_method",
        "requirements",
        "layers",
    ]
    assert (found["model"], found["passed"], found["parameters"]) == ("s7", True, 199_922)
    assert found["receptive_field"] == [73, 73]
    assert [row["id"] for row in found["requirements"]] == IDS
    assert all(list(row) == ["id", "demanded", "measured", "passed", "where"] for row in found["requirements"])
    assert found["layers"][0] == {
        "name": "c1.0.0",
        "kind": "conv 3x3",
        "output": [16, 32, 32],
        "field": [3, 3],
        "jump": [1, 1],
    }


def test_the_report_prints_as_a_table(s7):
    lines = str(s7).splitlines()
    assert lines[0] == "s7: passed"
    assert [line.split()[0] for line in lines[2:-1]] == IDS
    assert lines[-1] == "receptive field: layer algebra and gradient footprint agree"
    assert "no (optional)" in lines[2 + IDS.index("bonus")]
    assert lines[2 + IDS.index("accuracy")].split()[-1] == "-"
    assert str(audit(chain(conv()))).startswith("Sequential: FAILED")


def test_the_report_renders_as_html_without_letting_names_be_markup():
    network = chain(conv())
    network.built_as = ("<script>", {})
    page = audit(network)._repr_html_()
    assert "&lt;script&gt;: FAILED" in page
    assert page.count("<tr>") == 1 + len(IDS)


def test_what_a_row_says_is_no_markup_either():
    network = nn.Sequential()
    network.add_module("<b>", conv())
    page = audit(nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()))._repr_html_()
    assert "0.&lt;b&gt;" in page and "0.<b>" not in page


def test_the_layer_table_renders_too(s7):
    assert s7.layers._repr_html_().count("<tr>") == 1 + len(s7.layers)
    assert str(s7.layers).splitlines()[1].split() == ["c1.0.0", "conv", "3x3", "16x32x32", "3x3", "1x1"]


def test_it_is_there_under_its_names():
    assert utils.audit is audit
    assert utils.Report is Report
    assert (MAX_PARAMETERS, MIN_RECEPTIVE_FIELD) == (200_000, 44)


# The model before and after


@pytest.mark.parametrize("make", [Restless, lambda: build_model("s7"), lambda: copy.deepcopy(FIELDS["weight norm"][0])])
def test_the_model_is_the_same_to_the_bit_afterwards(make):
    model = make().train()
    model(torch.ones(2, 3, 32, 32)).sum().backward()
    model.eval() if isinstance(model, nn.Sequential) else model.train()
    before = state(model)
    audit(model)
    assert state(model) == before


def test_a_network_that_fails_leaves_nothing_behind_either():
    model = Restless()
    model.b = nn.Linear(5, 5)
    before = state(model)
    assert audit(model).requirements[0].passed is False
    assert state(model) == before


def test_the_audit_works_where_gradients_are_off():
    with torch.inference_mode():
        report = audit(chain(conv()))
    assert report.receptive_field_method == "layer algebra and gradient footprint agree"


def test_weights_of_every_precision_are_audited():
    assert audit(chain(conv()).half()).receptive_field == audit(chain(conv()).double()).receptive_field == (3, 3)


# Networks that are broken


def endless(self, x):
    return endless(self, x)


def needs_more(self, x, y):
    return x + y


def gives_up(self, x):
    raise KeyError("no\nsuch thing")


BROKEN = {
    "another number of channels": (chain(nn.Conv2d(1, 3, 3)), "expected input[1, 3, 32, 32] to have 1 channels"),
    "a linear layer of another size": (nn.Sequential(nn.Flatten(), nn.Linear(5, 5)), "shapes cannot be multiplied"),
    "a forward that needs more": (Net(needs_more), "TypeError: needs_more() missing 1 required positional argument"),
    "an error of its own": (Net(gives_up), "KeyError: 'no\\nsuch thing'"),
    "no end": (Net(endless), "RecursionError"),
    "no forward": (nn.Module(), "NotImplementedError"),
    "no copy": (Net(lambda s, x: x, lock=threading.Lock()), "it cannot be copied, TypeError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_network_that_does_not_run_gets_a_row(name):
    model, says = BROKEN[name]
    report = audit(model)
    row = report.requirements[0]
    assert (row.id, row.passed, report.passed) == ("forward", False, False)
    assert row.measured.startswith("float32 (1, 3, 32, 32): ")
    assert says in row.measured
    assert len(row.measured.splitlines()) == 1
    assert [r.id for r in report.requirements[1:]] == IDS
    assert {r.passed for r in report.requirements[1:8]} == {None}
    assert report["params"].passed is True
    assert report.receptive_field is None
    assert "cannot be judged: the network does not run" in str(report)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (FIELDS["weights that are not numbers"][0], "NaN or infinite weights: 0.weight, 0.bias"),
        (Net(lambda s, x: s.a(x) / 0, a=conv()), "NaN or infinite answers"),
        (Net(lambda s, x: x, fc=None), "the answer is no tensor but NoneType"),
        (nn.Identity(), "no operation on the image leads to the answer"),
    ],
)
def test_answers_that_are_no_numbers_are_said(model, says):
    if says.endswith("NoneType"):
        model.forward = lambda x: None
    report = audit(model)
    assert report["forward"].passed is False
    assert report["forward"].measured.startswith(says)
    assert not report.passed


@pytest.mark.parametrize("kind", ["dict", "tuple", "dataclass"])
def test_answers_that_are_no_numbers_are_said_wherever_they_stand(kind):
    @dataclass
    class Answer:
        logits: torch.Tensor

    wrap = {"dict": lambda y: {"logits": y}, "tuple": lambda y: (y, 1), "dataclass": Answer}[kind]
    network = chain(conv())
    forward = network.forward
    network.forward = lambda x: wrap(forward(x))
    assert audit(network).receptive_field == (3, 3)
    network.forward = lambda x: wrap(forward(x) / 0)
    assert audit(network)["forward"].measured == "NaN or infinite answers to an image of noise"


def squeezed(self, x):
    return self.norm(self.a(x).mean((2, 3)).squeeze())[:, :, None, None]


def standardised(self, x):
    return self.a((x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True))


RELUCTANT = {
    "two images at least": Net(squeezed, a=conv(), norm=nn.BatchNorm1d(3)),
    "the image is standardised": Net(standardised, a=conv()),
    "scripted": torch.jit.script(chain(conv())),
    "a scripted part": chain(torch.jit.script(nn.Sequential(conv()))),
    "float64 inside": Net(lambda s, x: s.a(x.double()).float(), a=conv().double()),
    "a method named train": Net(lambda s, x: s.a(x), a=conv()),
}
RELUCTANT["a method named train"].train = lambda loader, optimizer: None


@pytest.mark.parametrize("name", RELUCTANT)
def test_a_network_that_runs_in_its_own_way_is_judged(name):
    report = audit(RELUCTANT[name])
    assert "forward" not in [r.id for r in report.requirements]
    assert report.receptive_field == (3, 3)


def test_an_error_of_the_network_s_own_kind_on_images_of_other_sizes_is_no_end():
    class Bad(Exception):
        pass

    def picky(self, x):
        if x.shape[-2:] != (32, 32):
            raise Bad("only 32 x 32")
        return self.a(x)

    report = audit(Net(picky, a=conv()))
    assert report.receptive_field == (3, 3)


def test_a_network_that_runs_only_once_is_counted():
    def once(self, x):
        if hasattr(self, "ran"):
            raise KeyError("again")
        self.ran = True
        return self.a(x)

    assert audit(Net(once, a=conv()))["params"].measured == "124"


def scaled(self, x):
    return self.a((x - x.min()) / (x.max() - x.min()))


def attending(self, x):
    y = self.a(x)
    tokens = y.flatten(2).mT
    return y + self.attend(tokens, tokens, tokens)[0].mT.reshape(y.shape)


def attending_by_hand(self, x):
    y = self.a(x)
    tokens = y.flatten(2)
    return y + (tokens @ (tokens.mT @ tokens).softmax(2)).view(y.shape)


@pytest.mark.parametrize("body", [scaled, attending, attending_by_hand])
def test_a_look_at_all_of_the_image_through_averages_is_cut_out_of_the_footprint(body):
    report = audit(Net(body, a=conv(stride=4), attend=nn.MultiheadAttention(3, 1, batch_first=True)))
    assert report.receptive_field == (3, 3)
    assert report.receptive_field_method == "layer algebra and gradient footprint agree"
    assert "all of the image through averages inside" in report["rf"].measured


def test_strips_end_where_a_network_looks_at_all_of_the_image_in_a_way_that_has_no_rule(monkeypatch):
    sizes = []
    field = Probe.field
    monkeypatch.setattr(Probe, "field", lambda self, shape, *rest: sizes.append(shape) or field(self, shape, *rest))
    report = audit(Net(lambda s, x: s.a(torch.fft.irfft2(torch.fft.rfft2(x))), a=conv(stride=4)))
    assert report["rf"].passed is None
    assert max(max(shape) for shape in sizes) == 2048


@pytest.mark.parametrize(("number", "broken"), [(-math.inf, False), (math.inf, True), (math.nan, True)])
def test_a_buffer_may_hold_minus_infinity_as_masks_do(number, broken):
    network = Net(lambda s, x: s.a(x), a=conv())
    network.register_buffer("mask", torch.full((2,), number))
    assert (audit(network).requirements[0].id == "forward") == broken


def test_what_runs_with_bad_weights_is_still_measured():
    assert audit(FIELDS["weights that are not numbers"][0]).receptive_field == (5, 5)


def test_a_network_that_answers_with_a_dictionary_or_a_tuple_is_followed():
    class Several(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.a, self.kind = conv(), kind

        def forward(self, x):
            y = self.a(x).mean((2, 3))
            return {"logits": y} if self.kind is dict else (y, 1)

    assert audit(Several(dict)).receptive_field == audit(Several(tuple)).receptive_field == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((nn.Linear,), r"got <class .*Linear'>; make one: Linear\(\)"),
        (("s7",), "audit needs a network, a torch.nn.Module, got 's7'"),
        ((chain(conv()), None, "digits"), r"audit needs data as load_cifar10\(\) returns it, got 'digits'"),
        ((chain(conv()), None, None, (32, 32)), r"input_shape must be channels, height, width, got \(32, 32\)"),
        ((chain(conv()), None, None, (3, 32, 0)), "input_shape must be channels, height, width"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        audit(*arguments)


def test_another_image_size_is_taken():
    report = audit(chain(conv(stride=2), conv()), input_shape=(3, 64, 48))
    assert report.layers[0].output == (3, 32, 24)
    assert report.receptive_field_with_average == (5 + 31 * 2 + 2, 5 + 23 * 2 + 2)


def test_a_compiled_network_runs_as_it_was_written():
    def compiler(graph, images):
        pytest.fail("the audit was compiled")

    plain = audit(build_model("s7"))
    compiled = audit(torch.compile(build_model("s7"), backend=compiler))
    assert [row.passed for row in compiled.requirements] == [row.passed for row in plain.requirements]
    assert compiled.receptive_field == plain.receptive_field


def test_a_layer_without_outputs_is_counted_as_any_other():
    assert audit(S7Net(classes=0))["params"].passed
