"""Layers that have parameters for one of each two channels."""

import io
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch
from conftest import tiny_network
from torch import nn
from torchsummary import summary

from utils.engine import fit
from utils.errors import InputError
from utils.models import build_model, parameter_count
from utils.models.mirrored import MirroredBatchNorm2d, MirroredConv2d, in_mirror_pairs
from utils.models.s7_max import S7Max
from utils.optim import Muon, build_optimizers
from utils.symmetry import MirrorSymmetry, exchanged, mirrored
from utils.trainer import Trainer

ODD = 33  # pixels a side: strides then meet the same pixels in the mirror image


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.Conv2d(6, 8, 3, padding=1, bias=False),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 8, 1, stride=2, bias=False),
        nn.Conv2d(6, 8, (5, 3), stride=2, padding=1, bias=True),
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
    ],
    ids=["of images", "ordinary", "depthwise, dilated", "pointwise, strided", "not square, with a bias", "reflecting"],
)
def test_a_mirror_image_is_answered_with_the_mirror_image_and_pairs_exchanged(layer):
    images = some(2, layer.in_channels, ODD, ODD)
    exchange = exchanged(images.flip(3), axis=1)
    assert not torch.allclose(layer(exchange), exchanged(layer(images).flip(3), axis=1), atol=1e-3)
    mirror = MirroredConv2d(layer)
    torch.testing.assert_close(mirror(images)[:, ::2], layer(images)[:, ::2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mirror(exchange), exchanged(mirror(images).flip(3), axis=1), rtol=1e-4, atol=1e-5)


def test_a_network_answers_an_image_and_its_mirror_image_alike():
    torch.manual_seed(0)
    model = build_model("s7_mirror")
    for vector in (p for p in model.parameters() if p.ndim == 1):  # batch norms otherwise start all alike
        nn.init.uniform_(vector, 0.5, 1.5)
    images = some(2, 3, ODD, ODD)
    model(images)  # which gives batch norms means and variances; those of a pair are no mirror images
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for statistics in (norm.running_mean, norm.running_var):
            statistics.copy_(statistics.unflatten(0, (-1, 2)).mean(1, keepdim=True).expand(-1, 2).flatten())
    model.eval()
    torch.testing.assert_close(model(images), model(images.flip(3)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(images), model(images.flip(2)), rtol=1e-2)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(6), nn.BatchNorm2d(6, eps=0.1, momentum=0.3)])
def test_batch_norm_does_to_both_of_a_pair_what_it_does_to_one(layer):
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    mirror = MirroredBatchNorm2d(layer)
    for parameter in (layer.weight, layer.bias):
        parameter.data[1::2] = parameter.data[::2]
    images = some(4, 6, 5, 5)
    for _ in range(2):
        assert torch.equal(mirror(images), layer(images))
    assert torch.equal(mirror.eval()(images), layer.eval()(images))


def test_it_has_a_parameter_for_one_of_two_channels_and_torchsummary_counts_them():
    whole = S7Max(channels=(32, 64, 192, 288))
    model = build_model("s7_mirror")
    assert parameter_count(model) == (parameter_count(whole) - 10) / 2 + 10  # each class has a bias of its own
    text = io.StringIO()
    with redirect_stdout(text):
        summary(model, (3, 32, 32), device="cpu")
    assert f"Total params: {parameter_count(model):,}" in text.getvalue()


def test_what_is_kept_are_the_first_weights():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    kept = [whole[0].weight[::2], whole[0].bias[::2], whole[1].weight[::2], whole[1].bias[::2]]
    kept += [whole[3].weight[:, ::2], whole[3].bias]
    for parameter, expected in zip(in_mirror_pairs(whole).parameters(), kept, strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 7, 3),
        nn.Conv2d(6, 6, 3, groups=2),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(6, affine=False),
        nn.BatchNorm2d(6, momentum=None),
        nn.BatchNorm2d(6, track_running_stats=False),
    ],
    ids=["odd", "groups", "two kernels a channel", "odd norm", "no factors", "no momentum", "no running means"],
)
def test_a_layer_without_pairs_is_refused_and_the_network_left_as_it_is(layer):
    channels = getattr(layer, "out_channels", 6)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), layer, nn.Flatten(), nn.Linear(channels, 10))
    before = list(network)
    with pytest.raises(InputError, match="cannot be mirrored: it must|groups that part the channels"):
        in_mirror_pairs(network)
    assert list(network) == before


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 10)],
        [nn.Conv2d(3, 10, 3), nn.Flatten()],
        [nn.Linear(4, 8), nn.Linear(8, 10)],
        [nn.Flatten()],
        [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)],
    ],
    ids=["another layer", "no head", "two heads", "no layer", "pixels for channels"],
)
def test_a_network_of_other_layers_is_refused_and_left_as_it_is(layers):
    network = nn.Sequential(*layers)
    with pytest.raises(InputError, match="^Sequential cannot have its channels in mirror pairs: (it must|2 takes)"):
        in_mirror_pairs(network)
    assert list(network) == layers


def test_muon_changes_them_as_it_would_all_kernels_kept_symmetric():
    """The half of the gradient has twice the size of the averaged whole one: Muon does not mind the size."""
    whole = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False), nn.Conv2d(4, 9, 1))
    MirrorSymmetry(whole).impose()
    for number in (0, 1):
        layer = MirroredConv2d(whole[number])
        full, half = whole[number].weight, layer.weight
        by_whole, by_half = Muon([full], 0.1, 0.9, 0.5), Muon([{"params": [half], "mirrored": True}], 0.1, 0.9, 0.5)
        for seed in range(3):
            gradient = some(*full.shape, seed=seed)
            full.grad = gradient + mirrored(gradient)
            half.grad = 2 * full.grad[::2]
            by_whole.step()
            by_half.step()
        torch.testing.assert_close(half, full[::2], rtol=1e-4, atol=1e-5)
        alone = nn.Parameter(MirroredConv2d(whole[number]).weight.detach().clone())
        alone.grad = half.grad
        Muon([alone], 0.1, 0.9, 0.5).step()
        by_half.step()
        assert not torch.allclose(alone, half, atol=1e-3)


def test_muon_is_told_which_kernels_stand_for_two(recipe):
    asked = replace(recipe, optimizer="muon")
    for name, expected in (("s7_mirror", [True]), ("s7_max", [False])):
        _, muon = build_optimizers(build_model(name), asked)
        assert [group["mirrored"] for group in muon.param_groups] == expected
    mixed = nn.Sequential(nn.Conv2d(4, 4, 3), MirroredConv2d(nn.Conv2d(4, 4, 3, bias=False)))
    _, muon = build_optimizers(mixed, asked)
    assert [group["mirrored"] for group in muon.param_groups] == [False, True]
    assert muon.param_groups[1]["params"] == [mixed[1].weight]


def test_training_goes_on_from_a_checkpoint_that_knew_of_no_mirrored_kernels(recipe):
    trainer = Trainer(tiny_network(), replace(recipe, optimizer="muon"), torch.device("cpu"))
    saved = trainer.state_dict()
    del saved["optimizers"][1]["param_groups"][0]["mirrored"]
    trainer.load_state_dict(saved)
    trainer.step(some(4, 3, 32, 32), torch.arange(4) % 3, progress=0.5)
    assert trainer.optimizers[1].param_groups[0]["mirrored"] is False


def test_a_recipe_that_keeps_kernels_symmetric_has_nothing_to_do_for_them(tiny, recipe, tmp_path):
    model = in_mirror_pairs(tiny_network())
    fit(model, tiny, replace(recipe, mirror_symmetric=True, epochs=1), out=tmp_path)
    assert "one kernel of each pair only" in (tmp_path / "training.log").read_text()
