"""The identity of a run: what decides whether a run.json or a checkpoint belongs to the run at hand."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import MISSING, asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import albumentations as A
import numpy as np
import torch
from torch import nn

from utils import trace
from utils.data import ImageData
from utils.device import memory_format
from utils.errors import InputError
from utils.models import default_arguments, model_arguments, model_name, parameter_count
from utils.recipes import Recipe, is_a

# Parts of an identity that older records lack, and what it means if they differ.
NEWER = {"network": "it computes something else now", "content": "pixels, labels or class names are others now"}


def identity(model: nn.Module, recipe: Recipe, data: ImageData, seed: int, policy: A.Compose | None = None) -> dict:
    """All that decides what a run computes: two runs with the same identity compute the same."""
    return {
        "model": model_name(model),
        "model_arguments": model_arguments(model),
        "network": network_digest(model, tuple(data.train.images.shape[1:])),
        "recipe": asdict(recipe),
        "policy": None if policy is None else without_addresses(repr(policy)),
        "seed": seed,
        "data": data.to_dict(),
        "content": data.digest,
    }


def network_digest(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Stands for what a network computes, whatever its weights: torch's version and a hash of its operations.

    Args:
        shape: channels, height, width of an image.

    Returns:
        None if that depends on the image or on the weights, or cannot be followed.
    """
    try:
        with trace.random_states_kept(), trace.uncompiled(), torch.no_grad():
            random.seed(0), np.random.seed(0)  # noqa: NPY002 (a network that draws from it is still the same)
            network = trace.copied(model).cpu().float().to(memory_format=memory_format(model)).eval()
            recorded = trace.record(network, torch.ones(1, *shape).contiguous(memory_format=torch.channels_last))
    except Exception:  # whatever a network may raise: `fit` says what is wrong with it
        return None
    if recorded.reads_values:
        return None
    steps = [(o.function, o.arguments, o.inputs, o.shapes) for o in recorded.operations]
    text = without_addresses(repr(steps))  # a Generator has one
    return f"torch {package_version('torch')}: {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def without_addresses(text: str) -> str:
    """A `repr` that is the same in another process: functions are shown with their places in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


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
    if isinstance(then.get("policy"), str):
        then = then | {"policy": without_addresses(then["policy"])}
    said = [key for key in now if key not in NEWER or comparable(then.get(key), now[key])]
    differing = [key for key in said if as_json(then.get(key)) != as_json(now[key])]
    if differing:
        what = "; ".join(difference(key, then.get(key), now[key]) for key in differing)
        raise InputError(
            f"{folder} belongs to a run with another {what}: name another folder, or give the same arguments as then"
        )


def comparable(then: object, now: str | None) -> bool:
    """Whether two digests can be compared: both are there, and before the colon both name the same version."""
    if then is None or now is None:
        return False
    return not isinstance(then, str) or then.split(":")[0] == now.split(":")[0]


def difference(key: str, then, now) -> str:
    """What differs between a checkpoint and the run that is to resume it, in words."""
    if key in NEWER:
        return f"{key} ({NEWER[key]})"
    if isinstance(then, dict) and isinstance(now, dict):
        differing = [field for field in then | now if as_json(then.get(field)) != as_json(now.get(field))]
        return f"{key} ({', '.join(f'{field}: {then.get(field)} then, {now.get(field)} now' for field in differing)})"
    return f"{key} ({then} then, {now} now)"


def as_json(value) -> str:
    """One text for equal values: JSON has no tuples, a checkpoint may."""
    return json.dumps(value, sort_keys=True)


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
