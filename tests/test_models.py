import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchsummary import summary

from utils.audit import audit
from utils.errors import InputError
from utils.models import MODELS, build_model, model_arguments
from utils.models.blocks import Residual, convolution, depthwise_separable
from utils.models.s7 import STRIDED, dilated
from utils.recipes import RECIPES

OURS = ("s7", "s7_dilated", "s7_max", "s7_mirror")


@pytest.fixture(params=OURS)
def network(request):
    return build_model(request.param)


def kernels(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_it_has_fewer_than_200_000_parameters(network):
    assert sum(p.numel() for p in network.parameters()) < 200_000


def test_its_receptive_field_is_above_44_by_hand(network):
    field, jump = 1, 1  # of every convolution in turn: the residual paths are never longer than the main one
    for layer in kernels(network):
        field += (layer.kernel_size[0] - 1) * layer.dilation[0] * jump
        jump *= layer.stride[0]
    assert field > 44
    assert audit(network).receptive_field == (field, field)


def test_it_has_four_blocks_and_an_output_block(network):
    assert [name for name, _ in network.named_children()] == ["c1", "c2", "c3", "c4", "output"]


def test_only_the_last_convolution_of_a_block_reduces(network):
    x = torch.zeros(1, 3, 32, 32)
    for block in (network.c1, network.c2, network.c3):
        kept = block[:-1](x)
        assert kept.shape[2:] == x.shape[2:]
        x = block[-1](kept)
        assert x.shape[2] < kept.shape[2]
    assert network.c4(x).shape[2:] == x.shape[2:]


def test_it_has_a_depthwise_separable_convolution(network):
    pairs = zip(kernels(network), kernels(network)[1:], strict=False)
    assert any(a.groups == a.in_channels > 1 and b.kernel_size == (1, 1) and b.groups == 1 for a, b in pairs)


def test_it_has_a_dilated_convolution(network):
    assert any(layer.dilation[0] > 1 for layer in kernels(network))


def test_it_pools_once_over_the_whole_map(network):
    pools = [module for module in network.modules() if "Pool" in type(module).__name__]
    assert len(pools) == 1
    assert isinstance(pools[0], nn.AdaptiveAvgPool2d)
    assert pools[0].output_size == 1


def test_the_bonus_network_has_no_stride():
    assert all(layer.stride == (1, 1) for layer in kernels(build_model("s7_dilated")))


def test_our_networks_pass_the_audit(network):
    assert audit(network).passed


# The listings of the five systems, as they published them: rows of torchsummary, or named layers.
LISTINGS = json.loads((Path(__file__).parent / "listings.json").read_text())


def printed_rows(name: str) -> list:
    """What torchsummary prints of a network: [type, output shape without the batch axis, parameters] a row."""
    text = io.StringIO()
    with redirect_stdout(text):
        summary(build_model(name), (3, 32, 32), device="cpu")
    rows = re.findall(r"(\w+)-\d+ +\[-1, ([\d, ]+)\] +([\d,]+)", text.getvalue())
    return [[kind, list(map(int, shape.split(","))), int(count.replace(",", ""))] for kind, shape, count in rows]


@pytest.mark.parametrize("name", [name for name in LISTINGS if "summary_rows" in LISTINGS[name]])
def test_torchsummary_prints_a_system_as_it_was_published(name):
    assert printed_rows(name) == LISTINGS[name]["summary_rows"]


def test_experiment2_has_the_layers_of_its_table():
    layers = [
        [name, type(module).__name__, sum(p.numel() for p in module.parameters())]
        for name, module in build_model("experiment2").named_modules()
        if not list(module.children())
    ]
    assert layers == LISTINGS["experiment2"]["named_layers"]


@pytest.mark.parametrize("name", LISTINGS)
def test_a_system_has_the_parameters_of_its_listing(name):
    assert sum(p.numel() for p in build_model(name).parameters()) == LISTINGS[name]["total_params"]


def test_a_number_of_numpy_s_builds_the_same_network():
    assert model_arguments(build_model("s7", width=np.float64(0.5))) == model_arguments(build_model("s7", width=0.5))
    assert type(model_arguments(build_model("s7", width=np.float64(0.5)))["width"]) is float


@pytest.mark.parametrize(("name", "own"), [("dilated_valid", 0.1), ("strided_separable", 0.02), ("transition", 0.05)])
def test_dropout_is_a_network_s_argument(name, own):
    for model, rate in ((build_model(name), own), (build_model(name, dropout=0.25), 0.25)):
        assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {rate}


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_images_with_logits(name):
    assert build_model(name, classes=7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


# How far apart the answers are that each network, with seed 0, gives to the two images of the test below.
DISTANCES = {
    "s7": 0.417,
    "s7_dilated": 0.5673,
    "s7_max": 0.402,
    "s7_mirror": 0.4136,
    "dilated_valid": 0.09677,
    "strided_separable": 0.2112,
    "experiment2": 0.1732,
    "transition": 0.2977,
    "residual": 0.7529,
}


@pytest.mark.parametrize("name", MODELS)
def test_no_network_changes_unnoticed(name):
    """Who changes one has to measure again. With another dilation or order its parameters and sizes may be the same."""
    model = build_model(name)  # in training mode, for its batch norms to keep the signal from fading
    for dropout in (module for module in model.modules() if isinstance(module, nn.Dropout)):
        dropout.eval()
    image = torch.arange(3 * 32 * 32.0).cos().view(1, 3, 32, 32)
    one, other = model(torch.cat([image, -image]))
    assert (one - other).norm().item() == pytest.approx(DISTANCES[name], rel=0.01)


S7_WIDTHS = {0.375: 27_614, 0.5: 50_862, 0.75: 113_478, 1.0: 199_922}
S7_MAX_WIDTHS = {0.375: 30_322, 0.48: 47_378, 0.75: 109_018, 1.0: 188_362}
S7_MIRROR_WIDTHS = {0.375: 27_688, 0.5: 47_378, 0.75: 102_454, 1.0: 178_458}


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [(name, *item) for name in ("s7", "s7_dilated") for item in S7_WIDTHS.items()]
    + [("s7_max", *item) for item in S7_MAX_WIDTHS.items()]
    + [("s7_mirror", *item) for item in S7_MIRROR_WIDTHS.items()],
)
def test_every_width_keeps_to_the_assignment(name, width, parameters):
    model = build_model(name, width=width)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert audit(model, RECIPES["fast"]).passed


def test_the_width_is_part_of_what_a_checkpoint_keeps():
    assert build_model("s7", width=0.5).built_as == ("s7", {"classes": 10, "width": 0.5})


@pytest.mark.parametrize("width", [0, -1, 0.1, 1e9, float("nan"), "wide", None])
def test_a_width_without_channels_or_with_too_many_is_refused(width):
    with pytest.raises(InputError, match="cannot be used"):
        build_model("s7", width=width)


@pytest.mark.parametrize("classes", [0, -1, 10**6, 2.5, True, "ten", None])
@pytest.mark.parametrize("name", ["s7", "residual"])
def test_a_number_of_classes_that_is_none_is_refused(name, classes):
    with pytest.raises(InputError, match=f"classes={classes!r} cannot be used; it is the number of logits"):
        build_model(name, classes=classes)


def test_the_same_seed_builds_the_same_weights_whatever_torch_has_drawn():
    first = build_model("s7", seed=1)
    torch.rand(5)
    again, other = build_model("s7", seed=1), build_model("s7", seed=2)
    assert torch.equal(first.c1[0][0].weight, again.c1[0][0].weight)
    assert not torch.equal(first.c1[0][0].weight, other.c1[0][0].weight)


def test_building_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    build_model("s7")
    assert torch.equal(state, torch.get_rng_state())


def test_an_unknown_network_is_answered_with_those_there_are():
    with pytest.raises(InputError, match=r"unknown model 's8'; there are: s7, s7_dilated, s7_max, "):
        build_model("s8")


def test_an_unknown_argument_is_answered_with_those_there_are():
    with pytest.raises(InputError, match="takes no argument 'depth'; it takes: classes"):
        build_model("s7", depth=3)


def test_a_separable_convolution_costs_nine_weights_a_channel_and_the_mixing():
    weights = sum(p.numel() for m in depthwise_separable(16, 32) if isinstance(m, nn.Conv2d) for p in m.parameters())
    assert weights == 9 * 16 + 16 * 32


def test_a_strided_pointwise_is_the_same_function_as_a_strided_depthwise():
    depthwise, pointwise, *_ = depthwise_separable(4, 8, stride=2)
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    strided = nn.functional.conv2d(x, depthwise.weight, stride=2, padding=1, groups=4)
    assert torch.allclose(pointwise(depthwise(x)), nn.functional.conv2d(strided, pointwise.weight), atol=1e-6)


def test_a_residual_adds_its_input():
    doubled = Residual(nn.Identity())
    assert torch.equal(doubled(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.parametrize("block", [convolution, depthwise_separable])
@pytest.mark.parametrize(
    ("arguments", "side"), [({}, 32), ({"dilation": 2}, 32), (STRIDED, 16), (dilated(4), 24), (dilated(5), 22)]
)
def test_the_size_after_a_convolution(block, arguments, side):
    assert block(3, 4, **arguments)(torch.zeros(2, 3, 32, 32)).shape == (2, 4, side, side)
