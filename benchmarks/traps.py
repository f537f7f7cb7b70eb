"""Hostile files, made on purpose: checkpoints, data sets and pictures that somebody might send you.

benchmarks/hostile_files.py and tests/test_hostile.py open them. Each trap is a function that makes it at a path.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from math import nan
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from utils.checkpoint import FORMAT, NO_COMMENT, seal_of
from utils.history import FIELDS
from utils.models import build_model

Trap = Callable[[Path], object]
TERABYTE = 1 << 40


class Attack:
    """Pickled, it makes a file of this name when it is loaded."""

    def __init__(self, canary: Path):
        self.canary = str(canary)

    def __reduce__(self):
        return exec, (f"open({self.canary!r}, 'w')",)


def canary_of(path: Path) -> Path:
    """The file that appears if code from the trap at `path` has run."""
    return path.parent.parent / "canary"


# Anything


def pipe(path: Path) -> None:
    """To open it is to wait for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def zeros_without_end(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir(parents=True)


def sparse(size: int, start: bytes = b"") -> Trap:
    """A file of `size` bytes, most of them zeros that take no room on the disk."""

    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return make


def content(data: bytes) -> Trap:
    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return make


# Checkpoints. All but one have the right checksum: anybody can compute it.


def sealed(archive: bytes) -> bytes:
    seal = seal_of(archive)
    return archive.removesuffix(NO_COMMENT) + len(seal).to_bytes(2, "little") + seal


def saved(checkpoint: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, **options)
    return buffer.getvalue()


def good_checkpoint() -> dict:
    epoch = dict.fromkeys(FIELDS, 1.0)
    return {
        "format": FORMAT,
        "model": "s7",
        "model_arguments": {"classes": 10},
        "recipe": {"name": "fast", "epochs": 1},
        "seed": 0,
        "data": {"name": "CIFAR-10", "provenance": "", "train_images": 1, "test_images": 1},
        "classes": list("abcdefghij"),
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "history": [epoch],
        "weights": build_model("s7").state_dict(),
        "learned_from": torch.zeros(1, dtype=torch.int64),
        "seconds": 1.0,
        "torch": torch.__version__.partition("+")[0],
    }


def checkpoint(**changes) -> Trap:
    """A good one but for these fields; a function gets the trap's path, None takes the field out."""

    def make(path: Path) -> None:
        fields = good_checkpoint()
        for field, value in changes.items():
            fields[field] = value(path) if callable(value) else value
        path.write_bytes(sealed(saved({field: value for field, value in fields.items() if value is not None})))

    return make


def weights(change: Callable[[dict], object]) -> Callable[[Path], dict]:
    """The network's own, with `change` made to them."""

    def changed(_: Path) -> dict:
        found = build_model("s7").state_dict()
        change(found)
        return found

    return changed


def records(change: Callable[[dict], object], compression: int = zipfile.ZIP_STORED) -> Trap:
    """A good checkpoint with `change` made to its archive's records, {name: bytes}."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(saved(good_checkpoint()))) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        change(found)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, data in found.items():
                archive.writestr(name, data)
        path.write_bytes(sealed(buffer.getvalue()))

    return make


def code(text: bytes) -> Trap:
    """A good checkpoint's archive with another pickle."""
    return records(lambda found: found.update({"archive/data.pkl": b"\x80\x02" + text + b"."}))


def call(function: bytes, *arguments: int) -> bytes:
    """The part of a pickle that calls module.function with whole numbers."""
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in arguments)
    return b"c" + function.replace(b".", b"\n") + b"\n(" + numbers + b"tR"


def claims_terabytes(found: dict) -> None:
    """The pickle's first number of elements, 432 for the kernel of S7Net's first convolution, is 2 ** 40."""
    pickled = found["archive/data.pkl"]
    place = pickled.index(b"M\xb0\x01t")
    found["archive/data.pkl"] = pickled[:place] + b"\x8a\x06" + TERABYTE.to_bytes(6, "little") + pickled[place + 3 :]


def holding_itself(levels: int, times: int) -> list:
    """A list of lists of lists ...: few objects, and more parts than anybody can go through."""
    value: list = [0]
    for _ in range(levels):
        value = [value] * times
    return value


def nested(depth: int) -> Trap:
    return code(b"]" * depth + b"a" * (depth - 1))


def unsealed(path: Path) -> None:
    path.write_bytes(saved(Attack(canary_of(path))))


def bare_pickle(path: Path) -> None:
    path.write_bytes(sealed(pickle.dumps(Attack(canary_of(path)), protocol=2) + NO_COMMENT))


def legacy(path: Path) -> None:
    """torch's format before zip archives."""
    path.write_bytes(sealed(saved(Attack(canary_of(path)), _use_new_zipfile_serialization=False) + NO_COMMENT))


def second_pickle(path: Path) -> None:
    """Two records of nearly the same name: a harmless one, and one that runs code."""
    attack = pickle.dumps(Attack(canary_of(path)), protocol=2)
    records(lambda found: found.update({"archive/DATA.PKL": attack}))(path)


# Archives of CIFAR-10, and its batches


def batches(path: Path) -> None:
    """The folder of extracted batches, each of which runs code when it is loaded."""
    path.mkdir(parents=True)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        (path / name).write_bytes(pickle.dumps(Attack(canary_of(path))))


def archive(*members: tarfile.TarInfo) -> Trap:
    """The archive: these members, and batches that run code."""

    def make(path: Path) -> None:
        with tarfile.open(path, "w:gz") as file:
            for member in members:
                file.addfile(member, io.BytesIO(b"z" * member.size))
            batch = pickle.dumps(Attack(canary_of(path)))
            for name, _ in CIFAR10.train_list + CIFAR10.test_list:
                file.addfile(member_of(f"cifar-10-batches-py/{name}", len(batch)), io.BytesIO(batch))

    return make


def member_of(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, target
    return member


def gzip_bomb(path: Path) -> None:
    """10 GB in 10 MB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        piece = gzip.compress(bytes(100_000_000))
        for _ in range(100):
            file.write(piece)


# Parquet


def parquet(values: pa.Array, **options) -> Trap:
    """The training file of a folder, with these pictures; its test file is good."""

    def make(path: Path) -> None:
        path.mkdir(parents=True)
        write_parquet(path / "train-0.parquet", values, **options)
        write_parquet(path / "test-0.parquet", pa.array([png(32, 32)]))

    return make


def write_parquet(path: Path, values: pa.Array, label=0, metadata: dict | None = None, **options) -> None:
    images = pa.StructArray.from_arrays([values], ["bytes"])
    table = pa.table({"img": images, "label": pa.array(np.full(len(values), label))})
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd", **options)


def one_value(size: int, liar: bool = False) -> Trap:
    """One picture of `size` zeros. A liar's footer says that it has 100 bytes."""

    def make(path: Path) -> None:
        parquet(pa.array([bytes(size)]), use_dictionary=False)(path)
        if liar:
            file = path / "train-0.parquet"
            whole = file.read_bytes()
            footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
            honest = pq.ParquetFile(file).metadata.row_group(0)
            claims = whole[footer:]
            for claim in (honest.column(0).total_uncompressed_size, honest.total_byte_size):
                claims = claims.replace(varint(claim), varint(100, len(varint(claim))))
            file.write_bytes(whole[:footer] + claims)

    return make


def varint(number: int, length: int = 0) -> bytes:
    """A number as Parquet's footer has it, padded to `length` bytes."""
    number, found = number * 2, []
    while number or len(found) < length:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found[:-1], found[-1] & 127])


def same_for_all(rows: int) -> Trap:
    """A dictionary of one picture of 10 MB, and so many rows that refer to it."""

    def make(path: Path) -> None:
        large = pa.array([bytes(10_000_000)])
        values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), large)
        options = {"dictionary_pagesize_limit": 1 << 30, "use_dictionary": ["img.bytes"], "store_schema": False}
        parquet(values, **options)(path)

    return make


def same_beginning(rows: int) -> Trap:
    """Each picture has the first's million bytes, which the file holds once."""

    def make(path: Path) -> None:
        options = {"use_dictionary": False, "column_encoding": {"img.bytes": "DELTA_BYTE_ARRAY"}}
        parquet(pa.array([bytes(1_000_000)] * rows), row_group_size=rows, **options)(path)

    return make


def many_rows(rows: int) -> Trap:
    return lambda path: parquet(pa.array([b""] * rows))(path)


def deep_metadata(path: Path) -> None:
    """JSON that no parser follows to its end; and then a label that is none."""
    parquet(pa.array([png(32, 32)] * 2), label=10, metadata={"huggingface": "[" * 100_000})(path)


def in_a_folder(name: str, trap: Trap) -> Trap:
    """The trap under this name in a folder, among good Parquet files or pictures."""

    def make(path: Path) -> None:
        if name.endswith(".parquet"):
            parquet(pa.array([png(32, 32)]))(path)
            (path / name).unlink(missing_ok=True)
        elif "/" in name:
            for split in ("train", "test"):
                content(png(32, 32))(path / split / "cat" / "good.png")
        trap(path / name)

    return make


# Pictures


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A picture of black and white stripes, however large, in few bytes. `extra` goes before the pixels."""
    compress = zlib.compressobj(9)
    row = b"\0" + b"\x0f" * ((width + 7) // 8)
    pixels = b"".join(compress.compress(row) for _ in range(height)) + compress.flush()
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(path: Path) -> None:
    """50,000 x 50,000 pixels."""
    content(png(50_000, 50_000))(path)


def text_bomb(path: Path) -> None:
    """A comment of 1 GB in a picture of 32 x 32 pixels."""
    packed = zlib.compressobj(9)
    text = b"".join(packed.compress(bytes(10_000_000)) for _ in range(100)) + packed.flush()
    content(png(32, 32, chunk(b"zTXt", b"Comment\0\0" + text)))(path)


def huge(format: str) -> Trap:
    """A small picture whose header says that it is large."""

    def make(path: Path) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (1234, 1234)).save(buffer, format)
        data, order = buffer.getvalue(), "<" if format in ("GIF", "BMP") else ">"
        for size in ("I", "H"):
            data = data.replace(struct.pack(order + size, 1234), struct.pack(order + size, 65_000))
        content(data)(path)

    return make


def huge_tile(path: Path) -> None:
    """A TIFF of 32 x 32 pixels in one tile of 60,000 x 60,000."""
    entries = [
        (256, 3, 32), (257, 3, 32), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, 60_000), (323, 4, 60_000), (324, 4, 200), (325, 4, 60),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries)
    head = b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)
    content(head.ljust(200, b"\0") + zlib.compress(bytes(60_000)))(path)


def postscript(path: Path) -> None:
    """PIL would hand it to the program gs, if there is one."""
    lines = ["%!PS-Adobe-3.0 EPSF-3.0", "%%BoundingBox: 0 0 32 32", "%%EndComments"]
    content("\n".join([*lines, f"({canary_of(path)}) (w) file closefile showpage", "%%EOF\n"]).encode())(path)


def broken_record(path: Path) -> None:
    """A run's folder: run.json is lists in lists, history.csv words."""
    content(b"[" * 100_000)(path / "run.json")
    content(b"")(path / "history.csv")


def run_of(accuracy: object = 1.0, row: str = "1,1,1,1,1,1,1") -> Trap:
    """A run's folder with this accuracy in run.json, and this line in history.csv."""

    def make(path: Path) -> None:
        record = {"data": {"name": "z"}, "results": {"test_images": 1, "test_accuracy": accuracy}}
        content(json.dumps(record).encode())(path / "run.json")
        content(f"{','.join(FIELDS)}\n{row}\n".encode())(path / "history.csv")

    return make


# (what it is, the name it is opened by, how it is made)

CHECKPOINTS: list[tuple[str, str, Trap]] = [
    ("a pickle that runs code", "last.pt", checkpoint(weights=lambda path: Attack(canary_of(path)))),
    ("the same without the checksum", "last.pt", unsealed),
    ("a bare pickle that runs code", "last.pt", bare_pickle),
    ("the same in torch's old format", "last.pt", legacy),
    ("a second pickle of nearly the same name", "last.pt", second_pickle),
    ("a pickle that allocates 100 GB", "last.pt", code(call(b"builtins.bytearray", 10**11))),
    ("a tensor of 100 GB made by a call", "last.pt", code(call(b"torch.FloatTensor", 25, 10**9))),
    ("records that unpack to 2 GB", "last.pt", records(lambda f: f.update({"archive/data/0": bytes(1 << 31)}), 8)),
    ("a tensor that claims terabytes", "last.pt", records(claims_terabytes)),
    ("one number that claims to be 10^12", "last.pt", checkpoint(extra=torch.zeros(1).expand(10**12))),
    ("a sparse tensor", "last.pt", checkpoint(extra=torch.eye(3).to_sparse())),
    ("200,000 records", "last.pt", records(lambda f: f.update({f"archive/{n}": b"" for n in range(200_000)}))),
    ("a pickle of 50 MB", "last.pt", code(b"]" + b"]0" * 25_000_000)),
    ("lists nested 100,000 deep", "last.pt", nested(100_000)),
    ("a list with 300^5 parts", "last.pt", checkpoint(recipe={"sides": holding_itself(5, 300)})),
    ("weights are a text", "last.pt", checkpoint(weights="none")),
    ("weights are not numbers", "last.pt", checkpoint(weights=weights(lambda w: w["output.2.weight"].fill_(nan)))),
    ("weights of other shapes", "last.pt", checkpoint(weights=weights(lambda w: w.update(a=torch.ones(3))))),
    ("weights of numbers by number", "last.pt", checkpoint(weights={1: 2})),
    ("history is a number", "last.pt", checkpoint(history=7)),
    ("history of words", "last.pt", checkpoint(history=[dict.fromkeys(FIELDS, "good")])),
    ("the mean is missing", "last.pt", checkpoint(mean=None)),
    ("means are texts", "last.pt", checkpoint(mean=["0.5"] * 3)),
    ("the model is a list", "last.pt", checkpoint(model=["s7"])),
    ("the model has 10^12 classes", "last.pt", checkpoint(model_arguments={"classes": 10**12})),
    ("the model has 30,000,000 classes", "last.pt", checkpoint(model_arguments={"classes": 30_000_000})),
    ("the model has -1 classes", "last.pt", checkpoint(model_arguments={"classes": -1})),
    ("fewer names than classes", "last.pt", checkpoint(classes=["a"])),
    ("class names that the terminal obeys", "last.pt", checkpoint(classes=["\x1b]0;z\x07"] * 10)),
    ("a file of 1 TB", "last.pt", sparse(TERABYTE)),
    ("an empty file", "last.pt", content(b"")),
    ("a folder", "last.pt", folder),
    ("a pipe", "last.pt", pipe),
    ("/dev/zero", "last.pt", zeros_without_end),
]
DATA: list[tuple[str, str, Trap]] = [
    ("an archive of pickles that run code", CIFAR10.filename, archive()),
    ("an archive of 10 GB in 10 MB", CIFAR10.filename, gzip_bomb),
    ("an archive of 1 TB", CIFAR10.filename, sparse(TERABYTE)),
    ("batches that run code", CIFAR10.base_folder, batches),
    ("a batch of 1 TB", CIFAR10.base_folder, lambda p: (batches(p), sparse(TERABYTE)(p / "data_batch_1"))),
    ("the archive is a pipe", "data", in_a_folder(CIFAR10.filename, pipe)),
    ("a pipe", "data", pipe),
    ("/dev/zero", "data", zeros_without_end),
    ("Parquet, a picture of 1.9 GB in 60 kB", "data", one_value(1_900_000_000)),
    ("the same, and its footer lies", "data", one_value(1_900_000_000, liar=True)),
    ("Parquet, 1 TB in rows of one value", "data", same_for_all(100_000)),
    ("Parquet, 1 GB of one beginning", "data", same_beginning(1000)),
    ("Parquet, 10,000,000 rows in 100 kB", "data", many_rows(10_000_000)),
    ("Parquet, JSON nested 100,000 deep", "data", deep_metadata),
    ("Parquet of 1 TB", "data", in_a_folder("train-0.parquet", sparse(TERABYTE, b"PAR1"))),
    ("Parquet that is a pipe", "data", in_a_folder("train-0.parquet", pipe)),
    ("Parquet with a PNG of 50,000 x 50,000", "data", lambda p: parquet(pa.array([png(50_000, 50_000)]))(p)),
    ("a PNG of 50,000 x 50,000", "data", in_a_folder("train/cat/1.png", huge_png)),
    ("a PNG with a comment of 1 GB", "data", in_a_folder("train/cat/1.png", text_bomb)),
    ("a TIFF with a tile of 3.6 GB", "data", in_a_folder("train/cat/1.tif", huge_tile)),
    ("PostScript called PNG", "data", in_a_folder("train/cat/1.png", postscript)),
    ("a picture that is a pipe", "data", in_a_folder("train/cat/1.png", pipe)),
    ("a picture that is /dev/zero", "data", in_a_folder("train/cat/1.png", zeros_without_end)),
    ("a picture of 1 TB", "data", in_a_folder("train/cat/1.ppm", sparse(TERABYTE, b"P6 #"))),
]
# Read as if somebody had found an archive with the published md5.
FORGED: list[tuple[str, str, Trap]] = [
    ("forged archive, a path from /", CIFAR10.filename, lambda p: archive(member_of(f"{p.parent}/escaped", 9))(p)),
    ("forged archive, a path with ..", CIFAR10.filename, archive(member_of("../../escaped", 9))),
    (
        "forged archive, a link to the outside",
        CIFAR10.filename,
        archive(member_of("out", 0, tarfile.SYMTYPE, "../.."), member_of("out/escaped", 9)),
    ),
    (
        "forged archive, a hard link",
        CIFAR10.filename,
        archive(member_of("escaped", 0, tarfile.LNKTYPE, "/etc/passwd")),
    ),
    ("forged archive, a device", CIFAR10.filename, archive(member_of("escaped", 0, tarfile.CHRTYPE))),
]
PICTURES: list[tuple[str, str, Trap]] = [
    ("a PNG of 50,000 x 50,000", "cat.png", huge_png),
    ("a PNG of 10,000 x 10,000", "cat.png", lambda path: content(png(10_000, 10_000))(path)),
    ("a PNG with a comment of 1 GB", "cat.png", text_bomb),
    ("a GIF that says 65,000 x 65,000", "cat.gif", huge("GIF")),
    ("a JPEG that says 65,000 x 65,000", "cat.jpg", huge("JPEG")),
    ("a BMP that says 65,000 x 65,000", "cat.bmp", huge("BMP")),
    ("a TIFF with a tile of 3.6 GB", "cat.tif", huge_tile),
    ("PostScript called PNG", "cat.png", postscript),
    ("a PPM with a comment of 1 TB", "cat.ppm", sparse(TERABYTE, b"P6 #")),
    ("a PPM with a comment of 50 MB", "cat.ppm", sparse(50_000_000, b"P6 #")),
    ("a JPEG with 50 MB of nothing", "cat.jpg", sparse(50_000_000, b"\xff\xd8\xff\xd8")),
    ("a pipe", "cat.png", pipe),
    ("/dev/zero", "cat.png", zeros_without_end),
    ("a folder", "cat.png", folder),
]
RECORDS: list[tuple[str, str, Trap]] = [
    ("run.json nested 100,000 deep", "run", broken_record),
    ("run.json with a word for the accuracy", "run", run_of("good")),
    ("history.csv of words", "run", run_of(row="1,a,b,c,d,e,f")),
    ("history.csv of short lines", "run", run_of(row="1,2")),
    ("history.csv with a field of 1 MB", "run", run_of(row="1" * 1_000_000)),
]
