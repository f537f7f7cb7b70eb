"""Networks as students and cheats write them, each of which an earlier audit misjudged."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trap_networks import Net, chain, conv

from utils.audit import audit
from utils.models import build_model


def separable() -> nn.Sequential:
    return nn.Sequential(conv(groups=3, dilation=2), conv(1))


# 1: branches without effect

WITHOUT_EFFECT = {
    "times zero": lambda a, b: a + 0 * b,
    "stacked, not selected": lambda a, b: torch.stack([a, b])[0],
    "concatenated, cut off": lambda a, b: torch.cat([a, b], 1)[:, :3],
    "its shape alone": lambda a, b: a + torch.zeros_like(b),
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_branch_that_changes_nothing_of_the_answer_is_none(name):
    join = WITHOUT_EFFECT[name]
    report = audit(Net(lambda s, x: join(s.a(x), s.b(x)), a=conv(), b=separable()))
    assert (report["depthwise"].passed, report["dilated"].passed) == (False, False)


def test_a_branch_behind_a_learned_zero_is_one():
    gain = nn.Parameter(torch.zeros(1))
    report = audit(Net(lambda s, x: s.a(x) + s.gain * s.b(x), a=conv(), b=separable(), gain=gain))
    assert (report["depthwise"].passed, report["dilated"].passed) == (True, True)


def test_convolutions_before_a_weight_that_is_rounded_are_not_idle():
    network = chain(conv(), separable())
    nn.utils.parametrizations.orthogonal(network[-1])  # 10 by 3: the signs of its diagonal are whole numbers
    report = audit(network)
    assert (report["depthwise"].passed, report["dilated"].passed) == (True, True)


# 2: functions that know the model


def wrapped():
    model = build_model("s7").train()
    forward = model.forward
    model.forward = lambda x: forward(x)
    return model


def lambda_shortcut():
    model = Net(lambda s, x: s.a(x) + s.skip(x), a=conv(), b=conv(1), norm=nn.BatchNorm2d(3))
    model.skip = lambda x: model.norm(model.b(x))
    return model.train()


def hooked():
    model = Net(lambda s, x: s.a(x), a=conv())
    model.seen = {}
    model.a.register_forward_hook(lambda module, inputs, output: model.seen.update(a=output))
    return model


def with_defaults():
    model = Net(lambda s, x: s.skip(s.a(x)), a=conv(), norm=nn.BatchNorm2d(3))
    model.skip = lambda x, times=2, *, more=1: model.norm(x) * times + more
    return model.train()


def by_a_global_name():
    names = {"model": Net(lambda s, x: s.skip(s.a(x)), a=conv(), norm=nn.BatchNorm2d(3))}
    exec("model.skip = lambda x: model.norm(x)", names)
    return names["model"].train()


@pytest.mark.parametrize("make", [wrapped, lambda_shortcut, hooked, with_defaults, by_a_global_name])
def test_functions_that_know_the_model_know_the_copy(make):
    model = make()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    report = audit(model)
    assert "does not know" not in report["params"].measured
    assert report.receptive_field_method == "layer algebra and gradient footprint agree"
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert not getattr(model, "seen", {})


@pytest.mark.parametrize("keep", [lambda y: {"y": y}, lambda y: [y]])
def test_activations_that_a_network_keeps_are_no_hindrance(keep):
    def body(self, x):
        y = self.a(x)
        self.kept = keep(y)
        return y

    model = Net(body, a=conv())
    model(torch.ones(1, 3, 32, 32))
    assert audit(model).receptive_field == (3, 3)


# 3: torch.jit.trace


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network_is_judged_as_it_was_written():
    model = build_model("s7").eval()
    traced = audit(torch.jit.trace(model, torch.ones(1, 3, 32, 32)))
    assert [r.passed for r in traced.requirements] == [r.passed for r in audit(model).requirements]
    assert traced["params"].measured == "199,922"  # of what torchsummary says nothing: it cannot run it


# 4: weights that are no parameters


@pytest.mark.parametrize("kind", ["attribute", "buffer"])
def test_weights_that_are_no_parameters_count(kind):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            first, second = torch.randn(4000, 3, 3, 3), torch.randn(3, 4000, 3, 3)
            if kind == "buffer":
                self.register_buffer("first", first)
                self.register_buffer("second", second)
            else:
                self.first, self.second = first.requires_grad_(), second.requires_grad_()

        def forward(self, x):
            return F.conv2d(F.relu(F.conv2d(x, self.first, stride=8)), self.second)

    found = audit(chain(Hidden()))["params"]
    assert found.passed is False
    assert found.measured.startswith("40; besides 216,000 weights that are no parameters")


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: x[:, 0] @ w[0],
        lambda x, w: torch.addmm(x[0, :, :210], x[0], w[0]),
        torch.bmm,
        lambda x, w: torch.baddbmm(x[..., :210], x, w),
    ],
)
def test_numbers_that_a_product_multiplies_by_count(multiply):
    numbers = torch.randn(1, 1024, 210)
    found = audit(Net(lambda s, x: s.a(x) + multiply(x.flatten(2), numbers).mean(), a=conv()))["params"]
    assert found.measured.startswith("124; besides 215,040 weights that are no parameters")


# 5: dilated, padded by one, among strides


def test_dilation_that_trims_the_map_between_strides_ends_no_block():
    trims = nn.Conv2d(3, 3, 3, padding=1, dilation=2)
    found = audit(chain(conv(), conv(stride=2), conv(), conv(stride=2), trims, conv(stride=2), conv(), conv()))
    assert found["structure"].measured == "four blocks: C1 32 > 16, C2 16 > 8, C3 8 > 3, C4 3"


# 6: where the algebra cannot follow


ROUND = {"padding": 1, "padding_mode": "circular"}


def three_strides() -> nn.Sequential:
    return nn.Sequential(*[layer for _ in range(3) for layer in (conv(), conv(stride=2))], conv())


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_map_that_is_resized_where_the_algebra_cannot_follow_is_seen(factor):
    def body(self, x):
        return self.rest(F.interpolate(self.a(x), scale_factor=factor))

    network = Net(body, a=nn.Conv2d(3, 3, 3, **ROUND), rest=three_strides())
    assert audit(network)["structure"].passed is False


def windows(x):
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)


def test_a_maximum_where_the_algebra_cannot_follow_is_not_passed():
    network = Net(lambda s, x: windows(s.a(x)).amax(-1), a=nn.Conv2d(3, 3, 3, **ROUND))
    assert audit(network)["max_pooling"].passed is None


MAXIMA = {
    "shuffled channels": lambda x: windows(F.channel_shuffle(x, 2)).amax(-1),
    "channels in another order": lambda x: windows(x[:, [2, 0, 3, 1]]).amax(-1),
    "repeated channels": lambda x: windows(x[:, :2].repeat(1, 2, 1, 1)).amax(-1),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2).unflatten(1, (4, 4)).amax(2),
    "cummax of windows": lambda x: windows(x).cummax(-1)[0][..., -1],
    "infinite norm": lambda x: torch.linalg.vector_norm(windows(F.relu(x)), ord=torch.inf, dim=-1),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_more_ways_to_write_max_pooling(name):
    pool = MAXIMA[name]
    assert audit(Net(lambda s, x: pool(s.a(x)), channels=4, a=conv(3, 3, 4)))["max_pooling"].passed is False


# 7: footprints that see less than there is


def test_a_crop_of_fixed_size_leaves_the_algebra():
    report = audit(Net(lambda s, x: s.a(x[..., 1:31, 1:31]), a=nn.Sequential(*[conv(5) for _ in range(12)])))
    assert report.receptive_field == (49, 49)  # 1 + 12*4


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < 0.01)


def test_gradients_of_the_network_s_own_making_are_no_evidence():
    report = audit(Net(lambda s, x: s.b(Sign.apply(s.a(x))), a=conv(), b=conv()))
    assert report.receptive_field == (5, 5)
    assert report.receptive_field_method == "layer algebra alone: Sign has a gradient of its own making"


# 8: averages

AVERAGES = {
    "sum of rows, then of columns": lambda x: x.sum(-1).sum(-1) / (x.shape[2] * x.shape[3]),
    "sum of rows, then of columns, of small values": lambda x: (1e-6 * x).sum(-1).sum(-1) / 256,
    "sum and mean": lambda x: x.sum(3).mean(2) / x.shape[3],
    "a tensor for the count": lambda x: x.sum((2, 3)) / torch.tensor(256.0),
    "a product with a constant": lambda x: x.flatten(2) @ x.new_full((256, 1), 1 / 256) @ x.new_ones(1, 1),
    "einsum": lambda x: torch.einsum("nchw,hw->nc", x, torch.full((16, 16), 1 / 256)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_more_ways_to_write_the_average(name):
    pool = AVERAGES[name]

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = conv(stride=2), nn.Linear(3, 10)

        def forward(self, x):
            return self.fc(pool(self.a(x)).flatten(1))

    assert audit(Pooled())["gap"].passed


# 9: dilation without effect


def test_taps_that_are_further_apart_than_the_map_is_wide_are_no_dilation():
    found = audit(chain(*[conv(stride=2) for _ in range(4)], conv(dilation=2)))["dilated"]
    assert found.measured == "none; dilated, but of one tap: 4"


# 10: crashes


class Applies(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = conv()

    def apply(self, x):
        return self.a(x)

    def forward(self, x):
        return self.apply(x)


def test_a_method_named_apply_and_a_parameter_without_numbers():
    assert audit(chain(Applies())).receptive_field == (3, 3)
    assert audit(Net(lambda s, x: s.a(x), a=conv(), none=nn.Parameter(torch.empty(0, 3)))).receptive_field == (3, 3)


def test_a_module_that_fails_and_is_caught_gives_nothing_its_name():
    def body(self, x):
        try:
            self.bad(x)
        except RuntimeError:
            return self.a(x)

    layers = audit(Net(body, a=conv(), bad=nn.Linear(7, 7))).layers
    assert [layer.name for layer in layers] == ["a", "forward", "fc"]
