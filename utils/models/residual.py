"""System 004: four residual blocks, three convolutions beside a single one that makes up for the change of shape.

Its listing and code give every layer. The "depthwise separable" convolution of its second block is depthwise only: the
3x3 convolution after it mixes the channels. It ends in log_softmax; here it ends in the logits, and the loss, cross
entropy, takes the log_softmax: the same numbers.
"""

from __future__ import annotations

from torch import Tensor, nn

from utils.models.blocks import conv_relu_norm


class Parallel(nn.Sequential):
    """path(x) + shortcut(x), of the same shape. A Sequential, so that torchsummary gives it no row of its own."""

    def forward(self, x: Tensor) -> Tensor:
        path, shortcut = self
        return path(x) + shortcut(x)


class ResidualNet(nn.Module):
    """System 004: four residual blocks, the first three halving the map; 4x4 average, 1x1 convolution.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int = 10):
        super().__init__()

        def layer(channels_in: int, channels_out: int, **arguments) -> list[nn.Module]:
            return conv_relu_norm(channels_in, channels_out, bias=False, **arguments)

        def halving(channels_in: int, channels: int, groups: int = 1) -> Parallel:
            path = [
                *layer(channels_in, channels, padding=1),
                *layer(channels, channels, padding=1, groups=groups),
                *layer(channels, channels, stride=2, padding=2, dilation=2),
            ]
            return Parallel(nn.Sequential(*path), nn.Sequential(*layer(channels_in, channels, stride=2, padding=1)))

        def keeping(channels_in: int, channels: int) -> Parallel:
            path = [
                *layer(channels_in, channels, padding=1),
                *layer(channels, channels, padding=1),
                *layer(channels, channels, padding=1),
            ]
            return Parallel(nn.Sequential(*path), nn.Sequential(*layer(channels_in, channels, padding=1)))

        self.c1 = halving(3, 32)
        self.c2 = halving(32, 32, groups=32)
        self.c3 = halving(32, 32)
        self.c4 = keeping(32, 64)
        self.output = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(64, classes, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, 32, 32) to logits (N, classes); 25 to 32 pixels a side, as the 4x4 average asks."""
        return self.output(self.c4(self.c3(self.c2(self.c1(images))))).flatten(1)
