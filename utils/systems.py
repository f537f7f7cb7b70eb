"""The five systems that did this assignment: what they claim, and what is true of it.

The networks are in utils/models/, the recipes in utils/recipes.py. `check_claims` measures each claim on the network
itself, on the system's own log, or on a full run of its recipe; notebooks/compare.ipynb shows the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import mean, median, stdev

import albumentations as A
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from utils.audit import MAX_PARAMETERS, MIN_RECEPTIVE_FIELD, Report, audit
from utils.errors import InputError
from utils.history import read_history
from utils.models import build_model

NUMBERS = {  # by the network that is the system's here
    "dilated_valid": "000",
    "strided_separable": "001",
    "experiment2": "002",
    "transition": "003",
    "residual": "004",
}
TEST_IMAGES = 10_000
TOLERANCE = 0.5  # points of accuracy that another seed may cost
# By network: accuracy in percent and average loss by epoch as the systems' logs have them, and on how many images that
# was. 003 published no log.
PUBLISHED: dict[str, dict] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class MeasuredRun:
    """A full run, as benchmarks/systems.py keeps it: its run.json and its history by epoch."""

    record: dict
    history: list[dict]


def read_runs(folder: str | Path) -> dict[tuple[str, str], list[MeasuredRun]]:
    """The measured runs in a folder, by (network, kind) and then by seed; kinds are "own", "fast", "as_it_ran".

    Raises:
        InputError: a file is damaged or of another version; the message names it.
    """
    runs: dict[tuple[str, str], list[MeasuredRun]] = {}
    for path in sorted(Path(folder).glob("*-seed*.json")):
        model, kind, _ = path.stem.split("-")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            described = {key: record[key] for key in ("model", "recipe", "seed", "data", "results")}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the record of a run of this version ({error!r}); run it again") from error
        if described["model"] != model:
            raise InputError(f"{path}: its record is of the network {described['model']!r}; run it again")
        runs.setdefault((model, kind), []).append(MeasuredRun(record, read_history(path.with_suffix(".csv"))))
    return runs


def measured_rows(runs: Mapping[tuple[str, str], list[MeasuredRun]], models: Iterable[str]) -> list[tuple]:
    """A table, heading first, of what was measured on each network; "-" where there is no such run."""
    rows = [
        ("network", "own: epochs", "accuracy", "as it ran: s an epoch", "fast: accuracy", "seconds", "own / fast time")
    ]
    for model in models:
        own, one_epoch, fast = (runs.get((model, kind)) for kind in ("own", "as_it_ran", "fast"))
        epochs, own_accuracy, per_epoch, fast_accuracy, seconds, ratio = ("-",) * 6
        if own:
            results = own[0].record["results"]
            epochs, own_accuracy = results["epochs"], f"{results['test_accuracy']:.2f}"
        if one_epoch:
            per_epoch = round(one_epoch[0].record["results"]["seconds"])
        if fast:
            accuracies = [run.record["results"]["test_accuracy"] for run in fast]
            spread = f" ± {stdev(accuracies):.2f}" if len(fast) > 1 else ""
            fast_accuracy = f"{mean(accuracies):.2f}{spread} (n = {len(fast)})"
            seconds = round(median(run.record["results"]["seconds"] for run in fast))
        if own and one_epoch and fast:
            ratio = f"{epochs * per_epoch / seconds:.1f}"  # all its epochs as long as the one that was measured
        rows.append((model, epochs, own_accuracy, per_epoch, fast_accuracy, seconds, ratio))
    return rows


def accuracy_panels(
    runs: Mapping[tuple[str, str], list[MeasuredRun]], models: Iterable[str]
) -> dict[str, dict[str, list[float]]]:
    """By network and line ("claimed", "own", "fast, seed 0", ...), the test accuracies of the epochs, in percent."""
    panels = {}
    for model in models:
        lines = {}
        if model in PUBLISHED:
            lines["claimed"] = PUBLISHED[model]["test_accuracy"]
        for kind in ("own", "fast"):
            for run in runs.get((model, kind), []):
                label = kind if kind == "own" else f"{kind}, seed {run.record['seed']}"
                lines[label] = [record["test_accuracy"] for record in run.history]
        panels[f"{NUMBERS[model]} {model}" if model in NUMBERS else model] = lines
    return panels


def multiply_adds(model: nn.Module, input_shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiplications with weights for one image, as torch counts them: convolutions and linear layers."""
    was_training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape))
    model.train(was_training)
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Verdict:
    """One claim: whose (its number), about what, what is claimed, what was measured, and whether the claim holds.

    `holds` is None where the full run that would tell has not been made.
    """

    system: str
    about: str
    claimed: str
    measured: str
    holds: bool | None

    @property
    def word(self) -> str:
        """The verdict, for a table."""
        return {True: "holds", False: "DOES NOT HOLD", None: "not judged"}[self.holds]


def check_claims(records: Mapping[str, dict]) -> list[Verdict]:
    """All claims of the five systems, each measured, system by system.

    Args:
        records: by network, of a full run of its own recipe, as benchmarks/systems.py keeps it: run.json and
            `accuracy_on_training_images` in percent. Claims of accuracy without a record are not judged.
    """
    checks = (check_000, check_001, check_002, check_003, check_004)
    return [
        Verdict(NUMBERS[name], *row)
        for name, check in zip(NUMBERS, checks, strict=True)
        for row in check(audit(build_model(name)), records.get(name))
    ] + [Verdict("the task", *row) for row in check_task()]


Row = tuple[str, str, str, bool | None]  # a Verdict without its system


def check_000(report: Report, record: dict | None) -> Iterator[Row]:
    log_000 = PUBLISHED["dilated_valid"]
    images, best = log_000["evaluated_on"], max(log_000["test_accuracy"])
    yield parameters(report, 178_506)
    yield (
        "evaluated on",
        f"the test set, {images:,} images",
        f"the test set has {TEST_IMAGES:,}; {images:,} are the training images",
        images == TEST_IMAGES,
    )
    about, claim, measured, holds = accuracy(record, best)
    if record is not None:
        measured += f"; {record['accuracy_on_training_images']:.2f} % of the training images"
    yield about, claim, measured, holds
    # A wrong answer gives the true class a probability of at most a half: at least log 2 of loss.
    least = (1 - best / 100) * log(2)
    lowest = min(log_000["test_loss"])
    yield (
        "average loss",
        f"{lowest:.4f}",
        f"at {best:.2f} % no mean over images is below {least:.4f}",
        lowest >= least,
    )
    yield field(report, f"above {MIN_RECEPTIVE_FIELD}, as the task asks", lambda found: found > MIN_RECEPTIVE_FIELD)
    yield separable(report, "one, in its text", report["depthwise"].passed)


def check_001(report: Report, record: dict | None) -> Iterator[Row]:
    log_001 = PUBLISHED["strided_separable"]["test_accuracy"]
    best = max(log_001)
    yield parameters(report, 197_922)
    yield field(report, "45", lambda found: found == 45)
    yield separable(report, "in block 1", all(name.startswith("c1.") for name in report["depthwise"].where))
    yield accuracy(record, best)
    yield "epochs", "20, in its text", f"{len(log_001)} in its log", len(log_001) == 20
    yield (
        "which epoch",
        f"{best:.2f} % as its result",
        f"{log_001[-1]:.2f} % after its log's last epoch; the best was picked on the test images",
        log_001[-1] == best,
    )


def check_002(report: Report, record: dict | None) -> Iterator[Row]:
    best = max(PUBLISHED["experiment2"]["test_accuracy"])
    yield parameters(report, 201_802, "in its table's total line")
    yield parameters(report, 146_570, "in its log")
    yield (
        "limit of parameters",
        f"{201_802:,}: not below {MAX_PARAMETERS:,}",
        f"{report.parameters:,}: below",
        report.parameters >= MAX_PARAMETERS,
    )
    yield "aim of 85 %", "85 %", f"{best:.2f} %, the best of its log", best >= 85
    yield accuracy(record, best)


def check_003(report: Report, record: dict | None) -> Iterator[Row]:
    yield parameters(report, 180_298)
    yield separable(report, "in block 2", all(name.startswith("c2.") for name in report["depthwise"].where))
    yield accuracy(record, 85.47)


def check_004(report: Report, record: dict | None) -> Iterator[Row]:
    yield parameters(report, 197_472)
    yield separable(report, "in C2", report["depthwise"].passed)
    yield accuracy(record, max(PUBLISHED["residual"]["test_accuracy"]))


def check_task() -> Iterator[Row]:
    try:
        A.CoarseDropout(hole_height_range=(16, 16), hole_width_range=(16, 1))
        found, possible = "a hole like any other", True
    except ValueError:
        found, possible = "Albumentations refuses it: the least exceeds the greatest; 16 is meant", False
    yield "CoarseDropout", "min_width = 16, max_width = 1 in some of its statements", found, possible


def parameters(report: Report, claimed: int, where: str = "") -> Row:
    return "parameters", f"{claimed:,} {where}".strip(), f"{report.parameters:,}", report.parameters == claimed


def field(report: Report, claimed: str, holds) -> Row:
    before, after = report.receptive_field[0], report.receptive_field_with_average[0]
    return "receptive field", claimed, f"{before} before the global average, {after} with it", holds(before)


def separable(report: Report, claimed: str, holds: bool) -> Row:
    return "depthwise separable", claimed, report["depthwise"].measured, holds


def accuracy(record: dict | None, claimed: float) -> Row:
    """The best epoch of its log against the last epoch of its recipe, run here to its full length."""
    if record is None:
        return "test accuracy", f"{claimed:.2f} %", "no full run yet", None
    here = record["results"]["test_accuracy"]
    measured = f"{here:.2f} % after {record['results']['epochs']} epochs"
    return "test accuracy", f"{claimed:.2f} %", measured, here >= claimed - TOLERANCE
