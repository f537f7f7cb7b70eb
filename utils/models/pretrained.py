"""Trained weights that ship with the repository: in `weights/`, a .safetensors and its run's run.json each.

They are named for network and recipe, such as s7-fast; `python benchmarks/ship.py` makes them of a run's checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from utils.errors import InputError, lookup
from utils.files import write

FOLDER = Path(__file__).parent / "weights"


def shipped() -> dict[str, dict]:
    """The run.json of all weights that ship, by their names."""
    return {
        path.stem: json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for path in sorted(FOLDER.glob("*.safetensors"))
    }


def read_weights(name: str) -> tuple[dict[str, Tensor], dict]:
    """Weights that ship, on the CPU, and the record of their run with the data's "classes", "mean" and "std".

    Args:
        name: a key of `shipped()`.

    Raises:
        InputError: there are none of that name.
    """
    run = lookup(shipped(), name, "weights")
    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        facts = {key: json.loads(text) for key, text in file.metadata().items()}
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, run | facts


def weights_for(model: str, recipe: str | bool) -> str:
    """The name of the weights of that network and recipe; with True for a recipe, of its most accurate ones.

    Raises:
        InputError: none ship; the message lists those that do.
    """
    runs = {name: run for name, run in shipped().items() if run["model"] == model}
    if recipe is True and runs:
        return max(runs, key=lambda name: runs[name]["results"]["test_accuracy"])
    for name, run in runs.items():
        if run["recipe"]["name"] == recipe:
            return name
    wanted = "" if recipe is True else f" trained by recipe {recipe!r}"
    raise InputError(f"no weights of {model!r}{wanted} ship with this repository; there are: {', '.join(shipped())}")


def write_weights(name: str, checkpoint: dict, run: dict) -> None:
    """Adds the weights of a checkpoint, and its run's record, to those that ship.

    Args:
        checkpoint: as `load_checkpoint` returns it.
        run: the content of run.json.
    """
    facts = {key: json.dumps(list(checkpoint[key])) for key in ("classes", "mean", "std")}
    weights = {key: tensor.contiguous() for key, tensor in checkpoint["weights"].items()}
    write(FOLDER / f"{name}.json", json.dumps(run, indent=2).encode() + b"\n")
    write(FOLDER / f"{name}.safetensors", save(weights, facts))
