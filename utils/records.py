"""What a run is, and what is kept of it in run.json: is a record or a checkpoint that of the run at hand?"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import albumentations as A
from torch import nn

from utils.data import ImageData
from utils.errors import InputError
from utils.models import default_arguments, model_arguments, model_name, parameter_count
from utils.recipes import Recipe, is_a


def identity(model: nn.Module, recipe: Recipe, data: ImageData, seed: int, policy: A.Compose | None = None) -> dict:
    """What a run is: two with the same identity do the same."""
    return {
        "model": model_name(model),
        "model_arguments": model_arguments(model),
        "recipe": asdict(recipe),
        "policy": None if policy is None else repr(policy),
        "seed": seed,
        "data": data.to_dict(),
    }


def finished_record(folder: Path, model: nn.Module, recipe: Recipe, data: ImageData, seed: int) -> dict | None:
    """The run.json of a run that has come to its recipe's end; None if the folder has none. Needs no checkpoint.

    Raises:
        InputError: it is damaged, or of another run.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    record = read_record(path)
    if record["results"]["epochs"] < record["recipe"]["epochs"]:
        return None
    must_agree(folder, record, identity(model, recipe, data, seed) | {"parameters": parameter_count(model)})
    return record


def read_record(path: Path) -> dict:
    """A run.json, with the defaults of what is newer than it.

    Raises:
        InputError: it is damaged.
    """
    try:
        record = with_defaults(json.loads(path.read_text(encoding="utf-8")))
        if not is_a((record["results"]["epochs"], record["recipe"]["epochs"]), tuple[int, ...]):
            raise TypeError("its epochs are no whole numbers")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the record of a run of this version ({error!r}); remove it") from error
    return record


def with_defaults(checkpoint: dict) -> dict:
    """A checkpoint with what did not exist when it was written: the recipe's and the network's newer fields.

    What is new here leaves everything as it was by default, so that an older run can be resumed.
    """
    recipe = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    arguments = default_arguments(checkpoint["model"])
    return checkpoint | {
        "recipe": recipe | checkpoint["recipe"],
        "model_arguments": arguments | checkpoint["model_arguments"],
    }


def must_agree(folder: Path, then: dict, now: dict) -> None:
    """Raises InputError unless a checkpoint or record, `then`, is of the run with the identity `now`."""
    differing = [key for key in now if as_json(then.get(key)) != as_json(now[key])]
    if differing:
        what = "; ".join(difference(key, then.get(key), now[key]) for key in differing)
        raise InputError(
            f"{folder} belongs to a run with another {what}: name another folder, or give the same arguments as then"
        )


def difference(key: str, then, now) -> str:
    """What differs between a checkpoint and the run that is to resume it, in words."""
    if isinstance(then, dict) and isinstance(now, dict):
        differing = [field for field in then | now if as_json(then.get(field)) != as_json(now.get(field))]
        return f"{key} ({', '.join(f'{field}: {then.get(field)} then, {now.get(field)} now' for field in differing)})"
    return f"{key} ({then} then, {now} now)"


def as_json(value) -> str:
    """One text for equal values: JSON has no tuples, a checkpoint may."""
    return json.dumps(value, sort_keys=True)
