"""S7Max: the assignment's network with its parameters spent on accuracy, where S7Net spends them on speed.

Ordinary convolutions only in C1, where channels are few; from there on all are depthwise separable. What that saves in
parameters buys layers where the maps are still large: they cost time, and little else. `s7_mirror` has a parameter for
each two of its weights, and spends the other half on channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from utils.models.blocks import Residual, convolution, depthwise_separable, scaled
from utils.models.mirrored import in_mirror_pairs
from utils.models.s7 import STRIDED


class S7Max(nn.Module):
    """Four blocks C1 to C4, whose maps have 32, 16, 8 and 4 pixels a side, and an output block.

    Args:
        classes: number of logits.
        width: all numbers of channels are multiplied by it, and rounded to multiples of 4.
        channels: of the maps of C1 to C4.

    Raises:
        InputError: the width is no number, or leaves less than 4 or more than 10,000 channels somewhere.
    """

    def __init__(self, classes: int = 10, width: float = 1.0, channels: tuple[int, ...] = (32, 64, 128, 192)):
        super().__init__()
        w1, w2, w3, w4 = (scaled(number, width) for number in channels)
        self.c1 = nn.Sequential(
            convolution(3, w1),
            Residual(convolution(w1, w1)),
            Residual(convolution(w1, w1)),
            depthwise_separable(w1, w2, **STRIDED),
        )
        self.c2 = nn.Sequential(
            *(Residual(depthwise_separable(w2, w2)) for _ in range(4)),
            depthwise_separable(w2, w3, **STRIDED),
        )
        self.c3 = nn.Sequential(
            *(Residual(depthwise_separable(w3, w3)) for _ in range(3)),
            Residual(depthwise_separable(w3, w3, dilation=2)),
            depthwise_separable(w3, w4, **STRIDED),
        )
        self.c4 = nn.Sequential(
            Residual(depthwise_separable(w4, w4)),
        )
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w4, classes))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        return self.output(self.c4(self.c3(self.c2(self.c1(images)))))


def s7_max(classes: int = 10, width: float = 1.0) -> S7Max:
    """S7Max, for longer runs: depthwise separable where there are many channels."""
    return S7Max(classes, width)


def s7_mirror(classes: int = 10, width: float = 1.0) -> S7Max:
    """S7Max with more channels, which are pairs of mirror images: one parameter for two weights."""
    return in_mirror_pairs(S7Max(classes, width, (32, 64, 192, 288)))
