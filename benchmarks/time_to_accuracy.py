"""How soon is a network at 85 %? Wall time from the call of `fit` to the end of the first epoch that gets there.

    python benchmarks/time_to_accuracy.py                                    # s7 under fast, 5 seeds
    python benchmarks/time_to_accuracy.py s7:fast residual:residual --seeds 3 --target 80

Everything counts but reading the data set. With several runs, one seed of each takes its turn: a noisy machine is then
noisy for all of them. The ratio is to the first, and there is none if that does not get there. Finished runs are kept
under runs/time and not repeated; one that was interrupted goes on where it was. Prints a table; writes
benchmarks/results/time_to_accuracy.csv (one row an epoch) and images/time_to_accuracy.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from benchmarks.readme import of_data
from utils import RECIPES, ImageData, InputError, Recipe, build_model, fit, load_cifar10
from utils.__main__ import positive
from utils.errors import lookup
from utils.files import write
from utils.plots import accuracy_by_seconds
from utils.tables import as_csv, as_table

COLUMNS = ("model", "recipe", "seed", "epoch", "seconds", "test_accuracy")


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=["s7:fast"], metavar="MODEL:RECIPE", help="default: s7:fast")
    parser.add_argument("--target", type=float, default=85.0, help="%% of the test images (default: 85)")
    parser.add_argument("--seeds", type=positive, default=5, help="how many, from 0 on")
    parser.add_argument("--data", default="auto")
    parser.add_argument("--as-it-is", action="store_true", help="keep a recipe's float32 and its image-by-image policy")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "time", help="where the runs are kept")
    parsed = parser.parse_args(arguments)
    pairs = {text: pair(text) for text in parsed.runs}
    data = load_cifar10(parsed.data)
    curves = {name: [] for name in pairs}
    for seed in range(parsed.seeds):
        for name, (model, recipe) in pairs.items():
            recipe = RECIPES[recipe]
            if not parsed.as_it_is:
                recipe = replace(recipe, precision="auto", per_image=False)
            folder = parsed.out / f"{model}-{recipe.name}-{parsed.target:g}-seed{seed}"
            curves[name].append(run(model, recipe, seed, data, parsed.target, folder))
    print(as_table(summary(curves, parsed.target)))
    hardware = json.loads((folder / "run.json").read_text(encoding="utf-8"))["hardware"]
    print(f"{data.origin}\n{hardware}")
    records = [
        {"model": model, "recipe": recipe, "seed": seed} | {column: record[column] for column in COLUMNS[3:]}
        for name, (model, recipe) in pairs.items()
        for seed, history in enumerate(curves[name])
        for record in history
    ]
    name = f"time_to_accuracy{of_data(data)}"
    write(ROOT / "benchmarks" / "results" / f"{name}.csv", as_csv(COLUMNS, records).encode())
    accuracy_by_seconds(curves, parsed.target, data.origin).savefig(ROOT / "images" / f"{name}.png")


def pair(text: str) -> tuple[str, str]:
    """Model and recipe of "model:recipe".

    Raises:
        InputError: it has another form, or the recipe is unknown. An unknown model is named by `build_model`.
    """
    model, colon, recipe = text.partition(":")
    if not colon:
        raise InputError(f"{text!r} is not MODEL:RECIPE, as in s7:fast")
    lookup(RECIPES, recipe, "recipe")
    return model, recipe


def run(model_name: str, recipe: Recipe, seed: int, data: ImageData, target: float, folder: Path) -> list[dict]:
    """The history of one run, which ends with the first epoch at `target` or with the recipe's last."""
    model = build_model(model_name, seed=seed, classes=len(data.classes))
    return fit(model, data, recipe, seed=seed, out=folder, resume=True, until=target)


def summary(curves: dict[str, list[list[dict]]], target: float) -> list[tuple]:
    """The printed table, heading first: seconds to the target over the seeds that got there."""
    rows = [("run", f"at {target:g} %", "median s", "least", "most", "epochs", "ratio to the first")]
    medians = []
    for name, histories in curves.items():
        firsts = [next((r for r in history if r["test_accuracy"] >= target), None) for history in histories]
        firsts = [record for record in firsts if record]  # a run may have gone on beyond
        there = f"{len(firsts)} of {len(histories)} seeds"
        seconds = [record["seconds"] for record in firsts]
        medians.append(statistics.median(seconds) if seconds else None)
        if not firsts:
            rows.append((name, there, "-", "-", "-", "-", "-"))
            continue
        epochs = sorted({record["epoch"] for record in firsts})
        spread = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        ratio = f"{medians[-1] / medians[0]:.1f}" if medians[0] else "-"
        rows.append((name, there, f"{medians[-1]:.0f}", f"{min(seconds):.0f}", f"{max(seconds):.0f}", spread, ratio))
    return rows


if __name__ == "__main__":
    sys.exit(main())
