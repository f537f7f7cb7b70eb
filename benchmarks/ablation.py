"""Does every ingredient of a recipe pay for itself? Each is left out in turn, over several seeds; others are put in.

    python benchmarks/ablation.py --width 0.48           # 12 epochs of strong, S7Max of fewer than 50,000 parameters
    python benchmarks/ablation.py --model s7 --recipe fast --epochs 8 --only without-mirror-symmetry
    python benchmarks/ablation.py --width 0.48 --epochs 50 --only with-batch-norms-spared-weight-decay
    python benchmarks/ablation.py --width 0.48 --runs benchmarks/results/ablation --no-training    # what is kept of it

On a validation part of the training images (5,000 of them, fixed by seed): the test images are not looked at. An
ingredient pays if leaving it out costs at least two standard errors; one that the recipe does without would pay if
putting it in gains as much. Every row has the same work, counted in pixels that pass through the network: where small
images no longer come first, there are fewer epochs. Seconds are not compared: those of runs of different days, beside
other work, say nothing. Runs are kept under runs/ablation and resumed; with
`--runs benchmarks/results/ablation`, those whose records are in the repository are taken from there. Writes
benchmarks/results/ablation-NETWORK-RECIPE-EPOCHS.csv, and the table in benchmarks/README.md if that has one of the
same name.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from benchmarks.readme import markdown, of_data, put_into
from utils import RECIPES, InputError, Recipe, build_model, load_cifar10
from utils.engine import suited
from utils.errors import lookup
from utils.files import write
from utils.models.blocks import Residual
from utils.repeat import Repeats, finished_seeds, repeat, unchanged
from utils.tables import as_csv, as_table

# What stands in for an ingredient when it is left out. SGD has the recipe's rate: no other was tried.
WITHOUT = {
    "Muon (SGD instead)": {"optimizer": "sgd"},
    "weight decay": {"weight_decay": 0.0, "muon_weight_decay": 0.0},
    "batch norms spared weight decay": {"decay_norms": True},
    "mirror symmetry": {"mirror_symmetric": False},
    "flip": {"flip": 0.0},
    "random crop": {"crop": 0},
    "shift-scale-rotate": {"shift_scale_rotate": 0.0},
    "colour jitter": {"color_jitter": 0.0},
    "coarse dropout": {"coarse_dropout": 0.0},
    "plain last epochs": {"plain": 0.0},
    "label smoothing": {"label_smoothing": 0.0},
    "small images first": {"sides": (32,)},
    "cosine": {"schedule": "triangle"},
    "falling rate (constant instead)": {"schedule": "steps", "drops": ()},
}
# What a recipe has to be like to have an ingredient, where it is not enough that the above changes it.
SEEN = {"Muon (SGD instead)": {"optimizer": "muon"}, "cosine": {"schedule": "cosine"}}
# How an ingredient is put into a recipe that does without it.
WITH = {
    "mirror symmetry": {"mirror_symmetric": True},
    "random crop": {"crop": 2},
    "colour jitter": {"color_jitter": 0.8},
    "cosine": {"schedule": "cosine"},
    "batch norms spared weight decay": {"decay_norms": False},
    "plain last epochs": {"plain": 0.1},
}
RESIDUALS = "without residual connections"  # the one ingredient of the network itself
# The assignment asks for what these leave out: it stays, whatever it costs.
ASKED = ("without flip", "without shift-scale-rotate", "without coarse dropout")
COLUMNS = ("change", "validation_accuracy", "deviation", "seeds", "cost", "standard_error")


def variants(recipe: Recipe, model: nn.Module) -> dict[str, Recipe]:
    """The recipe as it is ("nothing" changed), without each ingredient that it has, and with each that it has not.

    What the network cannot have, such as images too small for it, counts as no ingredient. All show it as many pixels,
    give or take half an epoch: one of larger images has fewer epochs.
    """
    recipe = suited(recipe, model)
    found = {"nothing": recipe}
    for name, change in WITHOUT.items():
        changed = replace(recipe, **change)
        if set(changed.sides) == set(recipe.sides):  # all its images are large already
            changed = replace(changed, sides=recipe.sides)
        if all(getattr(recipe, field) == value for field, value in SEEN.get(name, {}).items()) and changed != recipe:
            epochs = round(recipe.epochs * pixels(recipe) / pixels(changed)) or 1
            said = "" if epochs == recipe.epochs else f" ({epochs} epochs, as many pixels)"
            found[f"without {name}{said}"] = replace(changed, epochs=epochs)
        elif name in WITH and suited(changed := replace(recipe, **WITH[name]), model) == changed:
            found[f"with {name}"] = changed
    return found


def pixels(recipe: Recipe) -> float:
    """The mean number of pixels, of one channel, of an image that the network is shown."""
    return statistics.mean(side**2 for side in recipe.sides)


def folder_of(name: str) -> str:
    """Where a variant's runs are kept.

    >>> folder_of("without Muon (SGD instead)")
    'without-Muon'
    """
    return name.split(" (")[0].replace(" ", "-")


def without_residuals(model: nn.Module) -> nn.Module:
    """The same network, whose residual blocks no longer add what went in to what comes out."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Residual):
                setattr(parent, name, nn.Sequential(*child))
    name, arguments = model.built_as
    model.built_as = (f"{name} without residuals", arguments)  # or its checkpoints would be read as the whole network's
    return model


def all_changes(recipe: Recipe, model: nn.Module) -> dict[str, tuple[Recipe, Callable[[nn.Module], nn.Module]]]:
    """The recipe, and what is done to the model, of each of the `variants` and of the network without residuals."""
    changes = {name: (variant, unchanged) for name, variant in variants(recipe, model).items()}
    if any(isinstance(module, Residual) for module in model.modules()):
        changes[RESIDUALS] = recipe, without_residuals
    return changes


def rows(results: dict[str, Repeats]) -> list[dict]:
    """For each variant its accuracy, what the change costs in points, and the standard error of that."""
    whole = results["nothing"]
    table = []
    for name, runs in results.items():
        n = len(runs.records)
        error = math.sqrt(whole.deviation**2 / len(whole.records) + runs.deviation**2 / n)  # NaN of a single run
        values = (
            name,
            round(runs.mean, 3),
            round(runs.deviation, 3),
            n,
            round(whole.mean - runs.mean, 3),
            round(error, 3),
        )
        table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def verdict(row: dict) -> str:
    """Whether the ingredient of a row pays for itself, or would."""
    if row["change"] == "nothing":
        return "-"
    if math.isnan(row["standard_error"]):
        return "one seed says nothing"
    if row["change"].startswith("with "):
        return "would pay" if row["cost"] <= -2 * row["standard_error"] else "would not pay"
    if row["cost"] >= 2 * row["standard_error"]:
        return "pays"
    return "does not pay; the assignment asks for it" if row["change"] in ASKED else "does not pay"


def cells(table: list[dict]) -> list[tuple]:
    """The rows as they are shown, heading first."""
    shown = [("changed", "validation accuracy", "seeds", "costs", "standard error", "")]
    for row in table:
        spread = "" if math.isnan(row["deviation"]) else f" ± {row['deviation']:.2f}"
        accuracy = f"{row['validation_accuracy']:.2f}{spread}"
        error = "-" if math.isnan(row["standard_error"]) else f"{row['standard_error']:.2f}"
        compared = ("-", "-") if row["change"] == "nothing" else (f"{row['cost']:+.2f}", error)
        shown.append((row["change"], accuracy, row["seeds"], *compared, verdict(row)))
    return shown


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="s7_max")
    parser.add_argument("--width", type=float, help="of the network: a narrow one takes less time")
    parser.add_argument("--recipe", default="strong")
    parser.add_argument("--epochs", type=int, default=12, help="fewer than the recipe has (default: 12)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on; of a change with more, all count")
    parser.add_argument("--validation", type=int, default=5000, help="training images held out (default: 5000)")
    parser.add_argument(
        "--only", nargs="+", metavar="CHANGE", help="besides the whole recipe, train these only: without-flip, ..."
    )
    parser.add_argument("--no-training", action="store_true", help="only what has been trained before")
    parser.add_argument("--data", default="auto")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ablation", help="where the runs are kept")
    parsed = parser.parse_args(arguments)
    recipe = replace(lookup(RECIPES, parsed.recipe, "recipe"), epochs=parsed.epochs)
    whole = load_cifar10(parsed.data)
    data = whole.hold_out(parsed.validation)
    width = {} if parsed.width is None else {"width": parsed.width}
    network = "-".join([parsed.model, *(f"{value:g}" for value in width.values())])
    title = f"{network}-{parsed.recipe}-{parsed.epochs}"
    folder = parsed.runs / title
    changes = all_changes(recipe, build_model(parsed.model, **width))
    folders = {folder_of(name): name for name in changes}
    to_train = folders if parsed.only is None else ["nothing", *parsed.only]
    for change in to_train:
        lookup(folders, change, "change")
    if parsed.no_training:
        to_train = []

    def runs_of(name: str, variant: Recipe, change: Callable) -> Repeats | None:
        run = (parsed.model, data, variant)
        kept = {"out": folder / folder_of(name), "change": change} | width
        finished = finished_seeds(*run, **kept)
        seeds = max(parsed.seeds, finished) if folder_of(name) in to_train else finished
        return repeat(*run, seeds, **kept) if seeds else None

    results = {name: runs_of(name, *change) for name, change in changes.items()}
    if results["nothing"] is None:
        raise InputError(f"{folder} has no finished run of the whole recipe: leave out --no-training")
    found = rows({name: runs for name, runs in results.items() if runs is not None})
    print(f"{network}, recipe {parsed.recipe}, {parsed.epochs} epochs; {data.origin}")
    print(as_table(cells(found)))
    name = f"ablation-{title}{of_data(whole)}"
    write(ROOT / "benchmarks" / "results" / f"{name}.csv", as_csv(COLUMNS, found).encode())
    put_into(ROOT / "benchmarks" / "README.md", name, markdown(cells(found)))


if __name__ == "__main__":
    sys.exit(main())
