"""Trains a recipe with several seeds and writes what came out: a CSV, the README's table and its curve.

    python benchmarks/seeds.py --seeds 5

Runs are kept under runs/seeds and resumed: after a stop, the same command goes on where it was. Every figure is of
the last epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils import RECIPES, InputError, build_model, fit, load_cifar10
from utils.errors import lookup
from utils.plots import curves
from utils.runs import read_history, write

BEGIN, END = "<!-- results: make results -->", "<!-- end of results -->"
COLUMNS = ("seed", "test_accuracy", "test_loss", "best_test_accuracy", "seconds", "seconds_to_target")


def train_seeds(model_name: str, recipe_name: str, source: str, seeds: int, runs: Path) -> list[dict]:
    """One run a seed; returns their run.json records."""
    recipe = lookup(RECIPES, recipe_name, "recipe")
    data = load_cifar10(source)
    records = []
    for seed in range(seeds):
        folder = runs / f"{model_name}-{recipe_name}-seed{seed}"
        model = build_model(model_name, seed=seed, classes=len(data.classes))
        fit(model, data, recipe, seed=seed, out=folder, resume=True)
        records.append(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    return records


def as_csv_rows(records: list[dict]) -> list[dict]:
    return [{"seed": record["seed"]} | {key: record["results"][key] for key in COLUMNS[1:]} for record in records]


def as_markdown(records: list[dict], command: str, csv_path: str) -> str:
    """The README's table, all of it from the runs' own records."""
    first = records[0]
    accuracies = [record["results"]["test_accuracy"] for record in records]
    seconds = [record["results"]["seconds"] for record in records]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(records) > 1 else ""
    reached = sum(a >= first["results"]["target"] for a in accuracies)
    versions = first["versions"]
    return "\n".join(
        [
            BEGIN,
            "| | |",
            "|---|---|",
            f"| test accuracy, last epoch | **{statistics.mean(accuracies):.2f}{spread} %** "
            f"(mean ± sample standard deviation, n = {len(records)} seeds, 0 to {len(records) - 1}) |",
            f"| lowest and highest seed | {min(accuracies):.2f} %, {max(accuracies):.2f} % |",
            f"| seeds at {first['results']['target']:.2f} % or more | {reached} of {len(records)} |",
            f"| time of a run, tests included | median {statistics.median(seconds):.0f} s "
            f"({min(seconds):.0f} to {max(seconds):.0f}), {first['recipe']['epochs']} epochs |",
            f"| data | {first['data']['provenance']}; {first['data']['test_images']:,} test images |",
            f"| parameters | {first['parameters']:,} |",
            f"| hardware, versions | {first['hardware']}, {first['precision']}; Python {versions['python']}, torch "
            f"{versions['torch']}, albumentations {versions['albumentations']} |",
            f"| command, every run | `{command}`, [{csv_path}]({csv_path}) |",
            END,
        ]
    )


def put_into(readme: Path, table: str) -> None:
    """Exchanges what stands between the README's two markers."""
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write(readme, (before + table + after).encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="s7")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--data", default="auto")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "seeds", help="where the runs are kept")
    parsed = parser.parse_args(arguments)
    try:
        records = train_seeds(parsed.model, parsed.recipe, parsed.data, parsed.seeds, parsed.runs)
    except InputError as error:
        print(f"seeds.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    name = f"benchmarks/results/{parsed.model}-{parsed.recipe}.csv"
    (ROOT / name).parent.mkdir(exist_ok=True)
    with open(ROOT / name, "w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(as_csv_rows(records))
    command = f"python benchmarks/seeds.py --seeds {parsed.seeds}"
    table = as_markdown(records, command, name)
    print(table)
    if (parsed.model, parsed.recipe) == ("s7", "fast"):
        put_into(ROOT / "README.md", table)
        history = read_history(parsed.runs / "s7-fast-seed0" / "history.csv")
        data = records[0]["data"]
        figure = curves(history, "S7Net, recipe fast, seed 0", f"{data['name']}: {data['provenance']}")
        figure.savefig(ROOT / "images" / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
