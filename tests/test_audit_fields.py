"""Receptive fields: worked by hand, found in two ways that agree, or a reason."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from trap_networks import FIELDS, Net, chain, conv

from benchmarks.audit_random import audited, random_network
from utils.audit import audit
from utils.models import build_model

AGREE = "layer algebra and gradient footprint agree"
DOUBTED = {
    "padding around the corner": "gradient footprint alone: the layer algebra stops where a part of a map is written",
    "the median of four": "gradient footprint alone: the layer algebra stops where there is no rule for median",
    "columns in a computed order": "gradient footprint alone: the layer algebra stops where there is no rule for index",
    "arguments by their names": "gradient footprint alone: the layer algebra stops where there is no rule for kthvalue",
    "a mask over the kernel": "gradient footprint 2x3, which is trusted because the network itself was run; the layer "
    "algebra says 3x3",
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", FIELDS)
def test_the_field_is_the_one_worked_by_hand(name):
    network, field = FIELDS[name]
    report = audit(network)
    assert report.receptive_field == field
    assert report.receptive_field_method.startswith(DOUBTED.get(name, AGREE))


# before the global average: that of its last map
@pytest.mark.parametrize(
    ("name", "before", "with_average"),
    [
        ("dilated_valid", 25, 32),
        ("strided_separable", 25, 49),  # 45 was claimed
        ("experiment2", 67, 95),
        ("transition", 119, 135),
        ("residual", 105, 129),
        ("s7", 73, 97),
        ("s7_dilated", 45, 48),
    ],
)
def test_fields_of_the_five_systems_and_ours(name, before, with_average):
    report = audit(build_model(name))
    assert report.receptive_field == (before, before)
    assert report.receptive_field_with_average == (with_average, with_average)
    assert report.receptive_field_method == AGREE
    assert report["rf"].passed is (before > 44)


@pytest.mark.parametrize("seed", range(60))
def test_both_ways_agree_on_random_networks(seed):
    assert audited(seed).receptive_field_method == AGREE, random_network(seed)


# vgg11 150 and resnet18 435: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks",
# Distill, 2019. densenet121, googlenet, convnext_tiny by hand: a block of n kernels k at jump j adds n (k - 1) j.
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("vgg11", 150),
        ("resnet18", 435),
        ("mobilenet_v3_small", 639),
        # 7, 11 | 6 at j = 4: 59, pool 63 | 12 at 8: 255, 263 | 24 at 16: 1031, 1047 | 16 at 32
        ("densenet121", 2071),
        # 7, 11, 19, 27 | 2 at j = 8: 59, pool 75 | 5 at 16: 235, 251 | 2 at 32 (torchvision's 5x5 are 3x3)
        ("googlenet", 379),
        # 4 | 3 at j = 4: 76, 80 | 3 at 8: 224, 232 | 9 at 16: 1096, 1112 | 3 at 32
        ("convnext_tiny", 1688),
    ],
)
def test_networks_of_torchvision(name, field):
    untrained = {"init_weights": False} if name in ("vgg11", "googlenet") else {}
    network = getattr(torchvision.models, name)(**untrained)
    if name == "vgg11":  # its three linear layers, 124 million parameters, come after the field and cost seconds
        network.classifier = nn.Linear(512 * 7 * 7, 10)
    report = audit(network, input_shape=(3, 224, 224))
    assert report.receptive_field == (field, field)
    assert report.receptive_field_method == AGREE


def test_the_layer_table_has_output_field_and_jump_of_every_layer():
    # 1 + 2 = 3; strided: 3 + 2 = 5; then every step is two pixels, dilation 2: 5 + 2*2*2 = 13 (Araujo et al. 2019)
    network = chain(conv(), nn.BatchNorm2d(3), nn.ReLU(), conv(stride=2), conv(dilation=2))
    assert str(audit(network).layers) == (
        "layer  kind                 output   field  jump\n"
        "0      conv 3x3             3x32x32  3x3    1x1\n"
        "3      conv 3x3 stride 2    3x16x16  5x5    2x2\n"
        "4      conv 3x3 dilation 2  3x16x16  13x13  2x2\n"
        "5      global average       3x1x1    43x43  -\n"  # 13 + 15*2
        "7      linear               10       43x43  -"
    )


def test_the_layer_table_names_every_kind():
    network = chain(
        conv(3, 3, 6, groups=3),
        conv(1, 6, 6),
        conv((1, 3), 6, 6, groups=2, stride=(1, 2)),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=4),
        nn.AvgPool2d(2, 1),
        nn.ConvTranspose2d(6, 6, 3, 2),
        channels=6,
    )
    layers = audit(network).layers
    assert (layers[4].to_dict()["jump"], layers[6].to_dict()["jump"]) == ([0.5, 1], [0.25, 0.5])
    rows = [(layer.kind, layer.jump and tuple(map(float, layer.jump))) for layer in layers]
    assert rows == [
        ("depthwise 3x3", (1, 1)),
        ("pointwise 1x1", (1, 1)),
        ("grouped (2) 1x3 stride 1x2", (1, 2)),
        ("max pool 2x2", (2, 4)),
        ("upsampling", (0.5, 1)),
        ("average pool 2x2", (0.5, 1)),
        ("transposed 3x3 stride 2", (0.25, 0.5)),
        ("global average", None),
        ("linear", None),
    ]


@pytest.mark.parametrize("kernel", [16, 11])
def test_both_ways_see_that_no_map_is_left_of_a_max_pooling_with_one_window(kernel):
    report = audit(nn.Sequential(conv(stride=2), conv(), nn.MaxPool2d(kernel), nn.Flatten(), nn.Linear(3, 10)))
    assert report.receptive_field == (7, 7)
    assert report.receptive_field_method == AGREE


def test_averages_inside_are_said_and_do_not_count():
    network, field = FIELDS["a gate over channels"]
    found = audit(network)["rf"]
    assert found.measured.startswith("5x5 before the global average")
    assert "besides, all of the image through averages inside (forward)" in found.measured


@pytest.mark.parametrize(("kernel", "passed"), [(22, False), (23, True)])
def test_the_field_must_be_above_44_on_both_sides(kernel, passed):
    report = audit(chain(nn.Conv2d(3, 3, 23, padding=11), nn.Conv2d(3, 3, (23, kernel), padding=11)))
    assert report.receptive_field == (45, 22 + kernel)
    assert report["rf"].passed is passed


def test_a_network_without_a_map_has_no_field():
    report = audit(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    assert report.receptive_field is report.to_dict()["receptive_field"] is None
    assert report["rf"].passed is None
    assert "there is no map of positions" in report["rf"].measured


def test_an_operation_without_a_rule_leaves_the_footprint():
    report = audit(Net(lambda s, x: F.fold(F.unfold(s.a(x), 2, stride=2), x.shape[2:], 2, stride=2), a=conv()))
    assert report.receptive_field_method.startswith("gradient footprint alone: the layer algebra stops where")


def test_a_network_of_one_image_size_leaves_the_algebra():
    network = Net(lambda s, x: s.a(x) + s.position, a=conv(), position=nn.Parameter(torch.zeros(1, 3, 32, 32)))
    report = audit(network)
    assert report.receptive_field == (3, 3)
    assert report.receptive_field_method.startswith((AGREE, "layer algebra alone: the network does not take an image"))


@pytest.mark.parametrize("asks", [lambda x: x.mean() > 0, lambda x: not torch.equal(x, x - 1)])
def test_a_path_that_depends_on_the_values_is_said(asks):
    report = audit(Net(lambda s, x: s.a(x) if asks(x) else s.b(x), a=conv(), b=conv(5)))
    assert report.receptive_field == (3, 3)
    assert report.receptive_field_method.endswith("its path depends on the values of the image: judged for one image")


def test_what_lies_only_in_the_padding_still_counts():
    # two taps, 100 rows apart: on an image this low both lie in the padding, wherever the kernel stands
    low = nn.Conv2d(3, 3, (2, 4), dilation=(100, 2), padding=(50, 3))
    report = audit(chain(low), input_shape=(3, 18, 45))
    assert report.receptive_field == (101, 7)
    assert report.receptive_field_method == AGREE


def test_a_branch_that_leads_nowhere_is_no_row_of_the_layer_table():
    network, _ = FIELDS["a branch that leads nowhere"]
    assert [layer.name for layer in audit(network).layers] == ["a", "forward", "fc"]
