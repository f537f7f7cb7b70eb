"""The effective field: gradients worked out by hand, inside the theoretical square, and drawn as they are."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_split
from torch import nn
from trap_networks import Restless, chain, conv, filled, state

from utils import plots
from utils.auditing.effective_field import EffectiveField, effective_fields
from utils.errors import InputError
from utils.models import build_model


@pytest.fixture(scope="module")
def split():
    return tiny_split(7, "test", seed=4)


def seen(gradient: torch.Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row, first and last column with a gradient."""
    rows, columns = gradient.sum(1).nonzero().flatten(), gradient.sum(0).nonzero().flatten()
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


def test_the_gradient_of_a_plain_convolution_is_its_weights(split):
    (field,) = effective_fields(chain(filled(conv((3, 5)), 0.5)), split, ["0"])
    assert field.spans == ((15, 17), (14, 18))  # around 16, the middle of 32
    assert field.field == (3, 5)
    assert torch.allclose(field.gradient[15:18, 14:19], torch.full((3, 5), 0.5 * 3 * 3))  # 3 channels out, 3 in
    assert field.gradient.sum().item() == pytest.approx(15 * 4.5)


def test_of_a_map_that_is_not_square_the_middle_is_looked_at(split):
    (field,) = effective_fields(chain(conv((3, 5), stride=(2, 1))), split, ["0"])
    assert seen(field.gradient) == field.spans == ((15, 17), (14, 18))


def test_gradients_stay_inside_the_theoretical_field(split):
    network = build_model("dilated_valid")  # never padded: all of the square lies in the image
    for field in effective_fields(network, split, ["c1", "c2", "c3"]):
        assert seen(field.gradient) == field.spans


def test_the_field_grows_with_every_block(split):
    fields = effective_fields(build_model("s7"), split)
    assert [(field.name, field.field) for field in fields] == [
        ("c1", (5, 5)),
        ("c2", (17, 17)),
        ("c3", (57, 57)),
        ("c4", (73, 73)),
    ]
    assert fields[0].within(0.95) < fields[1].within(0.95) < fields[3].within(0.95) <= 32


def test_it_is_the_mean_over_the_images(split):
    network = chain(conv(), nn.ReLU(), conv())
    whole = effective_fields(network, split, ["2"])[0].gradient
    first = effective_fields(network, split, ["2"], images=3)[0].gradient
    single = [effective_fields(network, one(split, i), ["2"])[0].gradient for i in range(7)]
    assert torch.allclose(whole, sum(single) / 7)
    assert torch.allclose(first, sum(single[:3]) / 3)


def one(split, index):
    return replace(split, images=split.images[index : index + 1], labels=split.labels[index : index + 1])


def test_batches_do_not_change_it(split, monkeypatch):
    network = chain(conv(), nn.ReLU(), conv())
    whole = effective_fields(network, split, ["2"])[0].gradient
    monkeypatch.setattr("utils.auditing.effective_field.BATCH", 3)
    assert torch.allclose(effective_fields(network, split, ["2"])[0].gradient, whole)


def test_the_share_is_that_of_a_square_around_the_peak():
    gradient = torch.zeros(32, 32)
    gradient[10, 20] = 90.0
    gradient[12, 20] = 10.0
    field = EffectiveField("a", None, gradient)
    assert (field.within(0.9), field.within(0.91)) == (1, 5)
    assert EffectiveField("a", None, torch.ones(32, 32)).within(1.0) == 32
    assert field.field is None


def test_the_model_is_the_same_to_the_bit(split):
    network = Restless()
    before = state(network)
    effective_fields(network, split, ["a"])
    assert state(network) == before


def test_modules_that_cannot_be_asked_are_refused(split):
    with pytest.raises(InputError, match="no module 'c9'; it has c1, c1.0"):
        effective_fields(build_model("s7"), split, ["c9"])
    with pytest.raises(InputError, match="3: no map of positions comes out"):
        effective_fields(chain(conv()), split, ["0", "3"])


def test_the_picture_shows_square_heat_and_origin(split):
    figure = plots.receptive_field(build_model("s7"), split, index=2)
    assert len(figure.axes) == 2 * 4
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:4] == ["c1: 5 x 5", "c2: 17 x 17", "c3: 57 x 57", "c4: 73 x 73"]
    assert all(title.startswith("95 % within ") for title in titles[4:])
    assert figure.get_suptitle() == (
        "What the middle of each map sees; gradients over 7 test images\ntiny colours: made by the tests"
    )
    assert torch.equal(torch.as_tensor(figure.axes[0].images[0].get_array()), split.images[2].permute(1, 2, 0))
    square = figure.axes[1].patches[0]
    # the middle of 8x8 is position 4: pixel 16, and 8 pixels to each side
    assert (square.get_x(), square.get_y(), square.get_width(), square.get_height()) == (7.5, 7.5, 17, 17)
    heat = figure.axes[4].images[1].get_array()
    assert heat.max() == 1
    (field, *_) = effective_fields(build_model("s7"), split)
    assert torch.allclose(torch.as_tensor(heat) ** 2, field.gradient / field.gradient.max(), atol=1e-6)


def test_a_field_that_is_not_square_is_drawn_as_high_and_as_wide_as_it_is(split):
    figure = plots.receptive_field(chain(conv((3, 5))), split, ["0"])
    assert figure.axes[0].get_title() == "0: 3 x 5"
    for axis in figure.axes:
        (field,) = axis.patches
        assert (field.get_x(), field.get_y(), field.get_width(), field.get_height()) == (13.5, 14.5, 5, 3)


def test_the_picture_s_scale_shows_the_whole_square(split):
    figure = plots.receptive_field(build_model("s7"), split)
    left, right = figure.axes[3].get_xlim()
    square = figure.axes[3].patches[0]
    assert left <= square.get_x()
    assert square.get_x() + square.get_width() <= right


def test_of_an_only_child_its_children_are_shown(split):
    network = nn.Sequential(chain(conv(), conv(stride=2)))
    assert [field.name for field in effective_fields(network, split)] == ["0.0", "0.1"]


def test_an_only_child_that_is_a_layer_is_shown_itself(split):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, images):
            return self.conv(images).mean((2, 3))

    assert [field.name for field in effective_fields(Single(), split)] == ["conv"]


def test_a_dropout_is_no_layer_to_show(split):
    network = chain(conv(), nn.Dropout(0.1), conv(), nn.Identity())
    assert [field.name for field in effective_fields(network, split)] == ["0", "2"]


def test_the_blocks_in_a_list_are_children_as_well(split):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = conv(), nn.ModuleList([nn.Sequential(conv(), conv()), conv(stride=2)])

        def forward(self, images):
            images = self.stem(images)
            for block in self.blocks:
                images = block(images)
            return images.mean((2, 3))

    assert [field.name for field in effective_fields(Listed(), split)] == ["stem", "blocks.0", "blocks.1"]


def test_where_no_child_leaves_a_map_its_children_are_asked(split):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.ModuleList([conv(), conv()]), nn.ModuleList([conv(stride=2)])

        def forward(self, images):
            for layer in (*self.first, *self.second):
                images = layer(images)
            return images.mean((2, 3))

    assert [field.name for field in effective_fields(Listed(), split)] == ["first.0", "first.1", "second.0"]


def test_a_network_that_views_its_map_or_is_lazy_is_shown(split):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.LazyConv2d(4, 3, stride=8), nn.Linear(64, 3)

        def forward(self, images):
            return self.linear(self.conv(images).view(-1, 64))

    network = Viewing()
    assert [field.field for field in effective_fields(network, split)] == [(3, 3)]
    assert nn.parameter.is_lazy(network.conv.weight)


def test_of_many_modules_the_last_at_each_size_are_shown(split):
    network = chain(*(conv() for _ in range(6)), conv(stride=2), *(nn.ReLU() for _ in range(3)))
    assert [field.name for field in effective_fields(network, split)] == ["5", "9"]


def test_a_network_without_a_map_is_refused(split):
    with pytest.raises(InputError, match="no module of Sequential leaves a map"):
        effective_fields(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), split)
