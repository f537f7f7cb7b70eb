"""Trains the five systems and ours, each under its own recipe and under `fast`, and keeps what came out.

    python benchmarks/systems.py                             # everything: hours on two cores
    python benchmarks/systems.py --models residual --under own
    python benchmarks/systems.py --runs runs/own --results runs/own/results    # anew: on your data and machine

Four kinds of run:
- own: the system's recipe to its full length, one seed. For time's sake on the batched policy and in the device's
  best precision; epochs, batches, rates, dropout and policy are its own.
- fast: the recipe `fast`, three seeds.
- as_it_ran: one epoch just as the system ran itself (float32, Albumentations image by image in two loader
  workers), for the seconds that it takes.
- fast_epoch: one epoch under `fast`, all its image sides in it, likewise for its seconds. These two want the machine
  to themselves.

Runs are kept under runs/systems and resumed: after a stop, the same command goes on where it was. Each finished run's
history.csv and run.json go to benchmarks/results/systems/, where notebooks/compare.ipynb reads them; the README gets
its tables anew. What is there already is not measured again; with `--results`, results go to a folder of your own, and
the tables are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from benchmarks.readme import markdown, put_into
from utils import RECIPES, ImageData, Recipe, build_model, evaluate, fit, load_cifar10
from utils.engine import suited
from utils.errors import lookup
from utils.files import write
from utils.measured import measured_rows, ours_against_theirs, read_runs, sources
from utils.records import identity, must_agree, read_record

RESULTS = ROOT / "benchmarks" / "results" / "systems"
SYSTEMS = ("experiment2", "residual", "dilated_valid", "transition", "strided_separable")  # the shortest first
MODELS = ("s7", *SYSTEMS, "s7_dilated")
SEEDS = {"own": 1, "fast": 3, "as_it_ran": 1, "fast_epoch": 1}  # by kind


def recipe_for(model_name: str, kind: str) -> Recipe | None:
    """The recipe of a run, or None: our own networks have no recipe but `fast`."""
    if kind.startswith("fast"):
        return RECIPES["fast"] if kind == "fast" else replace(RECIPES["fast"], epochs=1)
    if model_name not in SYSTEMS:
        return None
    own = RECIPES[model_name]
    return replace(own, epochs=1) if kind == "as_it_ran" else replace(own, precision="auto", per_image=False)


def run(model_name: str, kind: str, recipe: Recipe, seed: int, data: ImageData, runs: Path, results: Path) -> None:
    """Trains one network, unless its result is there already, and puts its history and record into the results.

    Raises:
        InputError: the result that is there is damaged, or of another recipe or other data.
    """
    name = f"{model_name}-{kind}-seed{seed}"
    model = build_model(model_name, seed=seed)
    kept = results / f"{name}.json"
    if kept.exists():
        asked = identity(model, suited(recipe, model), data, seed)
        must_agree(kept, read_record(kept), asked)
        return
    print(f"== {name}", flush=True)
    fit(model, data, recipe, seed=seed, out=runs / name, resume=True)
    record = json.loads((runs / name / "run.json").read_text(encoding="utf-8"))
    # What system 000 took for its test accuracy. The weights are the last epoch's, after a resumed run as well.
    record["accuracy_on_training_images"] = evaluate(model, data.train).accuracy
    results.mkdir(parents=True, exist_ok=True)
    write(results / f"{name}.csv", (runs / name / "history.csv").read_bytes())
    write(kept, (json.dumps(record, indent=2) + "\n").encode())


def tables(results: Path) -> str:
    """What the README shows of the results: what was measured on each network, how soon ours is, and on what."""
    runs = read_runs(results)
    theirs_and_ours = (markdown(measured_rows(runs, MODELS)), markdown(ours_against_theirs(runs)))
    return "\n\n".join([*theirs_and_ours, f"Data, machine: {'. '.join(sources(runs))}."])


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--under", nargs="+", default=list(SEEDS), metavar="KIND", help=", ".join(SEEDS))
    parser.add_argument("--data", default="auto")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "systems", help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where records go (default: the repository's)")
    parsed = parser.parse_args(arguments)
    for name in parsed.models:
        lookup(dict.fromkeys(MODELS), name, "model")
    for kind in parsed.under:
        lookup(SEEDS, kind, "kind of run")
    data = load_cifar10(parsed.data)
    for kind in parsed.under:
        for name in parsed.models:
            recipe = recipe_for(name, kind)
            for seed in range(SEEDS[kind] if recipe else 0):
                run(name, kind, recipe, seed, data, parsed.runs, parsed.results)
    shown = tables(parsed.results)
    if parsed.results == RESULTS:
        put_into(ROOT / "README.md", "systems", shown)
    else:
        print(shown)


if __name__ == "__main__":
    sys.exit(main())
