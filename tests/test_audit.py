"""The limits, on networks small enough to work out by hand."""

import torch
from torch import nn

from utils.audit import check_limits, layer_table
from utils.models import build_model


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def verdicts(model: nn.Module) -> dict[str, bool]:
    return {limit.id: limit.passed for limit in check_limits(model)}


def test_fields_of_plain_strided_and_dilated_convolutions():
    # 1 + 2 = 3; strided: 3 + 2 = 5; then every step is two pixels, dilation 2: 5 + 2*2*2 = 13 (Araujo et al. 2019)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, dilation=2, padding=2),
        *head(4),
    )
    assert [layer.receptive_field for layer in layer_table(model)] == [3, 5, 13, None]


def test_a_branch_counts_with_its_longest_path():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.short, self.long = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 7, padding=3)
            self.after, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(*head(3))

        def forward(self, x):
            return self.head(self.after(self.short(x) + self.long(x)))

    assert [layer.receptive_field for layer in layer_table(Branch())] == [1, 7, 9, None]


def test_a_field_wider_than_the_first_probe_is_measured_whole():
    model = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=16, dilation=16) for _ in range(4)], *head(3))
    assert layer_table(model)[3].receptive_field == 129


def test_negative_weights_do_not_hide_a_part_of_the_field():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *head(4))
    with torch.no_grad():
        model[0].weight.fill_(-1)
    assert layer_table(model)[0].receptive_field == 3


def test_the_network_is_left_as_it_was():
    model = build_model("s7").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_limits(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_max_pooling_is_found():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), *head(4))
    assert not verdicts(model)["max_pooling"]


def test_depthwise_without_a_pointwise_after_it_is_not_separable():
    lonely = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 3), *head(6))
    proper = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1), *head(6))
    assert not verdicts(lonely)["depthwise"]
    assert verdicts(proper)["depthwise"]


def test_the_demands_are_strict():
    just = nn.Sequential(nn.Conv2d(3, 1, 22, padding=11), nn.Conv2d(1, 1, 23, padding=11), *head(1))
    assert [limit.measured for limit in check_limits(just) if limit.id == "rf"] == ["44"]
    assert not verdicts(just)["rf"]


def test_blocks_are_the_sizes_of_the_map():
    three = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), *head(4))
    assert not verdicts(three)["structure"]
    assert verdicts(build_model("s7"))["structure"]


def test_the_table_names_what_failed():
    text = str(check_limits(nn.Sequential(nn.Conv2d(3, 4, 3), *head(4))))
    assert "rf           more than 44" in text
    assert "FAILED" in text
