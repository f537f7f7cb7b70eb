"""S7Net, the assignment's network: four convolution blocks, C1 to C4, and an output block.

The notebook's section on the network prints its layers, the sizes of its maps and its receptive fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from utils.models.blocks import Residual, convolution, depthwise_separable, scaled


def dilated(dilation: int) -> Mapping:
    """The arguments that make a convolution take `dilation` pixels off each edge of the map."""
    return MappingProxyType({"dilation": dilation, "padding": False})


STRIDED = MappingProxyType({"stride": 2})  # those that make it halve the map


class S7Net(nn.Module):
    """Ordinary, depthwise separable and dilated convolutions; no pooling but the global average.

    The last convolution of C1, C2 and C3 reduces the map, from 32 pixels a side to 16, 8 and 4 if all are strided. C4
    keeps it, and is followed by the output block.

    Args:
        classes: number of logits.
        reductions: of C1, C2 and C3: the arguments that make a convolution reduce, `STRIDED` or `dilated(...)`.
        width: all numbers of channels are multiplied by it, and rounded to multiples of 4.

    Raises:
        InputError: the width is no number, or leaves less than 4 or more than 10,000 channels somewhere.
    """

    def __init__(self, classes: int = 10, reductions: tuple[Mapping, ...] = (STRIDED,) * 3, width: float = 1.0):
        super().__init__()
        w1, w2, w3, w4 = (scaled(channels, width) for channels in (16, 48, 64, 72))
        reduction1, reduction2, reduction3 = reductions
        self.c1 = nn.Sequential(
            convolution(3, w1),
            convolution(w1, w2, **reduction1),
        )
        self.c2 = nn.Sequential(
            Residual(convolution(w2, w2)),
            Residual(convolution(w2, w2)),
            convolution(w2, w3, **reduction2),
        )
        self.c3 = nn.Sequential(
            Residual(convolution(w3, w3)),
            Residual(convolution(w3, w3, dilation=2)),
            Residual(convolution(w3, w3)),
            depthwise_separable(w3, w4, **reduction3),
        )
        self.c4 = nn.Sequential(
            Residual(depthwise_separable(w4, w4)),
        )
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w4, classes))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        return self.output(self.c4(self.c3(self.c2(self.c1(images)))))


def s7(classes: int = 10, width: float = 1.0) -> S7Net:
    """S7Net with strided convolutions that halve its maps: the default network."""
    return S7Net(classes, width=width)


def s7_dilated(classes: int = 10, width: float = 1.0) -> S7Net:
    """S7Net without any stride, the assignment's bonus: its maps have 22, 12 and 4 pixels a side."""
    return S7Net(classes, (dilated(5), dilated(5), dilated(4)), width)
