"""A data set as plain arrays, and the names that data sets go by: what the readers of CIFAR-10's forms share.

utils/sources.py and utils/pictures.py return `Arrays`, and utils/data.py makes the notebook's `ImageData` of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # pixels
SPLITS = ("train", "test")
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
ARCHIVE_BYTES = 170_498_071  # of cifar-10-python.tar.gz

# Names of data sets, as every plot, log and result repeats them.
ORIGINAL = "CIFAR-10"
JPEG_COPY = "CIFAR-10, JPEG copy"
OWN = "own pictures, not CIFAR-10 as published"
DIGITS = "embedded digits, not CIFAR-10"


class Arrays(NamedTuple):
    """A data set in memory: images uint8 (N, 3, 32, 32), labels int64 (N,), and where they are from."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    provenance: str
