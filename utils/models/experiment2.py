"""System 002: two separable and three dilated convolutions, the last with dilation 5; 86,954 parameters.

Its layer table gives names, kernels, strides and dilations; the layers here keep those names. It leaves open, and here
is decided: a ReLU after every batch norm, none between the two parts of a separable convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel alone, then a 1x1 that mixes them, both with biases."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Experiment2(nn.Module):
    """System 002: separable, dilated and strided convolutions in turn, the last one with dilation 5.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.sep_conv1 = SeparableConv(16, 32)
        self.bn_sep1 = nn.BatchNorm2d(32)
        self.dil_conv1 = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.bn_dil1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, stride=2)
        self.bn2 = nn.BatchNorm2d(32)
        self.sep_conv2 = SeparableConv(32, 32)
        self.bn_sep2 = nn.BatchNorm2d(32)
        self.dil_conv2 = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.bn_dil2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.bn3 = nn.BatchNorm2d(64)
        self.dil_conv3 = nn.Conv2d(64, 64, 3, padding=5, dilation=5)
        self.bn_dil3 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """float32 images (N, 3, height, width) to logits (N, classes)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn_sep1(self.sep_conv1(x)))
        x = F.relu(self.bn_dil1(self.dil_conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn_sep2(self.sep_conv2(x)))
        x = F.relu(self.bn_dil2(self.dil_conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn_dil3(self.dil_conv3(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
