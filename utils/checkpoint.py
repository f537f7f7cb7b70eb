"""last.pt, previous.pt and best.pt: files that torch.load reads, with a checksum in which a single flipped bit shows.

A checkpoint is the zip archive that torch.save makes. The SHA-256 of its bytes goes into the archive's comment, a field
at its very end that zip programs, and torch.load, pass over.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import torch
from torch import nn

from utils.contents import LARGEST, check_archive, check_fields, check_numbers, check_plain
from utils.errors import InputError, one_line
from utils.files import write
from utils.models import MODELS, build_model
from utils.models.pretrained import read_weights, shipped

FORMAT = 3  # raised when an older checkpoint could be misread
LAST, BEFORE, BEST = "last.pt", "previous.pt", "best.pt"
NO_COMMENT = b"\0\0"  # the length of the comment: the last two bytes of an archive that has none


def write_checkpoint(path: Path, checkpoint: dict, keep: str | None = None) -> None:
    """Puts `checkpoint` (tensors, numbers, texts, lists and dicts of them) into the file `path` in one step.

    Args:
        keep: what to call the file that is there now; None: it goes.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint | {"format": FORMAT}, buffer)
    archive = buffer.getvalue()
    seal = seal_of(archive)
    write(path, archive.removesuffix(NO_COMMENT) + len(seal).to_bytes(2, "little") + seal, keep)


def load_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint as data only: nothing in the file is run.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; a run's folder holds {LAST} and {BEST}")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        content = path.read_bytes()
        if not is_whole(content):
            raise ValueError("its checksum is another, or there is none")
        check_archive(content)
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read now ({one_line(error)}); try again") from error
    except Exception as error:  # whatever a file can do to those who read it
        raise InputError(
            f"{path}: damaged, or not a checkpoint of this version; the others in its folder may be whole "
            f"({one_line(error)})"
        ) from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this version (format {FORMAT}); train it anew")
    try:
        check_plain(checkpoint)
        check_fields(checkpoint)
        check_numbers(checkpoint)
    except ValueError as error:
        raise InputError(f"{path}: not a checkpoint of this package: {error}") from error
    return checkpoint


def load_model(path: str | Path) -> tuple[nn.Module, dict]:
    """The network in a checkpoint, in evaluation mode on the CPU, and the checkpoint itself.

    Args:
        path: of the checkpoint, or the name of weights that ship with the repository, such as s7-fast: then the record
            of their run, with "classes", "mean" and "std", stands for the checkpoint.

    Raises:
        InputError: the file is missing, not a checkpoint of this package, or of a network that it cannot build.
    """
    if str(path) in shipped() and not Path(path).exists():
        run = read_weights(str(path))[1]
        return build_model(run["model"], pretrained=run["recipe"]["name"], **run["model_arguments"]).eval(), run
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such checkpoint; a run's folder holds {LAST} and {BEST}; weights that ship here: "
            f"{', '.join(shipped())}"
        )
    checkpoint = load_checkpoint(path)
    name, weights = checkpoint["model"], checkpoint["weights"]
    if name not in MODELS:
        raise InputError(
            f"{path}: unknown model {name!r}, perhaps a class of your own, which only Python can make: "
            "model.load_state_dict(load_checkpoint(path)['weights']) gives it these weights, "
            f"evaluate(model, data.test) tests it; known are: {', '.join(MODELS)}"
        )
    try:
        with torch.device("meta"):  # no memory yet: the file may ask for a network of any size
            model = build_model(name, **checkpoint["model_arguments"])
        if any(weights[key].dtype != tensor.dtype for key, tensor in model.state_dict().items()):
            raise ValueError("other types of numbers")
        model.load_state_dict(weights, assign=True)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: its weights do not fit the network {name!r} of this version") from error
    if checkpoint["model_arguments"].get("classes", 10) != len(checkpoint["classes"]):
        raise InputError(f"{path}: its network answers with another number of classes than it names")
    model.learned_from = checkpoint["learned_from"]
    return model.eval(), checkpoint


def newest_checkpoint(folder: Path) -> tuple[dict, str | None]:
    """A run's newest whole checkpoint, which is last.pt from then on, and what was wrong with a newer one.

    Raises:
        InputError: none is whole, or one cannot be read at the moment.
    """
    wrong = []
    for name in (LAST, BEFORE):
        try:
            checkpoint = load_checkpoint(folder / name)
        except InputError as error:
            if isinstance(error.__cause__, OSError | MemoryError):
                raise  # it may be whole, and read another time
            wrong.append(str(error))
        else:
            if name == BEFORE:  # else the next one would push it out, and keep the damaged one
                os.replace(folder / BEFORE, folder / LAST)
            return checkpoint, wrong[0] if wrong else None
    raise InputError(f"{'; '.join(wrong)}: nothing is left to resume, name another folder")


def seal_of(archive: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(archive).hexdigest().encode()


def is_whole(content: bytes) -> bool:
    """Whether a checkpoint file's seal is that of what it holds."""
    length = len(seal_of(b""))
    archive, size, seal = content[: -length - 2], content[-length - 2 : -length], content[-length:]
    return size == length.to_bytes(2, "little") and seal == seal_of(archive + NO_COMMENT)
