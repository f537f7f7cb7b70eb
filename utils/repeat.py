"""One recipe with many seeds: what it reaches, as a statement about the recipe and not about one run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from numbers import Integral
from pathlib import Path

from scipy import stats
from torch import nn

from utils.data import ImageData
from utils.engine import fit, suited
from utils.errors import InputError
from utils.files import write
from utils.models import build_model
from utils.recipes import Recipe
from utils.records import finished_record
from utils.tables import as_csv

COLUMNS = ("seed", "test_accuracy", "test_loss", "best_test_accuracy", "seconds", "seconds_to_target")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Repeats:
    """The results of several runs that differ in their seed alone, of their last epochs.

    Attributes:
        records: the content of each run's run.json, in the order of the seeds.
    """

    records: Sequence[dict]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies in percent."""
        return [record["results"]["test_accuracy"] for record in self.records]

    @property
    def seconds(self) -> list[float]:
        return [record["results"]["seconds"] for record in self.records]

    @property
    def target(self) -> float:
        return self.records[0]["results"]["target"]

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Sample standard deviation, in points; NaN of a single run."""
        return statistics.stdev(self.accuracies) if len(self.records) > 1 else float("nan")

    @property
    def reached(self) -> int:
        """How many runs ended at the target or above."""
        return sum(accuracy >= self.target for accuracy in self.accuracies)

    @property
    def mean_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean: Student's t; NaN of a single run."""
        error = self.deviation / len(self.records) ** 0.5
        if error == 0:
            return self.mean, self.mean
        return tuple(map(float, stats.t.interval(CONFIDENCE, len(self.records) - 1, self.mean, error)))

    @property
    def reached_interval(self) -> tuple[float, float]:
        """95 % confidence interval, in percent, of the share of seeds that end at the target or above.

        Source: C. Clopper, E. Pearson, Biometrika 26 (1934) 404, the exact one.
        """
        interval = stats.binomtest(self.reached, len(self.records)).proportion_ci(CONFIDENCE, method="exact")
        return 100 * float(interval.low), 100 * float(interval.high)

    def to_csv(self) -> str:
        """One line a seed."""
        rows = [{"seed": r["seed"]} | {key: r["results"][key] for key in COLUMNS[1:]} for r in self.records]
        return as_csv(COLUMNS, rows)

    @property
    def tested(self) -> str:
        """What the networks were tested on: "test" images, or "validation" images that were held out."""
        return "test" if self.records[0]["results"]["test_evaluations"] else "validation"

    def __str__(self) -> str:
        n = len(self.records)
        low, high = self.reached_interval
        mean = f"{self.mean:.2f} %"
        if n > 1:
            mean = "{} ± {:.2f} % (95 % confidence of the mean: {:.2f} to {:.2f})".format(
                f"{self.mean:.2f}", self.deviation, *self.mean_interval
            )
        return (
            f"{self.tested} accuracy, last epoch, n = {n}: {mean}\n"
            f"lowest and highest: {min(self.accuracies):.2f} %, {max(self.accuracies):.2f} %\n"
            f"at {self.target:.2f} % or more: {self.reached} of {n} (95 % confidence: {low:.0f} to {high:.0f} %)\n"
            f"seconds a run: median {statistics.median(self.seconds):.0f} ({min(self.seconds):.0f} to "
            f"{max(self.seconds):.0f})\n"
            f"data: {self.records[0]['data']['name']}"
        )


def unchanged(model: nn.Module) -> nn.Module:
    """The network as it is, where `repeat` is to change nothing."""
    return model


def repeat(
    model_name: str,
    data: ImageData,
    recipe: Recipe,
    seeds: int,
    out: str | Path,
    device: str = "auto",
    change: Callable[[nn.Module], nn.Module] = unchanged,
    **arguments,
) -> Repeats:
    """Trains the network of that name with seeds 0, 1, ... `seeds` - 1, each in a folder of its own under `out`.

    After a stop the same call goes on where it was; of a run that has ended, its run.json is enough. `out/repeat.csv`
    has a line for each seed that is done.

    Args:
        change: of each network before it is trained.
        arguments: of the network's constructor, such as `width=0.5`.

    Raises:
        InputError: the name is unknown, there are to be no seeds, or a folder holds another run.
        TrainingError: see `fit`.
    """
    if not isinstance(seeds, Integral) or seeds < 1:
        raise InputError(f"{seeds!r} seeds cannot be trained with; take a whole number from 1 on")
    data = replace(data)  # the digest that this one keeps may be of pixels or labels that were changed since
    records = []
    for seed in range(seeds):
        folder = Path(out) / f"seed{seed}"
        model = change(build_model(model_name, seed=seed, classes=len(data.classes), **arguments))
        record = finished_record(folder, model, suited(recipe, model), data, seed)
        if record is None:
            fit(model, data, recipe, seed=seed, out=folder, resume=True, device=device)
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        records.append(record)
        write(Path(out) / "repeat.csv", Repeats(records).to_csv().encode())
    return Repeats(records)


def finished_seeds(
    model_name: str,
    data: ImageData,
    recipe: Recipe,
    out: str | Path,
    change: Callable[[nn.Module], nn.Module] = unchanged,
    **arguments,
) -> int:
    """How many seeds, from 0 on, `repeat` would find trained to the recipe's end. The arguments are those of `repeat`.

    Raises:
        InputError: the name is unknown, or a folder holds another run.
    """
    data = replace(data)  # as in `repeat`

    def record(seed: int) -> dict | None:
        model = change(build_model(model_name, seed=seed, classes=len(data.classes), **arguments))
        return finished_record(Path(out) / f"seed{seed}", model, suited(recipe, model), data, seed)

    return next(seed for seed in count() if record(seed) is None)
