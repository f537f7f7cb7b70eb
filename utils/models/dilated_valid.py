"""System 000: dilated convolutions without padding, and no stride; every layer makes the map smaller.

Its listing gives every layer. It leaves open, and here is decided: the kernels are 3x3; 32 -> 64 has two groups, the
only way to 9,280 parameters; the probability of dropout is 0.1. Its text names a depthwise separable convolution;
by its listing it has none.
"""

from __future__ import annotations

from torch import Tensor, nn

from utils.models.blocks import conv_relu_norm


class DilatedValid(nn.Module):
    """System 000: ordinary and dilated convolutions without padding, three blocks and the global average.

    Args:
        classes: number of logits.
        dropout: probability, after every block.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.1):
        super().__init__()
        self.c1 = nn.Sequential(
            *conv_relu_norm(3, 32),
            *conv_relu_norm(32, 32, dilation=2),
            *conv_relu_norm(32, 32, dilation=2),
            nn.Dropout(dropout),
        )
        self.c2 = nn.Sequential(
            *conv_relu_norm(32, 64, groups=2),
            *conv_relu_norm(64, 64, dilation=2),
            *conv_relu_norm(64, 64, dilation=2),
            nn.Dropout(dropout),
        )
        self.c3 = nn.Sequential(
            *conv_relu_norm(64, 128, dilation=2),
            nn.Dropout(dropout),
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width), of at least 25 pixels a side, to logits (N, classes)."""
        return self.output(self.average(self.c3(self.c2(self.c1(images)))).flatten(1))
