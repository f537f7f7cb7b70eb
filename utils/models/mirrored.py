"""Layers whose channels are pairs of mirror images, with parameters for the first of each pair only.

What a network knows of things seen from the left it need not learn anew for things seen from the right. Channels 2i and
2i + 1 of its maps are a pair: one sees in an image what the other sees in its mirror image. A recipe can keep the
weights of any network symmetric while it learns (utils/symmetry.py), with a parameter for each of them; these
layers compute the weights of channel 2i + 1 from those of channel 2i, so a network of them has half the parameters.

Source: T. Cohen, M. Welling, "Group Equivariant Convolutional Networks", arXiv 1602.07576, for the group of two.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import InputError
from utils.symmetry import why_not_symmetric, with_mirror_images


class MirroredConv2d(nn.Conv2d):
    """An ordinary or depthwise convolution whose kernels 2i + 1 are the mirror images of its kernels 2i.

    float32 maps (N, channels_in, height, width) to maps with channels_out channels. `weight` has the kernels 2i:
    (channels_out / 2, channels_in / groups, height, width). `bias`, if there is one, has a number for each pair.
    An odd number of channels in, such as the three of an image, has no pairs: a mirrored kernel has them in order.

    Args:
        like: a convolution of the same shape; every second one of its kernels is taken.

    Raises:
        InputError: it answers with an odd number of channels, or is neither ordinary nor depthwise.
    """

    def __init__(self, like: nn.Conv2d):
        depthwise = like.groups == like.in_channels == like.out_channels
        if like.out_channels % 2 or not (like.groups == 1 or depthwise):
            raise InputError(
                f"{like} cannot be mirrored: it must answer with an even number of channels, and be ordinary or "
                "depthwise"
            )
        sizes = (like.kernel_size, like.stride, like.padding, like.dilation)
        super().__init__(like.in_channels, like.out_channels, *sizes, like.groups, padding_mode=like.padding_mode)
        self.weight = first_of_pairs(like.weight)
        self.bias = None if like.bias is None else first_of_pairs(like.bias)

    def forward(self, maps: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.repeat_interleave(2, dim=0)
        return self._conv_forward(maps, with_mirror_images(self.weight), bias)


class MirroredBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with one factor and one offset for both channels of a pair: `weight` and `bias` (channels / 2,).

    Each channel keeps a mean and a variance of its own.

    Raises:
        InputError: it is for an odd number of channels, or has no factors or no running means.
    """

    def __init__(self, like: nn.BatchNorm2d):
        if like.num_features % 2 or not like.affine or not like.track_running_stats or like.momentum is None:
            raise InputError(
                f"{like} cannot be mirrored: it must have an even number of channels, factors, and running means with "
                "a momentum"
            )
        super().__init__(like.num_features, like.eps, like.momentum)
        self.weight, self.bias = first_of_pairs(like.weight), first_of_pairs(like.bias)

    def forward(self, maps: Tensor) -> Tensor:
        factors, offsets = self.weight.repeat_interleave(2, dim=0), self.bias.repeat_interleave(2, dim=0)
        means, variances = self.running_mean, self.running_var
        return F.batch_norm(maps, means, variances, factors, offsets, self.training, self.momentum, self.eps)


class MirroredLinear(nn.Linear):
    """A linear layer with one weight for both channels of a pair: `weight` (classes, channels / 2).

    It answers alike to an image and its mirror image, between which the channels of a pair change places.
    """

    def __init__(self, like: nn.Linear):
        super().__init__(like.in_features, like.out_features)
        self.weight, self.bias = first_of_pairs(like.weight, axis=1), like.bias

    def forward(self, channels: Tensor) -> Tensor:
        return F.linear(channels, self.weight.repeat_interleave(2, dim=1), self.bias)


MIRRORED = {nn.Conv2d: MirroredConv2d, nn.BatchNorm2d: MirroredBatchNorm2d, nn.Linear: MirroredLinear}


def in_mirror_pairs(network: nn.Module) -> nn.Module:
    """The network, its layers exchanged for mirrored ones with half of the parameters.

    Args:
        network: of convolutions, batch norms and, at its end, one linear layer that answers with the classes.

    Raises:
        InputError: it has other layers with parameters, or the channels of one cannot be pairs; it stays as it is.
    """
    kinds = [type(layer) for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    reason = why_not_symmetric(network)
    if not set(kinds) <= set(MIRRORED) or nn.Linear in kinds[:-1] or kinds[-1:] != [nn.Linear]:
        reason = "it must consist of convolutions and batch norms and end with its only linear layer"
    if reason:
        raise InputError(f"{type(network).__name__} cannot have its channels in mirror pairs: {reason}")
    places = [(parent, name, layer) for parent in network.modules() for name, layer in parent.named_children()]
    exchanges = [(*place, MIRRORED[type(layer)](layer)) for *place, layer in places if type(layer) in MIRRORED]
    for parent, name, layer in exchanges:
        setattr(parent, name, layer)
    return network


def first_of_pairs(weights: Tensor, axis: int = 0) -> nn.Parameter:
    """The weights of the channels 2i along an axis, as a parameter; `repeat_interleave(2)` gives 2i + 1 the same."""
    return nn.Parameter(weights.detach().unflatten(axis, (-1, 2)).select(axis + 1, 0).clone())
