"""Mirror symmetry: a network that answers an image and its mirror image alike, and learns from both by seeing one.

Channels 2i and 2i + 1 of every map are a pair: one sees in an image what the other sees in its mirror image. They do if
the weights of a layer do not change when its kernels are flipped left to right and the channels of every pair change
places. The first weights are made so once, and the gradient in every step; the network itself is like any other. The
gradient is then the mean of those of an image and of its mirror image, for the price of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Layers with no other parameters than one factor and one offset for each channel.
ONE_A_CHANNEL = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm | nn.InstanceNorm2d | nn.GroupNorm | nn.PReLU


class MirrorSymmetry:
    """Which weights of a network are each other's mirror images.

    Every even number of channels, in or out of a layer, is taken in pairs; the classes are not. A strided convolution
    over a map with an even side reads other pixels of the mirror image than of the image: there the answers are alike
    only as far as a shift by a pixel changes nothing.

    Args:
        model: one of which `why_not_symmetric` says "". What its last convolution or linear layer answers with, and
            what comes after that, are the classes.

    Source: T. Cohen, M. Welling, "Group Equivariant Convolutional Networks", arXiv 1602.07576, for the group of two.
    """

    def __init__(self, model: nn.Module):
        self.parameters = list(model.parameters())
        layers = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        head = next((n for n, p in enumerate(self.parameters) if layers and p is layers[-1]), len(self.parameters))
        self.sizes = [parameter.numel() for parameter in self.parameters]
        # All weights, one parameter after the other, are numbered 0, 1, 2, ...; weights i and `mirror[i]` are each
        # other's mirror images. What `mirrored` does to weights it does here to their numbers.
        self.numbers = torch.arange(sum(self.sizes), device=self.parameters[0].device)
        parts = zip(self.numbers.split(self.sizes), self.parameters, strict=True)
        self.mirror = flat(mirrored(part.view_as(p), pairs=n < head) for n, (part, p) in enumerate(parts))

    @torch.no_grad()
    def impose(self) -> None:
        """Makes the weights symmetric: of two that are mirror images, the later one becomes equal to the earlier."""
        weights = flat(self.parameters)[torch.minimum(self.mirror, self.numbers)]
        for parameter, symmetric in zip(self.parameters, weights.split(self.sizes), strict=True):
            parameter.copy_(symmetric.view_as(parameter))

    @torch.no_grad()
    def holds(self) -> bool:
        """Whether all weights are equal to their mirror images, but for rounding."""
        weights = flat(self.parameters)
        return torch.allclose(weights, weights[self.mirror], rtol=1e-2, atol=1e-4)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Each gradient becomes the mean of itself and its mirror image: symmetric weights then stay symmetric."""
        gradients = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        gradients = (gradients + gradients.index_select(0, self.mirror)) / 2  # lerp would not be the same both ways
        for parameter, symmetric in zip(self.parameters, gradients.split(self.sizes), strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(symmetric.view_as(parameter))  # in its place, channels last if it was


def why_not_symmetric(model: nn.Module) -> str:
    """Why a network cannot be kept mirror-symmetric by its channels alone; "" if nothing speaks against it.

    Its weights must be those of convolutions, of norms with one weight a channel, and of linear layers that take
    channels: not the pixels of a map. What other layers and the network itself do with weights of their own is not
    known.
    """
    channels = set()  # how many the layers so far return
    for name, layer in model.named_modules():
        if not all(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            return f"{name or 'the network'} is frozen, and its weights would have to change"
        if isinstance(layer, nn.Linear) and layer.in_features not in channels:
            return f"{name} takes {layer.in_features} values, which are not the channels of a layer before it"
        if isinstance(layer, nn.Conv2d) and len(layer.weight) < layer.out_channels:
            return f"{name} has one kernel of each pair only"
        if isinstance(layer, nn.Conv2d) and parts_pairs(layer.groups, layer.in_channels, layer.out_channels):
            return f"{name} has {layer.groups} groups that part the channels of pairs"
        if isinstance(layer, nn.GroupNorm) and parts_pairs(layer.num_groups, layer.num_channels):
            return f"{name} has {layer.num_groups} groups that part the channels of pairs"
        own = {parameter for parameter, _ in layer.named_parameters(recurse=False)}
        if own - {"weight", "bias"} or (own and not isinstance(layer, nn.Conv2d | nn.Linear | ONE_A_CHANNEL)):
            return f"{name or 'the network'} is a {type(layer).__name__} with {' and '.join(sorted(own))}"
        if isinstance(layer, nn.Conv2d | nn.Linear):
            channels.add(len(layer.weight))
    return ""


def parts_pairs(groups: int, *channels: int) -> bool:
    """Whether the channels of a pair are in different groups. They may be, if every channel is a group of its own."""
    return set(channels) != {groups} and any(number % 2 == 0 and number // groups % 2 for number in channels)


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All values of all tensors, one after the other."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def mirrored(weights: Tensor, pairs: bool = True) -> Tensor:
    """The weights of a layer as they would be in the mirror: kernels flipped, the channels of each pair exchanged.

    Args:
        weights: (out, in, height, width) of a convolution, (out, in) of a linear layer, or one (channels,) a channel.
            Others are returned as they are.
        pairs: whether what they answer with are channels that have pairs, and not the classes.

    >>> mirrored(torch.tensor([[[[1, 2, 3]]], [[[4, 5, 6]]]])).flatten().tolist()
    [6, 5, 4, 3, 2, 1]
    """
    if weights.ndim not in (1, 2, 4):
        return weights
    if weights.ndim == 4:
        weights = weights.flip(3)
    for axis in range(0 if pairs else 1, min(weights.ndim, 2)):
        weights = exchanged(weights, axis)
    return weights


def exchanged(weights: Tensor, axis: int) -> Tensor:
    """The weights with the channels of each pair in each other's place. An odd number of them has no pairs.

    >>> exchanged(torch.tensor([[1, 2, 3, 4]]), axis=1).tolist()
    [[2, 1, 4, 3]]
    """
    if weights.size(axis) % 2:
        return weights
    return weights.unflatten(axis, (-1, 2)).flip(axis + 1).flatten(axis, axis + 1)


def with_mirror_images(kernels: Tensor) -> Tensor:
    """Every kernel, and after it its mirror image.

    Args:
        kernels: (out, in, height, width); an even number of channels in comes in pairs.

    Returns:
        (2 * out, in, height, width)

    >>> with_mirror_images(torch.tensor([[[[1, 2, 3]], [[4, 5, 6]]]])).flatten(1).tolist()
    [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]
    """
    return torch.stack([kernels, exchanged(kernels.flip(3), axis=1)], 1).flatten(0, 1)
