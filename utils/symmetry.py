"""Mirror symmetry: a network that gives an image and its mirror image the same answer, and needs half the steps.

Channels 2i and 2i + 1 of every map are a pair: one sees in an image what the other sees in its mirror image. That is so
if a kernel stays what it is when it is flipped left to right and the channels of its pairs change places. It is asked
of the first weights once, and of the gradient in every step; the network itself is like any other. The averaged
gradient is that of each image and its mirror image, for the price of one of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MirrorSymmetry:
    """Which weights of a network are each other's mirror images.

    Paired are the channels of each axis of weights that has an even number of them, but for the classes. A convolution
    that strides over a map with an even side meets other pixels in the mirror image, so there the answers are alike
    only as far as the network does not mind a shift by a pixel.

    Args:
        model: made of convolutions, linear layers of channels, and layers that treat each channel alone or all alike.
            What the last convolution or linear layer answers with are the classes.

    Source: T. Cohen, M. Welling, "Group Equivariant Convolutional Networks", arXiv 1602.07576, for the group of two.
    """

    def __init__(self, model: nn.Module):
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        classes = len(layers[-1].weight) if layers else 0
        self.places: list[tuple[nn.Parameter, Tensor]] = []  # with the place of each of its weights' mirror image
        for parameter in model.parameters():
            places = torch.arange(parameter.numel(), device=parameter.device).view_as(parameter)
            self.places.append((parameter, mirrored(places, classes).flatten()))

    @torch.no_grad()
    def impose(self) -> None:
        """Of each two weights that are to be mirror images, the second becomes the first. Twice is the same as once."""
        for parameter, places in self.places:
            first = torch.minimum(places, torch.arange(len(places), device=places.device))
            parameter.copy_(parameter.flatten()[first].view_as(parameter))

    @torch.no_grad()
    def holds(self) -> bool:
        """Whether all weights are as good as their mirror images."""
        return all(torch.allclose(p.flatten(), p.flatten()[places], 1e-2, 1e-4) for p, places in self.places)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Each gradient becomes the mean of itself and its mirror image: weights that are symmetric will stay so."""
        for parameter, places in self.places:
            if parameter.grad is not None:
                gradient = parameter.grad.flatten()
                parameter.grad = gradient.lerp(gradient.index_select(0, places), 0.5).view_as(parameter)


def mirrored(weights: Tensor, classes: int) -> Tensor:
    """The weights of a layer as they would be in the mirror: kernels flipped, the channels of each pair exchanged.

    Args:
        weights: (out, in, height, width) of a convolution, (out, in) of a linear layer, or one (channels,) a channel.
            Others are returned as they are.
        classes: an axis of that size has no pairs.

    >>> mirrored(torch.tensor([[[[1, 2, 3]]], [[[4, 5, 6]]]]), classes=10).flatten().tolist()
    [6, 5, 4, 3, 2, 1]
    """
    if weights.ndim not in (1, 2, 4):
        return weights
    if weights.ndim == 4:
        weights = weights.flip(3)
    for axis in range(min(weights.ndim, 2)):
        size = weights.size(axis)
        if size % 2 == 0 and size != classes:
            weights = weights.unflatten(axis, (-1, 2)).flip(axis + 1).flatten(axis, axis + 1)
    return weights
