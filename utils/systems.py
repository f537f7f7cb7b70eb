"""The five systems that did this assignment: what they claim, and what is true of it.

The networks are in utils/models/, the recipes in utils/recipes.py. `check_claims` measures each claim on the network
itself, on the system's own log, or on a full run of its recipe; notebooks/compare.ipynb shows the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import albumentations as A
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from utils.arrays import ORIGINAL, TEST_IMAGES
from utils.audit import MAX_PARAMETERS, MIN_RECEPTIVE_FIELD, Report, audit
from utils.evaluation import evaluating
from utils.models import build_model

NUMBERS = {  # by the network that is the system's here
    "dilated_valid": "000",
    "strided_separable": "001",
    "experiment2": "002",
    "transition": "003",
    "residual": "004",
}
TOLERANCE = 0.5  # points of accuracy that another seed may cost
# By network: accuracy in percent and average loss by epoch as the systems' logs have them, and on how many images that
# was. 003 published no log.
PUBLISHED: dict[str, dict] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


def multiply_adds(model: nn.Module, input_shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiplications with weights for one image, as torch counts them: convolutions and linear layers."""
    with evaluating(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *input_shape))
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Verdict:
    """One claim: whose (its number), about what, what is claimed, what was measured, and whether the claim holds.

    `holds` is None where the full run that would tell has not been made. `data` is what the claim was measured on,
    where that matters: a claim of accuracy that other pixels do not reach is missed there, and not refuted.
    """

    system: str
    about: str
    claimed: str
    measured: str
    holds: bool | None
    data: str = ORIGINAL

    @property
    def word(self) -> str:
        """The verdict, for a table."""
        if self.holds is False and self.data != ORIGINAL:
            return "NOT REACHED"
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


Row = tuple  # a Verdict's fields without its system


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
    about, claim, measured, *rest = accuracy(record, best)
    if record is not None:
        measured += f"; {record['accuracy_on_training_images']:.2f} % of the training images"
    yield about, claim, measured, *rest
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
    yield separable(report, "in block 1", all_in("c1", report["depthwise"].where))
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
    yield separable(report, "in block 2", all_in("c2", report["depthwise"].where))
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


def field(report: Report, claimed: str, holds: Callable[[int], bool]) -> Row:
    before, after = report.receptive_field[0], report.receptive_field_with_average[0]
    return "receptive field", claimed, f"{before} before the global average, {after} with it", holds(before)


def all_in(block: str, layers: Sequence[str]) -> bool:
    """Whether there are such layers, and all of them in a block."""
    return bool(layers) and all(name.startswith(f"{block}.") for name in layers)


def separable(report: Report, claimed: str, holds: bool) -> Row:
    row = report["depthwise"]
    blocks = dict.fromkeys(name.split(".")[0].upper() for name in row.where)
    measured = f"{row.measured}, in {' and '.join(blocks)}" if blocks else row.measured
    return "depthwise separable", claimed, measured, holds


def accuracy(record: dict | None, claimed: float) -> Row:
    """The best epoch of its log against the last epoch of its recipe, run here to its full length."""
    if record is None:
        return "test accuracy", f"{claimed:.2f} %", "no full run yet", None
    here, data = record["results"]["test_accuracy"], record["data"]["name"]
    measured = f"{here:.2f} % after {record['results']['epochs']} epochs; {data}"
    return "test accuracy", f"{claimed:.2f} %", measured, here >= claimed - TOLERANCE, data
