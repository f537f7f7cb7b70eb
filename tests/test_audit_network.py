"""Depthwise, dilated, pooled, blocks, parameters: however they are written, and what only looks like it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trap_networks import Net, chain, conv, kernels, spread

from utils.audit import audit
from utils.models import build_model


def depthwise(channels=4, kernel=3, **arguments) -> nn.Conv2d:
    return conv(kernel, channels, channels, groups=channels, **arguments)


def stem(channels=4) -> nn.Conv2d:
    return conv(3, 3, channels)


def channels_last_mixing(self, x):
    x = self.b(self.a(x)).permute(0, 2, 3, 1)
    return self.mix(x).permute(0, 3, 1, 2)


def separable_by_functions(self, x):
    return F.conv2d(F.conv2d(x, self.each, padding=1, groups=3), self.mix)


def separable_aside(self, x):
    self.b(x)
    return self.a(x)


# network, whether it has a depthwise separable convolution, what is said of it
DEPTHWISE = {
    "depthwise, then 1x1": (chain(stem(), depthwise(), conv(1, 4, 4), channels=4), True, "1 depthwise separable"),
    "norm and activation between": (
        chain(stem(), depthwise(), nn.BatchNorm2d(4), nn.ReLU(), conv(1, 4, 8), channels=8),
        True,
        "1 depthwise separable",
    ),
    "two filters a channel": (chain(conv(3, 3, 6, groups=3), conv(1, 6, 6), channels=6), True, "1 depthwise separable"),
    "a column and a row": (
        chain(stem(), depthwise(kernel=(3, 1)), conv(1, 4, 4), depthwise(kernel=(1, 3)), conv(1, 4, 4), channels=4),
        True,
        "2 depthwise separable",
    ),
    "expanded, depthwise, projected": (
        chain(conv(1, 3, 6), nn.ReLU6(), depthwise(6), nn.ReLU6(), conv(1, 6, 3)),
        True,
        "1 depthwise separable",
    ),
    "the 1x1 strides": (chain(stem(), depthwise(), conv(1, 4, 4, stride=2), channels=4), True, "1 depthwise"),
    "as functions": (Net(separable_by_functions, each=kernels(3, 1, 3, 3), mix=kernels(3, 3, 1, 1)), True, "1 depth"),
    "a linear layer over the channels": (
        Net(channels_last_mixing, channels=4, a=stem(), b=depthwise(), mix=nn.Linear(4, 4)),
        True,
        "1 depthwise separable",
    ),
    "two depthwise and one 1x1": (
        chain(stem(), depthwise(), depthwise(), conv(1, 4, 4), channels=4),
        True,
        "1 depthwise separable; depthwise without a pointwise after it: 1",
    ),
    "a 3x3 after it": (
        chain(stem(), depthwise(), conv(3, 4, 4), channels=4),
        False,
        "none; depthwise without a pointwise after it: 1",
    ),
    "a 1x1 before it": (chain(conv(1, 3, 4), depthwise(), channels=4), False, "without a pointwise after it: 1"),
    "a grouped 1x1 after it": (
        chain(stem(), depthwise(), conv(1, 4, 4, groups=2), channels=4),
        False,
        "none; depthwise without a pointwise after it: 1; grouped, not depthwise: 2",
    ),
    "a 1x1 after the global average": (
        nn.Sequential(stem(), depthwise(), nn.AdaptiveAvgPool2d(1), conv(1, 4, 10), nn.Flatten()),
        False,
        "without a pointwise after it: 1",
    ),
    "a 1x1 after a sum over the map": (
        Net(lambda s, x: s.mix(s.b(x).sum((2, 3), keepdim=True)), b=conv(groups=3), mix=conv(1)),
        False,
        "without a pointwise after it: b",
    ),
    "a max-pooling between": (chain(stem(), depthwise(), nn.MaxPool2d(2), conv(1, 4, 4), channels=4), False, "without"),
    "grouped by two": (chain(stem(), conv(3, 4, 4, groups=2), conv(1, 4, 4), channels=4), False, "not depthwise: 1"),
    "one channel": (chain(conv(3, 3, 1), conv(3, 1, 1, groups=1), conv(1, 1, 4), channels=4), False, "none"),
    "one tap": (chain(stem(), depthwise(kernel=1), conv(1, 4, 4), channels=4), False, "grouped, not depthwise: 1"),
    "transposed": (
        chain(stem(), nn.ConvTranspose2d(4, 4, 3, padding=1, groups=4), conv(1, 4, 4), channels=4),
        False,
        "none",
    ),
    "a branch that leads nowhere": (
        Net(separable_aside, a=conv(), b=nn.Sequential(depthwise(3), conv(1))),
        False,
        "none",
    ),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_separable(name):
    network, passed, said = DEPTHWISE[name]
    found = audit(network)["depthwise"]
    assert found.passed is passed
    assert said in found.measured
    assert bool(found.where) is passed


DILATED = {
    "3x3": (chain(conv(dilation=2)), True, "conv 3x3 dilation 2"),
    "a row": (chain(conv((1, 3), dilation=(1, 2))), True, "conv 1x3 dilation 1x2"),
    "depthwise": (chain(conv(3, 3, 3, groups=3, dilation=4)), True, "depthwise 3x3 dilation 4"),
    "strided": (chain(conv(stride=2, dilation=2)), True, "conv 3x3 stride 2 dilation 2"),
    "as a function": (Net(lambda s, x: F.conv2d(x, s.w, dilation=3), w=kernels(3, 3, 3, 3)), True, "conv 3x3 dilation"),
    "one tap": (chain(conv(), conv(1, dilation=2)), False, "none; dilated, but of one tap: 1"),
    "a row, dilated across": (chain(conv((1, 3), dilation=(2, 1))), False, "none; dilated, but of one tap: 0"),
    "a max-pooling": (chain(nn.MaxPool2d(3, 1, 1, dilation=2)), False, "none"),
    "not at all": (chain(conv(5)), False, "none"),
    "a branch that leads nowhere": (Net(separable_aside, a=conv(), b=conv(dilation=2)), False, "none"),
}


@pytest.mark.parametrize("name", DILATED)
def test_dilated(name):
    network, passed, said = DILATED[name]
    found = audit(network)["dilated"]
    assert (found.passed, found.measured.startswith(said)) == (passed, True)
    assert bool(found.where) is passed


class Pooled(nn.Module):
    """A convolution to (N, 4, 16, 16), then a function from that to (N, features), then a linear layer."""

    def __init__(self, pool, features=4):
        super().__init__()
        self.pool, self.conv, self.fc = pool, conv(3, 3, 4, stride=2), nn.Linear(features, 10)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x)))


def in_steps(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h * w).sum(2) / (h * w)


AVERAGES = {
    "AdaptiveAvgPool2d(1)": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "AdaptiveAvgPool2d((1, 1))": nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
    "AvgPool2d over the map": nn.Sequential(nn.AvgPool2d(16), nn.Flatten()),
    "avg_pool2d of its own size": lambda x: F.avg_pool2d(x, x.shape[2:]).flatten(1),
    "avg_pool2d of a wider window": lambda x: F.avg_pool2d(x, 20, padding=2, count_include_pad=False).flatten(1),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0],
    "adaptive_avg_pool2d, squeezed": lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(),
    "mean((2, 3))": lambda x: x.mean((2, 3)),
    "mean([-1, -2])": lambda x: x.mean([-1, -2]),
    "mean, axes kept": lambda x: torch.mean(x, dim=(2, 3), keepdim=True).flatten(1),
    "mean of rows, then of columns": lambda x: x.mean(3).mean(2),
    "flattened, then mean": lambda x: x.flatten(2).mean(2),
    "viewed, then mean(-1)": lambda x: x.view(x.size(0), x.size(1), -1).mean(-1),
    "channels last": lambda x: x.permute(0, 2, 3, 1).mean((1, 2)),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 1).flatten(1),
    "sum over count": lambda x: x.sum((2, 3)) / 256,
    "sum times a fraction": lambda x: x.sum((2, 3)) * (1 / 256),
    "sum in steps": in_steps,
    "a 1x1 after it": nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(1, 4, 4), nn.Flatten()),
    "in two steps": nn.Sequential(nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}
NO_RULE = {  # for an operation before the average
    "shuffled channels": nn.ChannelShuffle(2),
    "repeated channels": lambda x: x[:, :2].repeat(1, 2, 1, 1),
    "local response norm": nn.LocalResponseNorm(2),
    "a filter in the Fourier domain": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_global_average_pooling_however_it_is_written(name):
    report = audit(Pooled(AVERAGES[name]))
    assert report["gap"].passed, report["gap"].measured
    assert len(report["gap"].where) in (1, 2)
    assert report.receptive_field == {"in two steps": (17, 17)}.get(name, (3, 3))  # 3 + 7*2: a map of 2x2 is the last
    assert report.receptive_field_with_average == (33, 33)  # 3 + 15*2
    assert report.receptive_field_method == "layer algebra and gradient footprint agree"


@pytest.mark.parametrize("name", NO_RULE)
def test_an_average_is_known_by_its_shape_where_the_algebra_cannot_follow(name):
    body = NO_RULE[name]
    assert audit(Pooled(lambda x: body(x).mean((2, 3))))["gap"].passed
    assert audit(Pooled(lambda x: body(x).amax((2, 3))))["gap"].passed is False
    assert audit(Pooled(lambda x: body(x).flatten(1), 4 * 256))["gap"].passed is False


def test_what_cannot_be_told_of_the_average_is_not_judged():
    def hidden(x):
        return F.avg_pool3d(torch.fft.irfft2(torch.fft.rfft2(x)).unsqueeze(1), (1, 16, 16)).flatten(1)

    found = audit(Pooled(hidden))["gap"]
    assert found.passed is None
    assert "the layer algebra stops where there is no rule for" in found.measured


def test_an_average_beside_what_cannot_be_followed_is_not_judged():
    pyramid = Pooled(lambda x: torch.cat([F.adaptive_avg_pool2d(x, k).flatten(1) for k in (1, 2)], 1), 4 + 16)
    found = audit(pyramid)["gap"]
    assert (found.passed, found.where) == (None, ())
    assert "the layer algebra stops where it joins pieces of a map with something else" in found.measured


NO_AVERAGES = {
    "maximum": (lambda x: x.amax((2, 3)), 4),
    "AdaptiveMaxPool2d(1)": (nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), 4),
    "flattened": (nn.Flatten(), 4 * 256),
    "averages of quarters": (nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), 16),
    "AdaptiveAvgPool2d(2)": (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 16),
    "columns only": (lambda x: x.mean(2).flatten(1), 64),
    "over the channels": (lambda x: x.mean(1).flatten(1), 256),
    "one position": (lambda x: x[:, :, 8, 8], 4),
    "a sum": (lambda x: x.sum((2, 3)), 4),
    "a sum over another count": (lambda x: x.sum((2, 3)) / 100, 4),
    "a kernel as large as the map": (nn.Sequential(nn.Conv2d(4, 4, 16), nn.Flatten()), 4),
    "average and maximum": (lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1), 8),
}


@pytest.mark.parametrize("name", NO_AVERAGES)
def test_what_is_no_global_average(name):
    pool, features = NO_AVERAGES[name]
    assert audit(Pooled(pool, features))["gap"].passed is False


def test_a_pool_that_leaves_out_positions_is_no_global_average_but_the_map_ends_there():
    report = audit(Pooled(nn.Sequential(nn.AvgPool2d(15), nn.Flatten())))
    assert report["gap"].passed is False
    assert report["gap"].measured == "none: avg_pool2d over 15x15 of 16x16 positions takes the place of the average"
    assert report.receptive_field == (3, 3)
    assert report.receptive_field_with_average == (31, 31)  # 3 + 14*2
    assert "pooling" not in report["structure"].measured
    assert "average pool 15x15" in [layer.kind for layer in report.layers]


def test_a_layer_that_is_used_in_two_places_is_named_by_that_where_it_runs():
    relu = nn.ReLU()
    report = audit(chain(nn.Sequential(conv(), relu), nn.Sequential(conv(), relu)))
    assert report["rf"].where == ("1.1",)


def test_an_average_beside_a_layer_that_takes_the_image_whole_is_not_enough():
    class WideAndDeep(Pooled):
        def forward(self, x):
            return super().forward(x) + self.wide(x.flatten(1))

    network = WideAndDeep(lambda x: x.mean((2, 3)))
    network.wide = nn.Linear(3 * 1024, 10)
    assert audit(network)["gap"].passed is False


def by_reshape(x):
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).amax((3, 5))


def by_columns(x):
    n, c, h, w = x.shape
    return F.unfold(x, 2, stride=2).view(n, c, 4, -1).amax(2).view(n, c, h // 2, w // 2)


def by_max_with_indices(x):
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).max(-1)[0]


def quarters(x):
    return [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]


def rows(x):
    return x[..., ::2, :], x[..., 1::2, :]


def by_mask(x):
    a, b = rows(x)
    larger = (a > b).to(x.dtype)
    return a * larger + b * (1 - larger)


def by_writing(x):
    a, b = rows(x)
    y, larger = a.clone(), b > a
    y[larger] = b[larger]
    return y


def in_place(x):
    a, b = rows(x)
    more, a = F.relu(b - a), a.clone()
    a += more
    return a.relu_()


def with_the_next(x):
    following = x.roll(-1, 3)
    return x + F.relu(following - x)


MAX_POOLINGS = {
    "MaxPool2d": nn.MaxPool2d(2),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "without a stride": nn.MaxPool2d(3, 1, 1),
    "adaptive": nn.AdaptiveMaxPool2d(5),
    "fractional": nn.FractionalMaxPool2d(2, output_size=9),
    "of rows": lambda x: F.max_pool1d(x.flatten(1, 2), 2).unflatten(1, (4, 16)),
    "in three dimensions": lambda x: F.max_pool3d(x.unsqueeze(1), (1, 2, 2)).squeeze(1),
    "the smallest": lambda x: -F.max_pool2d(-x, 2),
    "unfold and amax": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)),
    "unfold and max": by_max_with_indices,
    "F.unfold and amax": by_columns,
    "reshape and amax": by_reshape,
    "fmax of slices": lambda x: torch.fmax(x[..., ::2, :], x[..., 1::2, :]),
    "unfold and topk": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).topk(1)[0].squeeze(-1),
    "unfold and sort": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).sort()[0][..., -1],
    "maximum of slices": lambda x: torch.maximum(x[..., ::2, :], x[..., 1::2, :]),
    "stacked slices": lambda x: torch.stack(quarters(x)).amax(0),
    "global": lambda x: x.amax((2, 3), keepdim=True),
    "ReLU of a difference": lambda x: (lambda a, b: a + F.relu(b - a))(*rows(x)),
    "half of sum and distance": lambda x: (lambda a, b: (a + b + (a - b).abs()) / 2)(*rows(x)),
    "where the one is larger": lambda x: (lambda a, b: torch.where(a > b, a, b))(*rows(x)),
    "where the one is smaller": lambda x: (lambda a, b: torch.where(a < b, a, b))(*rows(x)),
    "of activations, from one to the other": lambda x: (lambda a, b: a.lerp(b, (b > a).to(x)))(*rows(F.relu(x))),
    "ReLU of a difference, of small values": lambda x: (lambda a, b: a + F.relu(b - a))(*rows(1e-6 * x)),
    "by a mask": by_mask,
    "by writing": by_writing,
    "in place": in_place,
    "with the next": with_the_next,
    "unfold and aminmax": lambda x: x.unfold(2, 2, 2).aminmax(dim=-1)[1],
    "cummax": lambda x: torch.stack(quarters(x)).cummax(0)[0][-1],
}


@pytest.mark.parametrize("name", MAX_POOLINGS)
def test_max_pooling_however_it_is_written(name):
    pool = MAX_POOLINGS[name]
    found = audit(Pooled(lambda x: pool(x).mean((2, 3))))["max_pooling"]
    assert (found.passed, found.measured, len(found.where)) == (False, "found", 1)


def every_other(x):
    """Each value is the larger of two, the other of which is zero."""
    even, x = torch.arange(16) % 2, F.relu(x)
    return x * even + x.roll(2, 3) * (1 - even)


NO_MAX_POOLINGS = {
    "ReLU": F.relu,
    "maximum with zero": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maxout over channels": lambda x: x.view(x.size(0), 2, 2, *x.shape[2:]).amax(2).repeat(1, 2, 1, 1),
    "the larger of two activations": lambda x: torch.maximum(F.relu(x), torch.tanh(x)),
    "the larger of two windows around the same place": lambda x: torch.maximum(x, F.avg_pool2d(x, 3, 1, 1)),
    "sorted channels": lambda x: x.permute(0, 2, 3, 1).sort(-1)[0].permute(0, 3, 1, 2),
    "average pooling": nn.AvgPool2d(2),
    "a softmax over channels": lambda x: x.softmax(1),
    "a sum of neighbours": lambda x: (lambda a, b: a + F.relu(b))(*rows(x)),
    "a sum of neighbours, of small values": lambda x: (lambda a, b: a + F.relu(b))(*rows(1e-6 * x)),
    "a gate of neighbours": lambda x: (lambda a, b: a * (b > a))(*rows(x)),
    "the largest of the same place": lambda x: (lambda a, b: a + F.relu(b - a))(F.relu(x), torch.tanh(x)),
    "every other position and its neighbour": every_other,
    "a maximum that one of the two always is": lambda x: (lambda a, b: a - 99 + F.relu(b - (a - 99)))(*rows(x)),
}


@pytest.mark.parametrize("name", NO_MAX_POOLINGS)
def test_what_is_no_max_pooling(name):
    body = NO_MAX_POOLINGS[name]
    assert audit(Pooled(lambda x: body(x).mean((2, 3))))["max_pooling"].passed


def test_a_max_pooling_that_leads_nowhere_is_none():
    assert audit(Net(separable_aside, a=conv(), b=nn.MaxPool2d(2)))["max_pooling"].passed


class Filter(nn.Module):
    """What the layer algebra has no rule for."""

    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x))


def thinned(self, x):
    """The shortcut of a residual block that reduces: no convolution, but every other pixel."""
    return self.rest(F.relu(self.reducing(x)) + x[..., ::2, ::2])


def thinned_and_convolved(self, x):
    return self.rest(F.relu(self.reducing(x)) + self.beside(x[..., ::2, ::2]))


def unfolded(self, x):
    return self.rest((self.weight @ F.unfold(x, 3, padding=1, stride=2)).view(-1, 3, 16, 16))


def averaged(self, x):
    return self.rest(F.relu(self.reducing(x)) + self.beside(F.avg_pool2d(x, 2)))


HALF = {"stride": 2}
SHORTER = {"dilation": 4, "padding": 0}
MIRRORED = {"dilation": 4, "padding_mode": "reflect"}
WRAPPED = {"dilation": 4, "padding_mode": "circular"}


def blocks(*reducing, at_end=True) -> list[nn.Module]:
    """Blocks of two convolutions; each dict is how one of them ends (or how the next begins), and one block follows."""
    layers = [conv()] if at_end else [conv(), conv()]
    for arguments in reducing:
        layers += [conv(**arguments), nn.ReLU(), conv()]
    return layers


STRUCTURES = {
    "strides at the end": (chain(*blocks(HALF, HALF, HALF)), True, "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4"),
    "dilated, not padded": (chain(*blocks(SHORTER, SHORTER, SHORTER)), True, "C1 32 > 24, C2 24 > 16, C3 16 > 8, C4 8"),
    "dilated, not padded, beside dilated and padded by reflection": (
        chain(*blocks(MIRRORED, SHORTER, SHORTER, SHORTER, MIRRORED)),
        True,
        "C1 32 > 24, C2 24 > 16, C3 16 > 8, C4 8",
    ),
    "dilated, not padded, beside dilated and padded around the corner": (
        chain(*blocks(WRAPPED, SHORTER, SHORTER, SHORTER, WRAPPED)),
        True,
        "C1 32 > 24, C2 24 > 16, C3 16 > 8, C4 8",
    ),
    "padded by layers of their own": (
        chain(conv(), *[layer for _ in range(3) for layer in (nn.ZeroPad2d(1), conv(stride=2, padding=0), conv())]),
        True,
        "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4",
    ),
    "strides, after a dilation that trims the map": (
        chain(conv(**SHORTER), *blocks(HALF, HALF, HALF)),
        True,
        "C1 32 > 12, C2 12 > 6, C3 6 > 3, C4 3",
    ),
    "a last block that reduces too": (
        chain(*blocks(HALF, HALF, HALF)[:-1], conv(stride=2)),
        True,
        "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4 > 2",
    ),
    "strides at the beginning": (chain(*blocks(HALF, HALF, HALF, HALF)[1:]), True, "four blocks"),
    "height and width apart": (chain(*blocks({"stride": (2, 1)}, HALF, HALF)), True, "C1 32 > 16x32"),
    "separable, the depthwise part strides": (
        chain(*[layer for _ in range(4) for layer in (conv(), conv(groups=3, stride=2), conv(1))]),
        True,
        "C4 4 > 2",
    ),
    "three": (chain(*blocks(HALF, HALF)), False, "3 blocks"),
    "five": (chain(*blocks(HALF, HALF, HALF, HALF)), False, "5 blocks"),
    "one": (chain(conv()), False, "1 block "),
    "dilated, padded by reflection": (chain(*blocks(MIRRORED, MIRRORED, MIRRORED)), False, "1 block (C1 32)"),
    "dilated, padded around the corner": (chain(*blocks(WRAPPED, WRAPPED, WRAPPED)), False, "1 block (C1 32)"),
    "unpadded, not dilated, not strided": (chain(conv(padding=0), conv(padding=0), conv(padding=0)), False, "1 block"),
    "max-pooling between": (chain(*blocks(HALF, HALF, HALF)[:-1], nn.MaxPool2d(2), conv()), False, "pooling in 9"),
    "average pooling between": (chain(conv(), nn.AvgPool2d(2), *blocks(HALF, HALF, HALF)), False, "pooling in 1"),
    "slices": (
        Net(lambda s, x: s.b(s.a(x)[..., ::2, ::2]), a=conv(), b=nn.Sequential(*blocks(HALF, HALF, HALF))),
        False,
        "reduced without a convolution in forward",
    ),
    "slices beside a convolution that strides": (
        Net(thinned, reducing=conv(stride=2), rest=nn.Sequential(conv(), *blocks(HALF, HALF))),
        True,
        "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4",
    ),
    "slices beside a convolution that strides, with convolutions of their own": (
        Net(
            thinned_and_convolved,
            reducing=conv(stride=2),
            beside=conv(),
            rest=nn.Sequential(conv(), *blocks(HALF, HALF)),
        ),
        False,
        "reduced without a convolution in forward",
    ),
    "windows of F.unfold and a product": (
        Net(unfolded, weight=kernels(3, 27), rest=nn.Sequential(conv(), *blocks(HALF, HALF))),
        False,
        "reduced without a convolution in forward",
    ),
    "average pooling beside a convolution that strides": (
        Net(averaged, reducing=conv(stride=2), beside=nn.Identity(), rest=nn.Sequential(conv(), *blocks(HALF, HALF))),
        True,
        "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4",
    ),
    "average pooling and a 1x1 beside a convolution that strides": (
        Net(averaged, reducing=conv(stride=2), beside=conv(1), rest=nn.Sequential(conv(), *blocks(HALF, HALF))),
        True,
        "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4",
    ),
    "average pooling and a 3x3 beside a convolution that strides": (
        Net(averaged, reducing=conv(stride=2), beside=conv(), rest=nn.Sequential(conv(), *blocks(HALF, HALF))),
        False,
        "pooling in forward",
    ),
    "average pooling of the image": (chain(nn.AvgPool2d(2), *blocks(HALF, HALF, HALF)), False, "pooling in 0"),
    "interpolation of the image": (
        chain(nn.Upsample(scale_factor=0.5), *blocks(HALF, HALF, HALF)),
        False,
        "reduced without a convolution in 0",
    ),
    "average pooling where the algebra cannot follow": (
        chain(conv(), Filter(), nn.AvgPool2d(2), *blocks(HALF, HALF, HALF)),
        False,
        "pooling in 2",
    ),
    "an average that is spread over the map again": (
        Net(lambda s, x: s.c(spread(s, x)), a=conv(), b=conv(inputs=6), c=nn.Sequential(*blocks(HALF, HALF, HALF))),
        True,
        "C1 32 > 16, C2 16 > 8, C3 8 > 4, C4 4",
    ),
    "interpolation": (
        chain(conv(), nn.Upsample(scale_factor=0.5), *blocks(HALF, HALF, HALF)),
        False,
        "reduced without a convolution in 1",
    ),
    "down and up again": (
        chain(*blocks(HALF, HALF, HALF), nn.ConvTranspose2d(3, 3, 2, 2)),
        False,
        "it enlarges its map again",
    ),
    "a map for an answer": (nn.Sequential(*blocks(HALF, HALF, HALF)), False, "no output block"),
    "a convolution that leads nowhere": (
        Net(separable_aside, a=nn.Sequential(*blocks(HALF, HALF, HALF)), b=conv(stride=2)),
        True,
        "four blocks",
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure(name):
    network, passed, said = STRUCTURES[name]
    found = audit(network)["structure"]
    assert found.passed is passed, found.measured
    assert said in found.measured
    assert found.measured.startswith("four blocks" if passed else "other")


def test_the_bonus_wants_dilation_and_neither_strides_nor_pools():
    dilated = blocks(SHORTER, SHORTER, SHORTER)
    assert audit(chain(*dilated))["bonus"].passed
    assert audit(chain(*dilated, conv(stride=2)))["bonus"].measured == "strided convolutions"
    assert audit(chain(*dilated, nn.AvgPool2d(2)))["bonus"].where == ("10",)
    assert audit(chain(*dilated, nn.MaxPool2d(2)))["bonus"].measured == "pooling"
    unshuffled = audit(chain(*dilated, nn.PixelUnshuffle(2), conv(1, 12)))["bonus"]
    assert (unshuffled.measured, unshuffled.where) == ("reduced without a convolution", ("10",))
    assert audit(chain(conv(), conv()))["bonus"].measured == "nothing dilated"


def test_the_bonus_is_optional():
    report = audit(build_model("s7"))
    assert report["bonus"].passed is False
    assert report.passed


def parameters(network) -> tuple[int, int]:
    report = audit(network)
    return report.parameters, report.trainable_parameters


def test_parameters_of_a_shared_module_count_once():
    shared = conv()
    report = audit(chain(shared, nn.ReLU(), shared))
    assert report.parameters == 3 * 3 * 9 + 3 + 40
    assert report["params"].measured == "124; torchsummary says 208"  # 84 of them twice


def test_tied_weights_count_once():
    first, second = conv(bias=False), conv(bias=False)
    second.weight = first.weight
    assert parameters(chain(first, second)) == (81 + 40, 81 + 40)


def test_bare_parameters_count():
    network = Net(lambda s, x: s.a(x) * s.scale, a=conv(), scale=nn.Parameter(torch.ones(3, 1, 1)))
    report = audit(network)
    assert report.parameters == 84 + 40 + 3
    assert report["params"].measured == "127; torchsummary says 124"
    assert report["params"].where == ("scale",)


def test_layers_in_a_plain_list_count_and_are_named():
    def body(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    network = Net(body, a=conv())
    network.layers = [conv(3, 3, 100), conv(3, 100, 3)]
    found = audit(network)["params"]
    assert found.measured.startswith("124; besides 5,503 in layers that it does not know, as in a plain list")
    network.layers = [conv(3, 3, 4000), conv(3, 4000, 3)]
    assert audit(network)["params"].passed is False


def test_frozen_parameters_count_and_are_told_apart():
    network = chain(conv(), conv())
    network[0].requires_grad_(False)
    report = audit(network)
    assert (report.parameters, report.trainable_parameters) == (84 + 84 + 40, 84 + 40)
    assert report["params"].measured == "208, 124 of them trainable"


def test_buffers_do_not_count_and_unused_modules_do():
    network = Net(separable_aside, a=nn.BatchNorm2d(3), b=conv())
    assert parameters(network) == (6 + 84 + 40, 6 + 84 + 40)


def stacked_by_hand(self, x):
    out = torch.zeros(x.size(0), 200, x.size(2), x.size(3), dtype=x.dtype)
    out[:, :100], out[:, 100:] = self.a(x), self.b(x)
    return self.c(out)


def test_maps_that_are_written_into_tensors_are_no_weights():
    wide = {"a": conv(outputs=100), "b": conv(outputs=100), "c": conv(1, 200)}
    assert audit(Net(stacked_by_hand, **wide))["params"].measured == f"{2 * 2800 + 603 + 40:,}"
    assert audit(chain(conv(padding_mode="circular")))["params"].measured == f"{84 + 40}"


def test_lazy_layers_count_with_the_sizes_that_an_image_gives_them():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = audit(network)
    assert report.parameters == 4 * 27 + 4 + 8
    assert "once its lazy layers have seen an image" in report["params"].measured
    assert report.receptive_field == (3, 3)
    assert all(nn.parameter.is_lazy(p) for p in network.parameters())


@pytest.mark.parametrize(("count", "passed"), [(199_999, True), (200_000, False)])
def test_the_limit_of_parameters_is_strict(count, passed):
    network = Net(lambda s, x: s.a(x) + s.rest[0], a=conv(), rest=nn.Parameter(torch.zeros(count - 84 - 40)))
    assert (audit(network).parameters, audit(network)["params"].passed) == (count, passed)
