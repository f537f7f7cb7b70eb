"""Kernels that stay equal to their mirror images."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_network
from torch import nn

from utils.engine import fit, suited, why_not_imposed
from utils.errors import InputError
from utils.models import MODELS, build_model
from utils.recipes import OPTIMIZERS
from utils.symmetry import MirrorSymmetry, mirrored, why_not_symmetric
from utils.trainer import Trainer

CPU = torch.device("cpu")
WHOLE = [name for name in MODELS if name != "s7_mirror"]  # which has a parameter for one of two kernels only
ODD = 33  # pixels a side: strides then meet the same pixels in the mirror image


def some_images(count: int = 4, side: int = ODD) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def kernel(model: nn.Module) -> torch.Tensor:
    return next(m.weight for m in model.c3.modules() if isinstance(m, nn.Conv2d))


def symmetric(name: str) -> nn.Module:
    model = build_model(name)
    MirrorSymmetry(model).impose()
    return model


@pytest.mark.parametrize("name", ["s7", "s7_dilated", "s7_max"])
def test_an_image_and_its_mirror_image_get_the_same_answer(name):
    images = some_images()
    assert not torch.allclose(build_model(name).eval()(images), build_model(name).eval()(images.flip(3)), atol=1e-4)
    model = symmetric(name).eval()
    torch.testing.assert_close(model(images), model(images.flip(3)), rtol=1e-4, atol=1e-6)


def test_the_averaged_gradient_is_that_of_images_and_mirror_images():
    images, labels = some_images(), torch.arange(4)
    model = symmetric("s7").eval()  # batch norm would mix the images of a batch
    F.cross_entropy(model(torch.cat([images, images.flip(3)])), labels.repeat(2)).backward()
    both = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    MirrorSymmetry(model).average_gradients()
    for parameter, expected in zip(model.parameters(), both, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)


def test_frozen_weights_stay_without_a_gradient():
    model = symmetric("s7")
    frozen = next(model.parameters()).requires_grad_(False)
    F.cross_entropy(model(some_images()), torch.arange(4)).backward()
    MirrorSymmetry(model).average_gradients()
    assert frozen.grad is None
    second = model.c1[1][0].weight.grad
    assert torch.equal(second, mirrored(second))


def test_averaged_gradients_are_mirror_images_to_the_bit():
    """Adam would make as much of a rounding error, where both sides all but cancel, as of a gradient."""
    model = build_model("s7")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    MirrorSymmetry(model).average_gradients()
    *hidden, head, bias = (parameter.grad for parameter in model.parameters())
    for gradient in hidden:
        assert torch.equal(gradient, mirrored(gradient))
    assert torch.equal(head, mirrored(head, pairs=False))
    assert torch.equal(bias, mirrored(bias, pairs=False))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_symmetric_stays_so_while_it_learns(recipe, optimizer):
    changed = replace(recipe, optimizer=optimizer, mirror_symmetric=True)
    trainer = Trainer(build_model("s7"), changed, CPU)
    before = kernel(trainer.model).detach().clone()
    for _ in range(5):
        trainer.step(some_images(side=32), torch.arange(4), progress=0.3)
    assert not torch.allclose(before, kernel(trainer.model), atol=1e-3)
    assert MirrorSymmetry(trainer.model).holds()


def test_without_it_nothing_is_symmetric(recipe):
    trainer = Trainer(build_model("s7"), recipe, CPU)
    trainer.step(some_images(side=32), torch.arange(4), progress=0.3)
    assert not MirrorSymmetry(trainer.model).holds()


def test_imposing_it_keeps_the_size_of_the_weights_and_does_nothing_twice():
    model = build_model("s7")
    before = kernel(model).norm()
    MirrorSymmetry(model).impose()
    once = [parameter.detach().clone() for parameter in model.parameters()]
    assert 0.9 < kernel(model).norm() / before < 1.1
    MirrorSymmetry(model).impose()
    assert all(torch.equal(*pair) for pair in zip(once, model.parameters(), strict=True))


def test_a_depthwise_kernel_is_the_mirror_image_of_its_partner():
    depthwise = next(m for m in symmetric("s7").modules() if isinstance(m, nn.Conv2d) and m.groups > 1).weight
    assert torch.equal(depthwise[1::2], depthwise[0::2].flip(3))


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (4, 3, 3, 3), (4, 1, 3, 3), (4, 6, 1, 1), (10, 4), (4, 10), (10,)])
def test_the_mirror_image_of_the_mirror_image_is_the_first(shape, pairs):
    weights = torch.arange(float(torch.Size(shape).numel())).view(shape)
    assert torch.equal(mirrored(mirrored(weights, pairs), pairs), weights)
    assert torch.equal(mirrored(weights, pairs), weights) == (shape == (10,) and not pairs)


@pytest.mark.parametrize("classes", [16, 48, 64, 72])
def test_as_many_classes_as_channels_leave_the_channels_their_pairs(classes):
    model = build_model("s7", classes=classes)
    MirrorSymmetry(model).impose()
    first = next(model.parameters())
    assert torch.equal(first[1::2], first[0::2].flip(3))
    assert not torch.equal(first[0], first[0].flip(2))
    images = some_images()
    model.eval()
    torch.testing.assert_close(model(images), model(images.flip(3)), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(model.output[-1].weight[0], model.output[-1].weight[1])


@pytest.mark.parametrize("name", WHOLE)
def test_classes_have_no_mirror_images(name):
    model = symmetric(name).eval()
    *_, head = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert not torch.allclose(head.weight[0], head.weight[1])
    logits = model(some_images(side=32))
    assert not torch.allclose(logits[:, 0], logits[:, 1])


def test_a_run_that_was_stopped_ends_with_the_same_bits(tiny, recipe, tmp_path):
    recipe = replace(recipe, mirror_symmetric=True)
    straight, resumed = tiny_network(), tiny_network()
    fit(straight, tiny, recipe)
    fit(tiny_network(), tiny, recipe, out=tmp_path, until=0)
    fit(resumed, tiny, recipe, out=tmp_path, resume=True)
    assert MirrorSymmetry(straight).holds()
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_that_learned_without_it_are_refused_and_those_with_it_are_not(tiny, recipe):
    asked = replace(recipe, mirror_symmetric=True, epochs=1)
    model = tiny_network()
    fit(model, tiny, recipe)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(InputError, match="start from new ones, or use .*mirror_symmetric=False"):
        fit(model, tiny, asked)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    model = tiny_network()
    fit(model, tiny, asked)
    fit(model, tiny, asked, seed=1)


FLATTENED = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 3))
WHY_NOT = {
    "3 takes 7200 values, which are not the channels of a layer before it": FLATTENED,
    "0 takes 3072 values, which are not": nn.Sequential(nn.Linear(3072, 3)),
    "1 is a ConvTranspose2d with": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 3), nn.Conv2d(8, 3, 1)),
    "1 is a LayerNorm with": nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 30, 30]), nn.Conv2d(8, 3, 1)),
}


class Scaled(nn.Sequential):
    """Factors of its own, of which nobody but it knows what they are for: here, the classes."""

    def __init__(self, *layers: nn.Module):
        super().__init__(*layers)
        self.factors = nn.Parameter(torch.arange(3.0))

    def forward(self, images):
        return super().forward(images) * self.factors


def ending_in(head: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]


WHY_NOT |= {
    "the network is a Scaled with factors": Scaled(*ending_in(nn.Linear(8, 3))),
    "4.parametrizations.weight is a ParametrizationList with original0": nn.Sequential(
        *ending_in(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)))
    ),
    "4 is a Linear with bias and weight_orig": nn.Sequential(*ending_in(nn.utils.spectral_norm(nn.Linear(8, 3)))),
    "1 has 2 groups that part the channels of pairs": nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)),
}


@pytest.mark.parametrize("why", WHY_NOT)
def test_a_network_that_it_does_not_suit_is_known(why):
    assert why_not_symmetric(WHY_NOT[why]).startswith(why)


@pytest.mark.parametrize("name", WHOLE)
def test_it_suits_our_networks_and_the_five(name):
    assert why_not_symmetric(build_model(name)) == ""


@pytest.mark.parametrize(
    "layer",
    [
        nn.InstanceNorm2d(8, affine=True),
        nn.GroupNorm(4, 8),
        nn.PReLU(8),
        nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(2), nn.BatchNorm1d(8), nn.Unflatten(2, (2, 2))
        ),
    ],
    ids=["instance norm", "group norm", "PReLU", "norm of a vector"],
)
def test_it_suits_layers_with_one_weight_a_channel(layer):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, *ending_in(nn.Linear(8, 3))[1:])
    for vector in (parameter for parameter in model.parameters() if parameter.ndim == 1):
        nn.init.uniform_(vector, 0.1, 0.9)
    assert why_not_symmetric(model) == ""
    MirrorSymmetry(model).impose()
    images = some_images(side=32)
    torch.testing.assert_close(model(images), model(images.flip(3)), rtol=1e-4, atol=1e-5)


def test_a_network_that_it_does_not_suit_learns_without_it_and_the_log_says_why(tiny, recipe, tmp_path):
    recipe = replace(recipe, epochs=1, sides=(32,))
    models = [deepcopy(FLATTENED), deepcopy(FLATTENED)]
    fit(models[0], tiny, recipe)
    fit(models[1], tiny, replace(recipe, mirror_symmetric=True), out=tmp_path)
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))
    assert "Mirror symmetry is not imposed: 3 takes 7200 values" in (tmp_path / "training.log").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["mirror_symmetric"] is False


def test_a_frozen_filter_stays_as_it_is(tiny, recipe, capsys):
    model = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False).requires_grad_(False), *ending_in(nn.Linear(8, 3)))
    model[1] = nn.Conv2d(2, 8, 3)
    before = model[0].weight.clone()
    fit(model, tiny, replace(recipe, epochs=1, mirror_symmetric=True))
    assert torch.equal(model[0].weight, before)
    assert "Mirror symmetry is not imposed: 0 is frozen" in capsys.readouterr().out


def test_gradients_stay_as_they_lie_in_memory():
    """A GPU's fused optimisers ask for weights and gradients alike."""
    model = symmetric("s7").to(memory_format=torch.channels_last)
    F.cross_entropy(model(some_images()), torch.arange(4)).backward()
    before = [parameter.grad.stride() for parameter in model.parameters()]
    MirrorSymmetry(model).average_gradients()
    assert [parameter.grad.stride() for parameter in model.parameters()] == before


class Shuffled(nn.Module):
    """A network whose layers are not in the order in which they run, or that has one that never runs."""

    def __init__(self, last: nn.Module):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.last = last

    def forward(self, images):
        return self.head(self.body(images).relu().mean((2, 3)))


def test_a_head_that_is_not_the_last_of_the_layers_is_noticed(tiny, recipe):
    asked = replace(recipe, mirror_symmetric=True)
    assert suited(asked, Shuffled(nn.ReLU())).mirror_symmetric
    for last in (nn.Linear(8, 3), nn.Conv2d(3, 8, 1)):
        assert not suited(asked, Shuffled(last)).mirror_symmetric
        why = why_not_imposed(Shuffled(last), 32)
        assert why == "head answers with the classes, but last is the last of its layers"


@pytest.mark.parametrize(
    ("channels", "groups", "parts"),
    [
        ((8, 8), 8, False),
        ((8, 16), 8, True),
        ((8, 4), 4, True),
        ((8, 16), 4, False),
        ((6, 6), 2, True),
        ((9, 18), 9, False),
    ],
)
def test_groups_that_part_pairs_are_noticed(channels, groups, parts):
    first, layer = nn.Conv2d(3, channels[0], 3, padding=1), nn.Conv2d(*channels, 3, padding=1, groups=groups)
    model = nn.Sequential(first, layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[1], 3))
    assert bool(why_not_symmetric(model)) == parts
    MirrorSymmetry(model).impose()
    images = some_images()
    assert torch.allclose(model(images), model(images.flip(3)), atol=1e-6) != parts
