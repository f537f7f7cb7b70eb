"""The blocks that the networks are made of: an ordinary, a depthwise separable and a residual convolution."""

from __future__ import annotations

from math import isfinite

from torch import Tensor, nn

from utils.errors import InputError

MOST = 10_000  # channels or classes: more is a slip of the pen, or a file that asks for all the memory there is


def convolution(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1, padding: bool = True):
    """3x3 convolution, batch norm, ReLU.

    Args:
        stride: output positions are this many input pixels apart.
        dilation: the nine taps are this many pixels apart.
        padding: True: only the stride changes the size of the map; False: it loses 2 * dilation pixels a side.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, dilation if padding else 0, dilation, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def depthwise_separable(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1, padding: bool = True):
    """A 3x3 convolution of each channel alone (depthwise), a 1x1 that mixes them (pointwise), batch norm, ReLU.

    It has 9 * in + in * out weights, where an ordinary 3x3 convolution has 9 * in * out. The arguments mean what they
    mean for `convolution`. It is the pointwise part that strides: the function is the same as if the depthwise part
    did, but a strided depthwise convolution is many times slower to train in bfloat16 on a CPU.
    """
    pad = dilation if padding else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, 1, pad, dilation, groups=channels_in, bias=False),
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def conv_relu_norm(channels_in: int, channels_out: int, **arguments) -> list[nn.Module]:
    """3x3 convolution, ReLU, batch norm, in the order of systems 000, 003 and 004, for an nn.Sequential.

    Args:
        arguments: of `nn.Conv2d`: bias, stride, padding, dilation, groups.
    """
    return [nn.Conv2d(channels_in, channels_out, 3, **arguments), nn.ReLU(), nn.BatchNorm2d(channels_out)]


class Residual(nn.Sequential):
    """x + layers(x): the layers learn what to add (K. He et al., arXiv 1512.03385). They must keep the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def scaled(channels: int, width: float) -> int:
    """The multiple of 4 nearest to `channels * width`.

    Raises:
        InputError: the width is no number, or that is not in 4..10,000.

    >>> scaled(48, 0.5), scaled(16, 0.4)
    (24, 8)
    """
    nearest = 4 * round(channels * width / 4) if isinstance(width, int | float) and isfinite(width) else 0
    if not 4 <= nearest <= MOST:
        raise InputError(f"width={width!r} cannot be used; 1 is the network as it is, 0.5 has half of its channels")
    return nearest
