"""history.csv: one line an epoch."""

from __future__ import annotations

import csv
from pathlib import Path

from utils.errors import InputError
from utils.tables import as_csv

FIELDS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")


def read_history(path: str | Path) -> list[dict]:
    """The records of a history.csv, as `fit` returned them.

    Raises:
        InputError: the file is missing, or its columns are not the history's.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; a run's folder holds history.csv")
    try:
        with open(path, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            if tuple(reader.fieldnames or ()) != FIELDS:
                raise InputError(f"{path}: its columns are {reader.fieldnames}, a history's are {list(FIELDS)}")
            return [{key: int(text) if key == "epoch" else float(text) for key, text in row.items()} for row in reader]
    except (ValueError, TypeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a history, or damaged ({error}); resume the run and it is written anew"
        ) from error


def history_csv(history: list[dict]) -> str:
    """The history as CSV text, one line an epoch, every digit kept."""
    return as_csv(FIELDS, history)
