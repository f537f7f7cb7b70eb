"""A data set as plain arrays, their cache, and the names of data sets: what the readers of CIFAR-10's forms share.

utils/sources.py and utils/pictures.py return `Arrays`, and utils/data.py makes the notebook's `ImageData` of them.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # pixels
SPLITS = ("train", "test")
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
ARCHIVE_BYTES = 170_498_071  # of cifar-10-python.tar.gz
CACHE_VERSION = 2  # to be raised with every change to `Arrays`, or to how pictures are decoded into it

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


def cached(cache: Path, key: object, decode: Callable[[], Arrays]) -> Arrays:
    """What `decode()` returns, or returned when it was last called for this key.

    Args:
        cache: folder for the file that keeps it; made if need be, done without and said so if it cannot be.
        key: identifies the source's contents; its repr is hashed.
    """
    file = cache / f"pictures-v{CACHE_VERSION}-{hashlib.sha256(repr(key).encode()).hexdigest()}.npz"
    # Absent, unreadable or damaged in one of many ways (np.load checks each array's CRC): it is made anew.
    with suppress(Exception), np.load(file, allow_pickle=False) as stored:
        *arrays, classes, name, provenance = (stored[field] for field in Arrays._fields)
        return Arrays(*arrays, tuple(classes.tolist()), str(name), str(provenance))
    arrays = decode()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:  # a file under its final name is always whole
            np.savez(Path(aside, file.name), **arrays._asdict())
            Path(aside, file.name).replace(file)
    except OSError as error:
        print(f"WARNING: decoded pictures cannot be kept in {cache} ({error}); set S7_CACHE", file=sys.stderr)
    return arrays
