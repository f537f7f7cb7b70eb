"""Kills training runs at random moments and damages their checkpoints; what follows must be as if nothing had been.

    python benchmarks/survival.py --kills 100 --damages 200

- batches, workers: kill -9 at a random moment, then resume; weights, history and log must be those of a run that was
  never stopped, to the bit (all but the times). Once on whole batches, once with two loader workers.
- damages: a byte of the newest checkpoint flipped, or the file cut; it must be noticed, and the one before used.
- saving: the share of an epoch of the recipe `fast` that goes into checkpoints; $CIFAR10_DIR or the like says on what.

The killed runs train S7Net for three epochs on 400 of scikit-learn's digits, on the CPU. Exits with 1 if anything is
not as it must be. Needs fork: Linux or macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from threading import RLock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tqdm import tqdm

from utils import RECIPES, ImageData, Recipe, build_model, fit, load_cifar10, runs
from utils.checkpoint import BEFORE, LAST, load_checkpoint, newest_checkpoint
from utils.history import read_history
from utils.tables import as_table

RECIPE = replace(RECIPES["digits"], name="short", epochs=3, sides=(16,), precision="fp32")
OWN_LINES = ("Interrupted", "Resumed", "Saved in")  # of the log: what a stop adds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each path (default: 100)")
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damages")
    parser.add_argument("--saving", action="store_true", help="also measure what saving costs")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)  # more threads do not survive a fork
    chance = random.Random(parsed.seed)
    data = some_digits()
    rows = [("what", "tried", "as it must be")]
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in (
            ("kill -9, batches", RECIPE),
            ("kill -9, 2 workers", replace(RECIPE, per_image=True, workers=2)),
        ):
            right = survived_kills(Path(folder) / name, data, recipe, parsed.kills, chance)
            rows.append((name, parsed.kills, right))
        rows.append(("damaged checkpoints", parsed.damages, noticed(Path(folder) / "d", data, parsed.damages, chance)))
    print(as_table(rows))
    if parsed.saving:
        print(f"saving took {100 * saving_share():.2f} % of an epoch of training")
    return 0 if all(tried == right for _, tried, right in rows[1:]) else 1


def some_digits() -> ImageData:
    """400 of the handwritten digits to train on, all of the test images."""
    data = load_cifar10("digits", verbose=False)
    train = replace(data.train, images=data.train.images[:400], labels=data.train.labels[:400])
    return ImageData(train, data.test)


def train(folder: Path, data: ImageData, recipe: Recipe) -> None:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        fit(build_model("s7"), data, recipe, out=folder, resume=True, device="cpu")


def in_child(action: Callable[[], None]) -> int:
    """Runs `action` in a process of its own; returns its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            tqdm.set_lock(RLock())  # the one that forks share would stay locked by a child that was killed with it
            action()
            status = 0
        finally:
            os._exit(status)
    return child


def survived_kills(folder: Path, data: ImageData, recipe: Recipe, kills: int, chance: random.Random) -> int:
    """How many of `kills` runs, each killed at a random moment and resumed, end as the one that was left in peace."""
    started = time.monotonic()
    os.waitpid(in_child(lambda: train(folder / "whole", data, recipe)), 0)
    duration = time.monotonic() - started
    whole = outcome(folder / "whole")
    runs.SAVE_SECONDS = 0.05  # a run of seconds; so that many kills fall into the writing of a checkpoint
    right = 0
    for number in tqdm(range(kills), folder.name, file=sys.stderr):
        run = folder / str(number)
        child = in_child(lambda: train(run, data, recipe))  # noqa: B023
        time.sleep(chance.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _, status = os.waitpid(in_child(lambda: train(run, data, recipe)), 0)  # noqa: B023
        same = status == 0 and outcome(run) == whole
        right += same
        if not same:
            print(f"{run.name}: status {status}, not the same", file=sys.stderr)
    return right


def outcome(run: Path) -> tuple:
    """What two runs must have in common: the weights' bytes, the history and the log, without the times."""
    weights = load_checkpoint(run / LAST)["weights"]
    history = [record | {"seconds": 0} for record in read_history(run / "history.csv")]
    log = [line for line in (run / "training.log").read_text().splitlines() if not line.startswith(OWN_LINES)]
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}, history, log


def noticed(folder: Path, data: ImageData, damages: int, chance: random.Random) -> int:
    """How many of `damages` to the newest checkpoint show, so that the one before is taken."""
    os.waitpid(in_child(lambda: train(folder, data, replace(RECIPE, epochs=2))), 0)
    last, before = (folder / LAST).read_bytes(), (folder / BEFORE).read_bytes()
    right = 0
    for number in tqdm(range(damages), "damages", file=sys.stderr):
        place = chance.randrange(len(last))
        flipped = bytes([last[place] ^ (1 << chance.randrange(8))])
        damaged = last[:place] if number % 2 else last[:place] + flipped + last[place + 1 :]
        (folder / LAST).write_bytes(damaged)
        (folder / BEFORE).write_bytes(before)
        checkpoint, wrong = newest_checkpoint(folder)
        right += wrong is not None and len(checkpoint["history"]) == 1 and (folder / LAST).read_bytes() == before
    return right


def saving_share() -> float:
    """The share of the time of one epoch of `fast` that is spent on writing checkpoints and records."""
    spent, save = [0.0], runs.Run.save

    def timed(self):
        started = time.perf_counter()
        save(self)
        spent[0] += time.perf_counter() - started

    runs.Run.save, runs.SAVE_SECONDS = timed, 30.0
    torch.set_num_threads(os.cpu_count() or 1)
    data = load_cifar10()
    with tempfile.TemporaryDirectory() as folder:
        history = fit(build_model("s7"), data, replace(RECIPES["fast"], epochs=1, sides=(32,)), out=folder)
    runs.Run.save = save
    return spent[0] / history[-1]["seconds"]


if __name__ == "__main__":
    sys.exit(main())
