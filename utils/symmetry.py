"""Mirror symmetry: a network that answers an image and its mirror image alike, and learns from both by seeing one.

Channels 2i and 2i + 1 of every map are a pair: one sees in an image what the other sees in its mirror image. That is so
if a kernel stays what it is when it is flipped left to right and the channels of its pairs change places. It is asked
of the first weights once, and of the gradient in every step; the network itself is like any other. The averaged
gradient is that of each image and its mirror image, for the price of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Layers with no other parameters than one factor and one offset for each channel.
ONE_A_CHANNEL = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm | nn.InstanceNorm2d | nn.GroupNorm | nn.PReLU


class MirrorSymmetry:
    """Which weights of a network are each other's mirror images.

    Paired are the channels of each axis of weights that has an even number of them, but for the classes. A convolution
    that strides over a map with an even side meets other pixels in the mirror image, so there the answers are alike
    only as far as the network does not mind a shift by a pixel.

    Args:
        model: one in which `asymmetry` finds nothing. What its last convolution or linear layer answers with, and what
            comes after that, are the classes.

    Source: T. Cohen, M. Welling, "Group Equivariant Convolutional Networks", arXiv 1602.07576, for the group of two.
    """

    def __init__(self, model: nn.Module):
        self.parameters = list(model.parameters())
        layers = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        head = next((n for n, p in enumerate(self.parameters) if layers and p is layers[-1]), len(self.parameters))
        self.sizes = [parameter.numel() for parameter in self.parameters]
        # Counted through, a weight of any parameter has one number. `places` has for each that of its mirror image.
        self.numbers = torch.arange(sum(self.sizes), device=self.parameters[0].device)
        numbers = enumerate(zip(self.numbers.split(self.sizes), self.parameters, strict=True))
        self.places = flat(mirrored(some.view_as(p), pairs=place < head) for place, (some, p) in numbers)

    @torch.no_grad()
    def impose(self) -> None:
        """Of each two weights that are to be mirror images, the second becomes the first. Twice is the same as once."""
        weights = flat(self.parameters)[torch.minimum(self.places, self.numbers)]
        for parameter, symmetric in zip(self.parameters, weights.split(self.sizes), strict=True):
            parameter.copy_(symmetric.view_as(parameter))

    @torch.no_grad()
    def holds(self) -> bool:
        """Whether all weights are as good as their mirror images."""
        weights = flat(self.parameters)
        return torch.allclose(weights, weights[self.places], rtol=1e-2, atol=1e-4)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Each gradient becomes the mean of itself and its mirror image: weights that are symmetric will stay so."""
        gradients = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        gradients = (gradients + gradients.index_select(0, self.places)) / 2  # lerp would not be the same both ways
        for parameter, symmetric in zip(self.parameters, gradients.split(self.sizes), strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(symmetric.view_as(parameter))  # in its place, channels last if it was


def asymmetry(model: nn.Module) -> str:
    """Why a network cannot be kept mirror-symmetric by its channels alone; "" if nothing speaks against it.

    Its weights must be those of convolutions, of norms with one weight a channel, and of linear layers that take
    channels: not the pixels of a map. What other layers and the network itself do with weights of their own is not
    known.
    """
    channels = set()  # the numbers of them that layers so far have answered with
    for name, layer in model.named_modules():
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
