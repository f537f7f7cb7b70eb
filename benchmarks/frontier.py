"""How accurate can so few parameters be? Our networks at several widths, beside the five systems and published points.

    python benchmarks/frontier.py   # s7 under fast, s7_max and s7_mirror under strong, one seed a width; and record
    python benchmarks/frontier.py --models s7 --recipe strong --widths 0.5 --seeds 3
    python benchmarks/frontier.py --runs benchmarks/results --no-training    # what the repository has of it

Each width is trained to the recipe's end; the five systems are those of benchmarks/results/systems, under their own
recipes. Every figure is of the last epoch, so that nothing is chosen by the test images; the table says how often they
were looked at. Runs are kept under runs/frontier, those at width 1 under runs/seeds with those of seeds.py, and
resumed; with `--runs benchmarks/results`, those of which the repository keeps the records, or at width 1 the table that
seeds.py made, are taken from there. Writes benchmarks/results/frontier.csv, images/frontier.png and the README's table;
with models, widths or a recipe named, it prints only.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from benchmarks.readme import markdown, of_data, put_into
from benchmarks.systems import RESULTS as SYSTEM_RUNS
from utils import RECIPES, ImageData, InputError, Recipe, build_model, load_cifar10
from utils.errors import lookup
from utils.files import write
from utils.measured import read_runs
from utils.models import parameter_count
from utils.models.pretrained import shipped
from utils.plots import frontier
from utils.records import must_agree, with_defaults
from utils.repeat import finished_seeds, repeat
from utils.tables import as_csv, as_table

MODELS = {"s7": "fast", "s7_max": "strong", "s7_mirror": "strong"}  # each with the recipe that it was made for
WIDTHS = (0.375, 0.48, 0.75, 1.0)  # from about 28,000 to 200,000 parameters
# Network, recipe and width: too long for all widths.
BESIDES = (("s7_max", "record", 1.0), ("s7_mirror", "record", 1.0))
COLUMNS = ("name", "parameters", "test_accuracy", "deviation", "seeds", "test_evaluations", "data", "how")


@dataclass(frozen=True)
class Point:
    """A network, or a width of one, and how accurate it is.

    Attributes:
        test_accuracy: in percent, last epoch; the mean over the seeds.
        deviation: sample standard deviation over the seeds; None of a single one.
        test_evaluations: how often a run looked at the test images; None if nobody says.
        data: which pixels.
        how: recipe or source.
    """

    name: str
    parameters: int
    test_accuracy: float
    deviation: float | None
    seeds: int
    test_evaluations: int | None
    data: str
    how: str


# What others report. On the original pixels: not to be compared with the JPEG copy to the point.
PUBLISHED = (
    Point(
        "cifar10-tiniest",
        97_530,
        94.4,
        None,
        5,
        None,
        "CIFAR-10, original",
        "github.com/xvel/cifar10-tiniest, 200 epochs",
    ),
)


def measured_point(
    name: str, parameters: int, accuracies: list[float], test_evaluations: int, data: str, how: str
) -> Point:
    """Of runs that differ in their seed alone: their test accuracies, in percent. The rest is as in `Point`."""
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    mean = statistics.mean(accuracies)
    return Point(name, parameters, mean, deviation, len(accuracies), test_evaluations, data, how)


def family_point(
    model: str, width: float, data: ImageData, recipe: Recipe, seeds: int, kept: Path, train: bool = True
) -> Point | None:
    """Trains the network of that name at one width with seeds from 0 on, unless the folder `kept` has them trained.

    Of runs of width 1 the table that seeds.py made of them is enough, if the weights of one of them ship: their record
    says of which recipe and data the table is.

    Args:
        seeds: how many; if the folder has more of them, those too.
        train: False: those that the folder has, no others; None if it has none.

    Raises:
        InputError: what the folder has is of another network, recipe or data.
    """
    arguments = {} if width == 1 else {"width": width}
    family = f"{model}-{recipe.name}" if width == 1 else f"{model}-{width:g}-{recipe.name}"
    folder = kept / ("seeds" if width == 1 else "frontier") / family
    table = kept / f"{family}.csv"
    if width == 1 and table.exists() and not folder.exists() and family in shipped():
        must_agree(table, with_defaults(shipped()[family]), {"recipe": asdict(recipe), "data": data.to_dict()})
        with open(table, newline="", encoding="utf-8") as lines:
            accuracies = [float(row["test_accuracy"]) for row in csv.DictReader(lines)]
        parameters = parameter_count(build_model(model))
    else:
        finished = finished_seeds(model, data, recipe, folder, **arguments)
        seeds = max(seeds, finished) if train else finished
        if seeds == 0:
            return None
        runs = repeat(model, data, recipe, seeds, folder, **arguments)
        accuracies, parameters = runs.accuracies, runs.records[0]["parameters"]
    how = f"{model} under {recipe.name}"
    return measured_point(f"{model}, width {width:g}", parameters, accuracies, recipe.epochs, data.name, how)


def system_points() -> list[Point]:
    """The five systems under their own recipes, those whose runs are there."""
    points = []
    for (model, kind), runs in read_runs(SYSTEM_RUNS).items():
        if kind == "own":
            first, looks = runs[0].record, len(runs[0].history)
            accuracies = [run.record["results"]["test_accuracy"] for run in runs]
            how = "the system's own recipe"
            points.append(measured_point(model, first["parameters"], accuracies, looks, first["data"]["name"], how))
    return points


def rows(points: list[Point]) -> list[tuple]:
    """A table, heading first, from few parameters to many."""
    table = [("network", "parameters", "test accuracy", "seeds", "looks at the test images", "data", "how")]
    for point in sorted(points, key=lambda point: point.parameters):
        spread = "" if point.deviation is None else f" ± {point.deviation:.2f}"
        looks = "not said"
        if point.test_evaluations is not None:
            looks = f"{point.test_evaluations} per run, no epoch chosen by them"
        accuracy = f"{point.test_accuracy:.2f}{spread}"
        table.append((point.name, f"{point.parameters:,}", accuracy, point.seeds, looks, point.data, point.how))
    return table


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="networks that take a width (default: all)")
    parser.add_argument("--recipe", help="for all of them (default: for each the one that it was made for)")
    parser.add_argument("--widths", type=float, nargs="+", metavar="WIDTH", help=f"default: {WIDTHS}")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on; of a width with more, all count")
    parser.add_argument("--no-training", action="store_true", help="only what has been trained before")
    parser.add_argument("--data", default="auto")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs are kept")
    parsed = parser.parse_args(arguments)
    everything = (parsed.models, parsed.widths, parsed.recipe) == (None, None, None)
    wanted = [
        (model, parsed.recipe or MODELS.get(model, "strong"), width)
        for model in parsed.models or MODELS
        for width in parsed.widths or WIDTHS
    ]
    wanted += BESIDES if everything else ()
    recipes = {recipe: lookup(RECIPES, recipe, "recipe") for _, recipe, _ in wanted}
    data = load_cifar10(parsed.data)
    families = [
        family_point(model, width, data, recipes[recipe], parsed.seeds, parsed.runs, not parsed.no_training)
        for model, recipe, width in wanted
    ]
    if not any(families):
        raise InputError(f"{parsed.runs} has no finished run of these: name another --runs, or leave out --no-training")
    points = [*filter(None, families), *system_points(), *PUBLISHED]
    print(as_table(rows(points)))
    if everything:
        name = f"frontier{of_data(data)}"
        write(ROOT / "benchmarks" / "results" / f"{name}.csv", as_csv(COLUMNS, map(vars, points)).encode())
        frontier(points, data.origin).savefig(ROOT / "images" / f"{name}.png")
        put_into(ROOT / "README.md", name, markdown(rows(points)))


if __name__ == "__main__":
    sys.exit(main())
