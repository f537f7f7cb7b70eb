"""Readers for the forms in which CIFAR-10 comes: archive, Parquet, picture folders, and the embedded digits.

`read` recognises the form, checks what can be checked and says where the pixels come from. utils/pictures.py reads
encoded pictures, this file the rest. The order of looking around is utils/data.py's business.
"""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from utils.arrays import ARCHIVE_BYTES, CIFAR10_CLASSES, DIGITS, ORIGINAL, SIDE, SPLITS, Arrays, cached
from utils.errors import InputError
from utils.files import check_size
from utils.pictures import class_folders, parquet_files, read_folders, read_parquet

LARGEST_BATCH = 32_000_000  # bytes: each of the original's has 31,035,999 at most
RECOGNISED = (
    f"{CIFAR10.filename}, its extracted folder {CIFAR10.base_folder}, train-*.parquet with test-*.parquet, "
    "or pictures in train/<class>/ and test/<class>/"
)


def recognises(folder: Path) -> bool:
    """Whether `folder` holds one of the known forms; its contents may still turn out to be broken.

    Raises:
        InputError: there is such a folder, but it may not be looked into.
    """
    with _readable(folder):
        return _reader(folder, folder, progress=False) is not None


def read(path: Path, cache: Path, progress: bool = True) -> Arrays:
    """The data set at `path`, a file or folder that exists.

    Args:
        path: the archive, or a folder in one of the `RECOGNISED` forms.
        cache: folder for decoded or unpacked pictures; made if need be, and done without if it cannot be written.
        progress: show a bar while pictures are decoded.

    Raises:
        InputError: nothing is recognised, or it is incomplete or broken; the message names file and row.
    """
    if path.suffix == ".parquet":
        raise InputError(f"{path} is one Parquet file; name the folder that holds the train and the test file")
    with _readable(path):
        reader = _reader(path, cache, progress)
        if reader is None:
            raise InputError(f"{path} holds nothing recognisable; looked for {RECOGNISED}")
        return reader()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the system refuses in the `with` block becomes an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); check the files and their permissions") from error


def _reader(path: Path, cache: Path, progress: bool) -> Callable[[], Arrays] | None:
    """The function that reads what is at `path`, with its arguments; None if that is not recognised."""
    if path.is_file():
        return partial(_read_archive, path, cache)
    if (path / CIFAR10.filename).is_file():
        return partial(_read_archive, path / CIFAR10.filename, cache)
    for folder in (path, path / CIFAR10.base_folder):
        if any((folder / name).is_file() for name, _ in _batches()):
            return partial(_read_extracted, folder, cache)
    for folder in (path, path / "plain_text"):  # the name of the configuration in uoft-cs/cifar10
        if any(parquet_files(folder, split) for split in SPLITS):
            return partial(read_parquet, folder, cache, progress)
    if any(class_folders(path / split) for split in SPLITS):
        return partial(read_folders, path, cache, progress)
    return None


# The original: pickled batches, in their archive or extracted.


def _batches() -> list[list[str]]:
    """[file name, md5] of each batch, training batches first."""
    return CIFAR10.train_list + CIFAR10.test_list


def _read_archive(path: Path, cache: Path) -> Arrays:
    with path.open("rb") as file:
        if file.read(512).lstrip().startswith(b"<"):
            raise InputError(f"{path} is an HTML page, not {CIFAR10.filename}; download it anew")
    check_size(path, ARCHIVE_BYTES)
    _check_md5(path, calculate_md5(path), CIFAR10.tgz_md5)

    def unpack() -> Arrays:
        with tarfile.open(path) as archive:
            contents = {Path(file.name).name: archive.extractfile(file).read() for file in archive if file.isfile()}
        return _from_batches(contents, path)

    return cached(cache, _batches(), unpack)  # the archive's md5 is right, hence each batch's too


def _read_extracted(folder: Path, cache: Path) -> Arrays:
    missing = [name for name, _ in _batches() if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}; extract {CIFAR10.filename} anew")
    for name, _ in _batches():
        check_size(folder / name, LARGEST_BATCH)
    contents = {name: (folder / name).read_bytes() for name, _ in _batches()}
    key = [[name, hashlib.md5(batch).hexdigest()] for name, batch in contents.items()]
    return cached(cache, key, lambda: _from_batches(contents, folder))


def _from_batches(contents: dict[str, bytes], origin: Path) -> Arrays:
    """Joins the batches, each a pickle of {"data": uint8 (n, 3072), "labels": list of n}."""

    def joined(files: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = [], []
        for name, md5 in files:
            # A pickle can run any code when it is loaded: only the published ones are.
            _check_md5(origin / name, hashlib.md5(contents[name]).hexdigest(), md5)
            with warnings.catch_warnings():
                # numpy 2.4.0 to 2.4.4 warn about pickles as old as these (numpy pull request 31211).
                warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed as")
                batch = pickle.loads(contents[name], encoding="latin1")
            images.append(batch["data"].reshape(-1, 3, SIDE, SIDE))
            labels += batch["labels"]
        return np.concatenate(images), np.array(labels, np.int64)

    train, test = joined(CIFAR10.train_list), joined(CIFAR10.test_list)
    return Arrays(*train, *test, CIFAR10_CLASSES, ORIGINAL, "original pixels, md5-checked")


def _check_md5(path: Path, got: str, expected: str) -> None:
    if got != expected:
        raise InputError(f"{path} has md5 {got}, expected {expected}: damaged, or another file; download it anew")


# The embedded data set.


def read_digits() -> Arrays:
    """scikit-learn's handwritten digits in CIFAR-10's shape: always there, so that everything can be tried.

    1,437 training and 360 test images, the same at every call, with equal shares of each digit in both.
    """
    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8)  # values 0..16 there
    large = grey.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    rgb = np.stack([large] * 3, axis=1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        rgb, digits.target.astype(np.int64), test_size=360, random_state=0, stratify=digits.target
    )
    return Arrays(
        *(train_images, train_labels, test_images, test_labels),
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        DIGITS,
        "scikit-learn's handwritten digits (UCI), 8x8 grey scaled to 32x32 RGB",
    )
