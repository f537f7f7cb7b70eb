"""S7Net, the assignment's network: four blocks of three convolutions, C1 to C4, and an output block.

The notebook's section on the network prints its layers, the sizes of its maps and its receptive fields.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from utils.models.blocks import Residual, convolution, depthwise_separable


def strided(channels_in: int, channels_out: int) -> nn.Sequential:
    """Halves the side of the map: a 3x3 convolution with stride 2."""
    return convolution(channels_in, channels_out, stride=2)


def dilated(channels_in: int, channels_out: int) -> nn.Sequential:
    """Takes 8 pixels off the side of the map: a 3x3 convolution with dilation 4, without padding."""
    return convolution(channels_in, channels_out, dilation=4, padding=False)


class S7Net(nn.Module):
    """Ordinary, depthwise separable and dilated convolutions; no pooling but the global average.

    The last convolution of C1, C2 and C3 reduces the map: from 32 to 16, 8 and 4 pixels a side when strided, to 24, 16
    and 8 when dilated. C4 keeps it, and is followed by the output block.

    Args:
        classes: number of logits.
        reduction: makes a reducing convolution of (channels in, channels out): `strided` or `dilated`.
    """

    def __init__(self, classes: int = 10, reduction: Callable[[int, int], nn.Module] = strided):
        super().__init__()
        self.c1 = nn.Sequential(
            convolution(3, 16),
            Residual(depthwise_separable(16, 16)),
            reduction(16, 32),
        )
        self.c2 = nn.Sequential(
            Residual(convolution(32, 32)),
            Residual(depthwise_separable(32, 32)),
            reduction(32, 64),
        )
        self.c3 = nn.Sequential(
            Residual(convolution(64, 64)),
            Residual(convolution(64, 64, dilation=2)),
            reduction(64, 64),
        )
        self.c4 = nn.Sequential(
            Residual(convolution(64, 64)),
            Residual(depthwise_separable(64, 64)),
            Residual(depthwise_separable(64, 64)),
        )
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        return self.output(self.c4(self.c3(self.c2(self.c1(images)))))


def s7(classes: int = 10) -> S7Net:
    """S7Net with strided convolutions that halve its maps: the default network."""
    return S7Net(classes)


def s7_dilated(classes: int = 10) -> S7Net:
    """S7Net without any stride, the assignment's bonus: its maps shrink by dilated convolutions instead."""
    return S7Net(classes, reduction=dilated)
