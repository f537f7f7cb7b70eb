"""What a checkpoint must look like inside before anything is made of it: a file from somebody else may be a trap.

utils/checkpoint.py calls `check_archive` before torch.load, `check_plain`, `check_fields` and `check_numbers` after it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor

from utils.history import FIELDS

LARGEST = 1 << 30  # bytes of a checkpoint
MOST_RECORDS = 20_000  # of its archive: one a tensor, and a few
LARGEST_PICKLE = 4_000_000  # bytes of the record that says what is in the others; S7Net's has 14,000
DEEPEST = 8  # lists and dicts within each other
MOST_PARTS = 1_000_000  # keys, values and items in all of it
# What a pickle of tensors, numbers, texts, lists and dicts makes use of, besides `torch ...Storage`.
CALLS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict")
UNSAFE = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
FIELDS_OF_A_RUN = {  # last.pt and previous.pt also have "trainer" and "log_bytes"
    "model": str,
    "model_arguments": dict,
    "recipe": dict,
    "seed": int,
    "data": {"name": str, "provenance": str, "train_images": int, "test_images": int},
    "classes": [str],
    "mean": (float, float, float),
    "std": (float, float, float),
    "history": [dict.fromkeys(FIELDS, float)],
    "seconds": float,
    "weights": dict,
    "learned_from": Tensor,
    "torch": str,
}


def check_archive(content: bytes) -> None:
    """Looks at the archive that torch.save made, without unpacking anything large or running anything.

    Raises:
        ValueError: it is none, its records would unpack to more than they take up, or its pickle calls what no
            checkpoint calls.
        zipfile.BadZipFile: it is none.
    """
    if content.count(zipfile.stringCentralDir) > MOST_RECORDS:
        raise ValueError(f"more than {MOST_RECORDS:,} records")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("a record is compressed")
        if sum(record.file_size for record in records) > len(content):
            raise ValueError("its records say that they are larger than the file")
        pickles = [record for record in records if record.filename.lower().endswith(".pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
            raise ValueError(f"no single pickle of at most {LARGEST_PICKLE:,} bytes")
        check_pickle(archive.read(pickles[0]))


def check_pickle(code: bytes) -> None:
    """Raises ValueError if the pickle refers to anything but tensors and dicts. A pickle can call what it refers to."""
    for operation, argument, _ in pickletools.genops(code):
        if operation.name in UNSAFE:
            raise ValueError(f"it would call something ({operation.name})")
        if operation.name == "GLOBAL" and argument not in CALLS:
            module, _, name = argument.partition(" ")
            if module != "torch" or not name.endswith("Storage") or name in ("TypedStorage", "UntypedStorage"):
                raise ValueError(f"it would call {argument[:100]!r}")


def check_plain(checkpoint: object) -> None:
    """Raises ValueError unless all of it is of plain kinds, not nested deeply, its texts fit to be printed."""
    waiting, seen = [("it", checkpoint, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_PARTS:  # one list in itself many times has more parts than anybody can count
            raise ValueError(f"{name} is nested too deeply")
        if isinstance(value, Mapping):
            for key, part in value.items():
                if not isinstance(key, str | int):
                    raise ValueError(f"{name} has a {type(key).__name__} for a key")
                waiting += [(str(key)[:100], part, depth + 1), ("a key", key, depth + 1)]  # the key is looked at first
        elif isinstance(value, list | tuple):
            waiting += [(name, part, depth + 1) for part in value]
        elif isinstance(value, Tensor):
            check_tensor(name, value)
        elif isinstance(value, str):
            if not value.replace("\n", " ").isprintable():  # as a code that the terminal would obey
                raise ValueError(f"{name} has text that cannot be printed")
        elif not isinstance(value, int | float | None):
            raise ValueError(f"{name} is a {type(value).__name__}")


def check_tensor(name: str, tensor: Tensor) -> None:
    """Raises ValueError unless it is an ordinary one, that has its numbers in memory."""
    plain = (
        type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and tensor.device.type == "cpu"
    )
    if not plain or tensor.is_quantized or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name[:100]} is no ordinary tensor")


def check_fields(checkpoint: Mapping) -> None:
    """Raises ValueError unless all that a run puts into a checkpoint is there, and of its kind."""
    wrong = [field for field, kind in FIELDS_OF_A_RUN.items() if not conforms(checkpoint.get(field), kind)]
    if wrong:
        raise ValueError(f"its {', '.join(wrong)} cannot be read")


def conforms(value: object, kind: object) -> bool:
    """Whether a value is of a kind: a type (`float`: any number), a dict or list of kinds, a tuple of so many."""
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(conforms(value.get(key), kind[key]) for key in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(conforms(item, kind[0]) for item in value)
    if isinstance(kind, tuple):
        return isinstance(value, list) and len(value) == len(kind) and all(map(conforms, value, kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def check_numbers(checkpoint: Mapping) -> None:
    """Raises ValueError unless the weights are tensors by name, and they, means and deviations are finite numbers."""
    for name, tensor in checkpoint["weights"].items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError("its weights are not tensors by name")
        if not tensor.isfinite().all():
            raise ValueError(f"its weights are not all numbers: {name}")
    if not all(0 <= mean <= 1 for mean in checkpoint["mean"]) or not all(0 < std <= 1 for std in checkpoint["std"]):
        raise ValueError("its means or deviations are not from 0 to 1")
