"""What a run leaves on disk: last.pt, best.pt, history.csv, training.log and run.json in one folder.

Every file is written aside and renamed, so that a stop at any moment leaves whole files.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from utils.data import ImageData
from utils.device import describe_hardware
from utils.errors import InputError
from utils.models import build_model

FIELDS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
PACKAGES = ("torch", "torchvision", "albumentations", "numpy")
FORMAT = 2  # of a checkpoint; raised when an older one could be misread


class Run:
    """The record of one training run; with `folder` None it prints its log and writes nothing.

    Args:
        folder: where the files go; made if missing.
        trainer: an `engine.Trainer`.
        data: what it learns from and is tested on.
        seed: of the run.
        until: the test accuracy (percent) that ends the run early, or None.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path | None, trainer, data: ImageData, seed: int, until: float | None):
        self.folder = None if folder is None else Path(folder)
        self.trainer = trainer
        self.data = data
        self.seed = seed
        self.target = trainer.recipe.target if until is None else until
        self.best = -1.0

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is KeyboardInterrupt:
            kept = (
                "nothing was kept, out=None"
                if self.folder is None
                else f"{self.folder} holds every whole epoch: resume"
            )
            self.log(f"Interrupted; {kept}")

    # What identifies a run: a resumed one must agree with it.
    @property
    def identity(self) -> dict:
        return {
            "model": model_name(self.trainer.model),
            "model_arguments": model_arguments(self.trainer.model),
            "recipe": asdict(self.trainer.recipe),
            "seed": self.seed,
            "data": self.data.to_dict(),
        }

    def start(self) -> list[dict]:
        """Opens an empty folder for a new run; returns the empty history.

        Raises:
            InputError: there is a run in the folder already.
        """
        if self.folder is not None:
            if (self.folder / "last.pt").exists():
                raise InputError(f"{self.folder} holds a run already: resume it (--resume), or name another folder")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write(self.folder / "training.log", b"")
            except OSError as error:
                raise InputError(f"{self.folder} cannot be written ({error.strerror}); name another folder") from error
        self.log(f"Data: {self.data}")
        return []

    def resume(self) -> list[dict]:
        """Puts the trainer where the last whole epoch left it; returns the history up to there.

        A folder without a checkpoint starts a new run.

        Raises:
            InputError: the folder's run had another model, recipe, seed or data; the message says which.
        """
        if self.folder is None:
            raise InputError("resume needs the run's folder: give out=")
        if not (self.folder / "last.pt").exists():
            return self.start()
        checkpoint = load_checkpoint(self.folder / "last.pt")
        differing = [key for key, value in self.identity.items() if as_json(checkpoint[key]) != as_json(value)]
        if differing:
            raise InputError(
                f"{self.folder} belongs to a run with another {' and '.join(differing)}: name another folder, or give "
                "the same arguments as then"
            )
        self.trainer.model.load_state_dict(checkpoint["weights"])
        self.trainer.load_state_dict(checkpoint["trainer"])
        history = checkpoint["history"]
        self.best = max(record["test_accuracy"] for record in history)
        self.log(f"Resumed after epoch {len(history)}")
        return history

    def log(self, line: str, show: bool = True) -> None:
        """Adds a line to training.log; prints it too unless `show` is False."""
        if show:
            print(line, flush=True)
        if self.folder is not None and self.folder.is_dir():
            with open(self.folder / "training.log", "a", encoding="utf-8") as log:
                log.write(line + "\n")

    def save(self, history: list[dict]) -> None:
        """Writes the checkpoints, the history and run.json as they are after the last epoch of `history`."""
        if self.folder is None:
            return
        checkpoint = self.identity | {
            "format": FORMAT,
            "classes": list(self.data.classes),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "history": history,
            "weights": self.trainer.model.state_dict(),
            "learned_from": self.trainer.model.learned_from,
        }
        if history[-1]["test_accuracy"] > self.best:
            self.best = history[-1]["test_accuracy"]
            write_checkpoint(self.folder / "best.pt", checkpoint)
        write_checkpoint(self.folder / "last.pt", checkpoint | {"trainer": self.trainer.state_dict()})
        write(self.folder / "history.csv", history_csv(history).encode())
        write(self.folder / "run.json", json.dumps(self.describe(history), indent=2).encode())

    def describe(self, history: list[dict]) -> dict:
        """The content of run.json: what ran on what, and what came out."""
        model = self.trainer.model
        reached = [record["seconds"] for record in history if record["test_accuracy"] >= self.target]
        return self.identity | {
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES},
            "hardware": describe_hardware(self.trainer.device),
            "precision": self.trainer.precision,
            "results": {
                "epochs": len(history),
                "test_accuracy": history[-1]["test_accuracy"],
                "test_loss": history[-1]["test_loss"],
                "best_test_accuracy": max(record["test_accuracy"] for record in history),
                "test_images": len(self.data.test),
                "seconds": history[-1]["seconds"],
                "target": self.target,
                "seconds_to_target": reached[0] if reached else None,
            },
        }


def new_folder(wish: str | Path) -> Path:
    """The first of `wish`, `wish-2`, `wish-3`, ... that holds no run yet, so that none is overwritten."""
    wish, number = Path(wish), 1
    folder = wish
    while (folder / "last.pt").exists():
        number += 1
        folder = wish.with_name(f"{wish.name}-{number}")
    return folder


def load_model(path: str | Path) -> tuple[nn.Module, dict]:
    """The network in a checkpoint, in evaluation mode on the CPU, and the checkpoint itself.

    Raises:
        InputError: the file is missing, not a checkpoint of this package, or of a network that it cannot build.
    """
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint["model"], **checkpoint["model_arguments"])
    try:
        model.load_state_dict(checkpoint["weights"])
    except RuntimeError as error:
        raise InputError(
            f"{path}: its weights do not fit the network {checkpoint['model']!r} of this version"
        ) from error
    model.learned_from = checkpoint["learned_from"]
    return model.eval(), checkpoint


def load_checkpoint(path: str | Path) -> dict:
    """Reads last.pt or best.pt, as data only: nothing in the file is run.

    Raises:
        InputError: the file is missing, cut short, or not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; a run's folder holds last.pt and best.pt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path}: not a checkpoint, or damaged; the other one in its folder may be whole") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this version (format {FORMAT}); train it anew")
    return checkpoint


def read_history(path: str | Path) -> list[dict]:
    """The records of a history.csv, as `fit` returned them.

    Raises:
        InputError: the file is missing, or its columns are not the history's.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; a run's folder holds history.csv")
    with open(path, newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise InputError(f"{path}: its columns are {reader.fieldnames}, a history's are {list(FIELDS)}")
        return [{key: int(text) if key == "epoch" else float(text) for key, text in row.items()} for row in reader]


def history_csv(history: list[dict]) -> str:
    """The history as CSV text, one line an epoch, every digit kept."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def write_checkpoint(path: Path, checkpoint: dict) -> None:
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write(path, content.getvalue())


def write(path: Path, content: bytes) -> None:
    """Puts `content` into `path` in one step: a reader finds the old file or the new one, never a part."""
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(content)
    os.replace(aside, path)


def model_name(model: nn.Module) -> str:
    """The name `build_model` knows it by, else its class's."""
    return getattr(model, "built_as", (type(model).__name__, {}))[0]


def model_arguments(model: nn.Module) -> dict:
    return getattr(model, "built_as", (type(model).__name__, {}))[1]


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def as_json(value) -> str:
    """One text for equal values: JSON has no tuples, a checkpoint may."""
    return json.dumps(value, sort_keys=True)
