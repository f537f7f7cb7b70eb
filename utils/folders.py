"""Folders of runs: where they go, and what of a run they hold."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from utils.checkpoint import BEFORE, BEST, LAST
from utils.errors import InputError
from utils.history import read_history


def runs_folder() -> Path:
    """Where runs go that are given no folder: $S7_RUNS, as on a mounted drive, or ./runs."""
    return Path(os.environ.get("S7_RUNS") or "runs").expanduser()


def holds_run(folder: Path) -> bool:
    """Whether a run has saved in the folder where it was, so that it can go on."""
    return any((folder / name).exists() for name in (LAST, BEFORE))


def has_history(folder: Path) -> bool:
    """Whether the results of an epoch are there. best.pt alone says nothing: a run that was killed may have left it."""
    try:
        epochs = read_history(folder / "history.csv")
    except InputError:
        epochs = (folder / "history.csv").exists()
    return bool(epochs) or (folder / "run.json").exists()


def is_taken(folder: Path) -> bool:
    """Whether there is anything in the folder that a new run would overwrite."""
    return holds_run(folder) or (folder / BEST).exists() or has_history(folder)


def new_folder(wish: str | Path) -> Path:
    """The first of `wish`, `wish-2`, `wish-3`, ... after which none holds a run, so that no run is overwritten."""
    taken = taken_numbers(Path(wish))
    return numbered(Path(wish), taken[-1] + 1 if taken else 1)


def newest_folder(wish: str | Path) -> Path:
    """The last of `wish`, `wish-2`, `wish-3`, ... that holds a run, to resume it; `wish` if none does."""
    taken = taken_numbers(Path(wish))
    return numbered(Path(wish), taken[-1] if taken else 1)


def numbered(wish: Path, number: int) -> Path:
    """`wish` for 1, then `wish-2`, `wish-3` and so on."""
    return wish if number == 1 else wish.with_name(f"{wish.name}-{number}")


def taken_numbers(wish: Path) -> list[int]:
    """The numbers, in order, of the folders `wish`, `wish-2`, ... that hold a run. Some between them may hold none."""
    endings = [path.name.removeprefix(f"{wish.name}-") for path in wish.parent.glob(f"{glob.escape(wish.name)}-*")]
    numbers = {1, *(int(ending) for ending in endings if ending.isdecimal())}
    return sorted(number for number in numbers if is_taken(numbered(wish, number)))
