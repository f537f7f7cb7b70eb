"""System 001: a depthwise separable convolution and two ordinary ones halve the map; a single dilated one.

Its listing gives every layer, its text the dropout of 0.02. The listing counts the separable convolution as a row of
its own after its two parts: it is a module here too, not a Sequential.
"""

from __future__ import annotations

from torch import Tensor, nn


class DepthwiseSeparableConv(nn.Module):
    """A 3x3 convolution of each channel alone, then a 1x1 that mixes them, both with biases."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class StridedSeparable(nn.Module):
    """System 001: five convolutions, one of them separable; global average, 1x1 convolution.

    Args:
        classes: number of logits.
        dropout: probability, after every convolution.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.02):
        super().__init__()

        def layer(convolution: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(dropout))

        self.input = layer(nn.Conv2d(3, 24, 3, padding=1, bias=False), 24)
        self.c1 = layer(DepthwiseSeparableConv(24, 48, stride=2), 48)
        self.c2 = nn.Sequential(
            layer(nn.Conv2d(48, 64, 3, padding=2, dilation=2), 64),
            layer(nn.Conv2d(64, 96, 3, stride=2, padding=1), 96),
        )
        self.c3 = layer(nn.Conv2d(96, 128, 3, stride=2, padding=1), 128)
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(128, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        return self.output(self.c3(self.c2(self.c1(self.input(images))))).flatten(1)
