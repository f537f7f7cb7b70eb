"""What several test files share: a small data set and a small network that need no files and no network."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.data import ImageData, Split
from utils.recipes import Recipe

os.environ.setdefault("MPLBACKEND", "Agg")
if os.environ.get("CIFAR10_DIR"):  # relative to where pytest started; some tests change the folder
    os.environ["CIFAR10_DIR"] = str(Path(os.environ["CIFAR10_DIR"]).resolve())
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so it is in a shell's background, where Ctrl-C is not meant
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the networks here are too small for two


def tiny_split(count: int, name: str, seed: int) -> Split:
    """Random images whose brightest channel is their class: three classes that anything can learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 100, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 100
    third = (0.33, 0.33, 0.33)
    return Split(images, labels, ("red", "green", "blue"), third, third, name, "tiny colours", "made by the tests")


@pytest.fixture
def tiny() -> ImageData:
    """96 training and 37 test images of three classes; 37 is no multiple of anything."""
    return ImageData(tiny_split(96, "train", seed=0), tiny_split(37, "test", seed=1))


@pytest.fixture
def recipe() -> Recipe:
    """Three epochs of 96 images in batches of 40: two whole ones and a short one."""
    return Recipe("tiny", epochs=3, batch_size=40, learning_rate=0.1, sides=(24, 32), precision="fp32")


def tiny_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, 3),
    )


@pytest.fixture
def network() -> nn.Module:
    return tiny_network()
