"""S7Net, the assignment's network: four blocks of three convolutions, C1 to C4, and an output block.

The notebook's section on the network prints its layers, the sizes of its maps and its receptive fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from utils.models.blocks import Residual, convolution, depthwise_separable

# How the last convolution of a block makes the map smaller:
STRIDED = MappingProxyType({"stride": 2})  # to half its side
DILATED = MappingProxyType({"dilation": 4, "padding": False})  # by 8 pixels


class S7Net(nn.Module):
    """Ordinary, depthwise separable and dilated convolutions; no pooling but the global average.

    The last convolution of C1, C2 and C3 reduces the map: from 32 to 16, 8 and 4 pixels a side when strided, to 24, 16
    and 8 when dilated. C4 keeps it, and is followed by the output block.

    Args:
        classes: number of logits.
        reduction: the arguments that make a convolution reduce, `STRIDED` or `DILATED`.
    """

    def __init__(self, classes: int = 10, reduction: Mapping = STRIDED):
        super().__init__()
        self.c1 = nn.Sequential(
            convolution(3, 16),
            Residual(depthwise_separable(16, 16)),
            convolution(16, 48, **reduction),
        )
        self.c2 = nn.Sequential(
            Residual(depthwise_separable(48, 48)),
            Residual(convolution(48, 48)),
            convolution(48, 64, **reduction),
        )
        self.c3 = nn.Sequential(
            Residual(convolution(64, 64)),
            Residual(convolution(64, 64, dilation=2)),
            depthwise_separable(64, 96, **reduction),
        )
        self.c4 = nn.Sequential(
            Residual(depthwise_separable(96, 96)),
            Residual(depthwise_separable(96, 96)),
            Residual(depthwise_separable(96, 96)),
        )
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        return self.output(self.c4(self.c3(self.c2(self.c1(images)))))


def s7(classes: int = 10) -> S7Net:
    """S7Net with strided convolutions that halve its maps: the default network."""
    return S7Net(classes, STRIDED)


def s7_dilated(classes: int = 10) -> S7Net:
    """S7Net without any stride, the assignment's bonus: its maps shrink by dilated convolutions instead."""
    return S7Net(classes, DILATED)
