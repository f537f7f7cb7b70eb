"""System 003: blocks that end in a transition, a strided convolution and a dilated one back to 32 channels.

Its listing gives every layer. It leaves open, and here is decided: the padding that fits the shapes (1 in the first
transition, 0 in the next two); the probability of dropout is 0.05. Its text has the separable convolution in block 2;
by its listing it is in block 3, and here too.
"""

from __future__ import annotations

from torch import Tensor, nn

from utils.models.blocks import conv_relu_norm


class Transition(nn.Module):
    """System 003: four blocks, three with a transition that halves the map; global average, 1x1 convolution.

    Args:
        classes: number of logits.
        dropout: probability, after every batch norm.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.05):
        super().__init__()

        def ordinary(channels_in: int, channels_out: int) -> list[nn.Module]:
            return [*conv_relu_norm(channels_in, channels_out, padding=1), nn.Dropout(dropout)]

        def separable(channels_in: int, channels_out: int) -> list[nn.Module]:
            depthwise = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in)
            pointwise = nn.Conv2d(channels_in, channels_out, 1)
            return [depthwise, pointwise, nn.ReLU(), nn.BatchNorm2d(channels_out), nn.Dropout(dropout)]

        def transition(padding: int) -> list[nn.Module]:
            halve = nn.Conv2d(64, 32, 3, stride=2, padding=padding)
            return [halve, *conv_relu_norm(32, 32, padding=2, dilation=2), nn.Dropout(dropout)]

        self.c1 = nn.Sequential(*ordinary(3, 32), *ordinary(32, 64), *transition(padding=1))
        self.c2 = nn.Sequential(*ordinary(32, 64), *transition(padding=0))
        self.c3 = nn.Sequential(*separable(32, 64), *transition(padding=0))
        self.c4 = nn.Sequential(*ordinary(32, 64), nn.Conv2d(64, 64, 3, padding=1))
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        return self.output(self.c4(self.c3(self.c2(self.c1(images))))).flatten(1)
