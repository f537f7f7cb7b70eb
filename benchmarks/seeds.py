"""Trains a recipe with several seeds and writes what came out: a CSV, and the README's table if it has one for it.

    python benchmarks/seeds.py --seeds 20
    python benchmarks/seeds.py --recipe strong --seeds 3

Those of S7Net under `fast` make the README's pictures as well. Runs are kept under runs/seeds and resumed: after a
stop, the same command goes on where it was. With `--runs benchmarks/results/seeds`, runs whose records are in the
repository are taken from there. Every figure is of the last epoch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from benchmarks.readme import of_data, put_into
from benchmarks.systems import RESULTS as SYSTEM_RUNS
from utils import RECIPES, load_cifar10
from utils.__main__ import positive
from utils.errors import lookup
from utils.files import write
from utils.history import read_history
from utils.measured import best_system, read_runs
from utils.plots import curves, repeats
from utils.repeat import Repeats, repeat


def as_markdown(runs: Repeats, command: str, csv_path: str, best: tuple[str, float] | None = None) -> str:
    """A table for the README, all of it from the runs' own records.

    Args:
        best: of the five systems, as `best_system` returns it.
    """
    first, n = runs.records[0], len(runs.records)
    accuracy, extremes = f"**{runs.mean:.2f} %** (seed 0 alone)", []
    if n > 1:
        extremes = [f"| lowest and highest seed | {min(runs.accuracies):.2f} %, {max(runs.accuracies):.2f} % |"]
        accuracy = (
            f"**{runs.mean:.2f} ± {runs.deviation:.2f} %** "
            f"(mean ± sample standard deviation, n = {n} seeds, 0 to {n - 1}; "
            "95 % confidence interval of the mean {:.2f} to {:.2f})".format(*runs.mean_interval)
        )

    def versions(name: str) -> str:
        return " and ".join(dict.fromkeys(record["versions"][name] for record in runs.records))

    precisions = " and ".join(dict.fromkeys(record["precision"] for record in runs.records))

    above = []
    if best:
        system, theirs = best
        above = [
            f"| against the best of the five systems under its own recipe | {runs.mean - theirs:+.2f} points "
            f"({system}: {theirs:.2f} %, seed 0) |"
        ]
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| test accuracy, last epoch | {accuracy} |",
            *extremes,
            f"| seeds at {runs.target:.2f} % or more | {runs.reached} of {n} "
            "(95 % confidence interval: {:.0f} to {:.0f} %) |".format(*runs.reached_interval),
            *above,
            f"| time of a run, tests included | {times(runs)}; {first['recipe']['epochs']} epochs |",
            f"| data | {first['data']['provenance']}; {first['data']['test_images']:,} test images |",
            f"| looks at the test images | {first['results']['test_evaluations']} a run, after every epoch; "
            "no epoch was chosen by them |",
            f"| parameters | {first['parameters']:,} |",
            f"| precision, versions | {precisions}; Python {versions('python')}, torch {versions('torch')}, "
            f"albumentations {versions('albumentations')} |",
            f"| command, every run | `{command}`, [{csv_path}]({csv_path}) |",
        ]
    )


def times(runs: Repeats) -> str:
    """How long a run took, on each kind of hardware and, where runs differ in it, in each precision."""
    several = len({record["precision"] for record in runs.records}) > 1
    seconds: dict[str, list[float]] = {}
    for record in runs.records:
        machine = record["hardware"] + (f" in {record['precision']}" if several else "")
        seconds.setdefault(machine, []).append(record["results"]["seconds"])
    parts = []
    for machine, spent in seconds.items():
        part = f"{spent[0]:.0f} s on {machine}"
        if len(spent) > 1:
            part = f"median {median(spent):.0f} s ({min(spent):.0f} to {max(spent):.0f}) on {machine}"
        parts.append(part + (f" (n = {len(spent)})" if len(seconds) > 1 else ""))
    return "; ".join(parts)


def command_for(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> str:
    """What gives these results again: the program with those of its choices that are not the default."""
    chosen = ((option, getattr(parsed, option)) for option in ("model", "recipe", "seeds"))
    options = [f" --{option} {value}" for option, value in chosen if value != parser.get_default(option)]
    return "python benchmarks/seeds.py" + "".join(options)


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="s7")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--data", default="auto")
    parser.add_argument("--seeds", type=positive, default=20, help="how many, from 0 on")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "seeds", help="where the runs are kept")
    parsed = parser.parse_args(arguments)
    recipe = lookup(RECIPES, parsed.recipe, "recipe")
    data = load_cifar10(parsed.data)
    name = f"{parsed.model}-{parsed.recipe}{of_data(data)}"
    folder = parsed.runs / f"{parsed.model}-{parsed.recipe}"
    runs = repeat(parsed.model, data, recipe, parsed.seeds, folder)
    csv_path = f"benchmarks/results/{name}.csv"
    write(ROOT / csv_path, runs.to_csv().encode())
    best = best_system(read_runs(SYSTEM_RUNS), runs.records[0]["data"]["name"])
    table = as_markdown(runs, command_for(parser, parsed), csv_path, best)
    print(table)
    put_into(ROOT / "README.md", name, table)
    if name == "s7-fast":
        history = read_history(folder / "seed0" / "history.csv")
        curves(history, "S7Net, recipe fast, seed 0", data.origin).savefig(ROOT / "images" / "curves.png")
        repeats(runs).savefig(ROOT / "images" / "seeds.png")


if __name__ == "__main__":
    sys.exit(main())
