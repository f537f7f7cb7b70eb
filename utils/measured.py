"""What was measured of many networks in full runs, as benchmarks/systems.py keeps it, and how they compare.

A run is of a network and a kind: "own" (its own recipe), "fast" (the recipe of that name), and for the time alone
"as_it_ran" and "fast_epoch", one epoch of either on a machine that does nothing else. Time is the time of that epoch
times the epochs of the full run, which may itself have been made in company.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

from utils.errors import InputError
from utils.history import read_history
from utils.systems import NUMBERS, PUBLISHED

TIMED = {"own": "as_it_ran", "fast": "fast_epoch"}  # where the seconds of an epoch of a kind are
YES = {True: "yes", False: "NO"}


@dataclass(frozen=True)
class KeptRun:
    """One run, of any kind: its run.json and its history by epoch."""

    record: dict
    history: list[dict]


Runs = Mapping[tuple[str, str], list[KeptRun]]


def read_runs(folder: str | Path) -> dict[tuple[str, str], list[KeptRun]]:
    """The measured runs in a folder, by (network, kind) and then by seed.

    Raises:
        InputError: a file is damaged or of another version; the message names it.
    """
    runs: dict[tuple[str, str], list[KeptRun]] = {}
    for path in sorted(Path(folder).glob("*-seed*.json")):
        try:
            model, kind, _ = path.stem.split("-")
            record = json.loads(path.read_text(encoding="utf-8"))
            described = {key: record[key] for key in ("model", "recipe", "seed", "data", "hardware", "results")}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the record of a run of this version ({error!r}); run it again") from error
        if described["model"] != model:
            raise InputError(f"{path}: its record is of the network {described['model']!r}; run it again")
        runs.setdefault((model, kind), []).append(KeptRun(record, read_history(path.with_suffix(".csv"))))
    return runs


@dataclass(frozen=True)
class FullRuns:
    """The full runs of one network and kind, "own" or "fast".

    Attributes:
        epochs: of each run.
        accuracies: in percent, of the last epoch, by seed.
        epoch_seconds: those of one epoch, as the run that was made for the time took them; None without one.
        histories: by seed.
    """

    epochs: int
    accuracies: list[float]
    epoch_seconds: float | None
    histories: list[list[dict]]

    @property
    def accuracy(self) -> str:
        """Mean of the seeds and their sample standard deviation, where there are several."""
        if len(self.accuracies) == 1:
            return f"{self.accuracies[0]:.2f}"
        return f"{mean(self.accuracies):.2f} ± {stdev(self.accuracies):.2f} (n = {len(self.accuracies)})"

    def seconds_to(self, accuracy: float) -> float | None:
        """Until the first epoch after which so many percent of the test images are right, median over seeds.

        None: a seed never gets there, or nobody has timed an epoch.
        """
        firsts = [
            next((row["epoch"] for row in history if row["test_accuracy"] >= accuracy), None)
            for history in self.histories
        ]
        if self.epoch_seconds is None or None in firsts:
            return None
        return median(firsts) * self.epoch_seconds


def full_runs(runs: Runs, model: str, kind: str) -> FullRuns | None:
    """Those of a network and a kind, "own" or "fast"; None if there are none."""
    kept = runs.get((model, kind))
    if not kept:
        return None
    timed = runs.get((model, TIMED[kind]))
    return FullRuns(
        kept[0].record["results"]["epochs"],
        [run.record["results"]["test_accuracy"] for run in kept],
        timed[0].record["results"]["seconds"] if timed else None,
        [run.history for run in kept],
    )


def measured_rows(runs: Runs, models: Iterable[str]) -> list[tuple]:
    """A table, heading first, of what was measured on each network; "-" where there is no such run."""
    rows = [("network", *(f"{kind}: {what}" for kind in TIMED for what in ("epochs", "accuracy", "s an epoch")))]
    for model in models:
        row = [model]
        for kind in TIMED:
            found = full_runs(runs, model, kind)
            seconds = found.epoch_seconds if found else None
            row += [found.epochs, found.accuracy] if found else ["-", "-"]
            row.append("-" if seconds is None else f"{seconds:.1f}")
        rows.append(tuple(row))
    return rows


def fast_against_own(runs: Runs) -> list[tuple]:
    """A table: is a system under `fast` at least as accurate as under its own recipe, in a tenth of the time or less?

    Of the five systems, those that were measured in all four kinds. The last column says where the time goes.
    """
    rows = [("network", "points more", "as accurate", "times sooner", "ten times", "because")]
    for model in NUMBERS:
        own, fast = (full_runs(runs, model, kind) for kind in TIMED)
        if not (own and fast and own.epoch_seconds and fast.epoch_seconds):
            continue
        more = mean(fast.accuracies) - mean(own.accuracies)
        longer = own.epoch_seconds / fast.epoch_seconds
        sooner = own.epochs * longer / fast.epochs
        because = f"{own.epochs} epochs against {fast.epochs}, each {longer:.1f} times as long"
        rows.append((model, f"{more:+.2f}", YES[more >= 0], round(sooner, 1), YES[sooner >= 10], because))
    return rows


def best_system(runs: Runs, data: str) -> tuple[str, float] | None:
    """The most accurate of the five systems under its own recipe: its name and its mean last accuracy in percent.

    Args:
        data: the name of the data set; runs on any other do not count. None if there is no run on it.
    """
    accuracies = {
        model: mean(found.accuracies)
        for model in NUMBERS
        if (found := full_runs(runs, model, "own")) and runs[model, "own"][0].record["data"]["name"] == data
    }
    return max(accuracies.items(), key=lambda pair: pair[1], default=None)


def ours_against_theirs(runs: Runs, target: float = 85.0) -> list[tuple]:
    """A table: how soon S7Net under `fast` and the soonest of the five under their own recipes reach an accuracy.

    One row for `target`, in percent, and one for the highest last accuracy of the five. "-" where that was not
    measured, "never" where a run did not get there.
    """
    rows = [("to", "S7Net under fast", "soonest of the five, own recipe", "times sooner")]
    ours = full_runs(runs, "s7", "fast")
    theirs = {model: found for model in NUMBERS if (found := full_runs(runs, model, "own")) and found.epoch_seconds}
    if not (ours and ours.epoch_seconds and theirs):
        return rows
    best = max(theirs, key=lambda model: theirs[model].accuracies[0])
    for accuracy, what in ((target, "the target"), (theirs[best].accuracies[0], f"what {best} ends at")):
        seconds = ours.seconds_to(accuracy)
        reached = {model: s for model, found in theirs.items() if (s := found.seconds_to(accuracy)) is not None}
        soonest = min(reached, key=reached.get, default=None)
        rows.append(
            (
                f"{accuracy:.2f} %, {what}",
                "never" if seconds is None else f"{seconds:.0f} s",
                f"{soonest}: {reached[soonest]:.0f} s" if soonest else "never: none of them",
                f"{reached[soonest] / seconds:.1f}" if soonest and seconds else "-",
            )
        )
    return rows


def sources(runs: Runs) -> list[str]:
    """What the runs were measured on: each kind of pictures, with the machines that saw them."""
    machines: dict[str, set[str]] = {}
    for run in (run for kept in runs.values() for run in kept):
        machines.setdefault(run.record["data"]["provenance"], set()).add(run.record["hardware"])
    return [f"{pictures}; {' and '.join(sorted(found))}" for pictures, found in sorted(machines.items())]


def accuracy_panels(runs: Runs, models: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """By network and line ("claimed", "own", "fast, seed 0", ...), the test accuracies of the epochs, in percent."""
    panels = {}
    for model in models:
        lines = {}
        if model in PUBLISHED:
            lines["claimed"] = PUBLISHED[model]["test_accuracy"]
        for kind in TIMED:
            for run in runs.get((model, kind), []):
                label = kind if kind == "own" else f"{kind}, seed {run.record['seed']}"
                lines[label] = [record["test_accuracy"] for record in run.history]
        panels[f"{NUMBERS[model]} {model}" if model in NUMBERS else model] = lines
    return panels
