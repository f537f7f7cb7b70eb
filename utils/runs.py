"""What a run leaves on disk: last.pt, previous.pt, best.pt, history.csv, training.log and run.json in one folder.

Every file but the log is written aside and renamed, so that a stop at any moment leaves whole files; the log is added
to, and cut to the checkpoint's length by a resumption. docs/reliability.md says what happens when something goes wrong.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import albumentations as A
import torch
from filelock import FileLock, Timeout

from utils.checkpoint import BEFORE, BEST, LAST, load_checkpoint, newest_checkpoint, write_checkpoint
from utils.data import ImageData
from utils.device import describe_hardware
from utils.errors import InputError, TrainingError
from utils.evaluation import check_unseen
from utils.files import has_no_locks, write
from utils.folders import has_history, holds_run, is_taken
from utils.history import history_csv, read_history
from utils.interrupt import undisturbed
from utils.models import parameter_count
from utils.records import identity, must_agree, package_version, with_defaults
from utils.trainer import Trainer

PACKAGES = ("torch", "torchvision", "albumentations", "numpy")
AS_BUILT = "as built"  # weights that have not learned yet
SAVE_SECONDS = 30.0  # between checkpoints within an epoch
LOG, LOCK = "training.log", ".lock"


class Run:
    """The record of one training run, which one process at a time may write; with `folder` None it only prints its log.

    Args:
        folder: where the files go; made if missing.
        trainer: what it trains with, model and recipe in it.
        data: what it learns from and is tested on.
        seed: of the run.
        until: the test accuracy (percent) that ends the run early, or None.
        policy: the caller's own policy, or None: the recipe's.
        first_weights: where the model's weights are from.
        started: when the call of `fit` began, by `time.monotonic()`.

    Raises:
        InputError: the folder cannot be written, or another process is at it.
    """

    def __init__(
        self,
        folder: str | Path | None,
        trainer: Trainer,
        data: ImageData,
        seed: int,
        until: float | None,
        policy: A.Compose | None,
        first_weights: str,
        started: float,
    ):
        self.folder = None if folder is None else Path(folder)
        self.trainer = trainer
        self.data = data
        self.seed = seed
        self.policy = policy
        self.first_weights = first_weights
        self.target = trainer.recipe.target if until is None else until
        self.history: list[dict] = []
        self.hardware: list[str] = []  # on which it trained; several, if it was resumed elsewhere
        self.spent = 0.0  # seconds, before this process
        self.started = started
        self.saved_at = time.monotonic()  # which no setting of the clock moves
        self.begun = False
        self.identity: dict = {}  # what a resumed run must agree with, and all that is kept says
        self.best_saved = -1.0  # the test accuracy of what best.pt holds
        self.not_saved: OSError | None = None
        self.resources = ExitStack()

    def __enter__(self) -> Run:
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.resources.enter_context(FileLock(self.folder / LOCK, timeout=0))
            except Timeout:
                raise InputError(
                    f"{self.folder}: another process is training there; wait for it, or name another folder"
                ) from None
            except (NotImplementedError, OSError) as error:
                if has_no_locks(error):
                    return self  # without a lock rather than not at all
                raise InputError(f"{self.folder} cannot be written ({error.strerror}); name another folder") from error
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with self.resources:
            if kind is KeyboardInterrupt and self.begun:
                with undisturbed():
                    self.log(f"Interrupted in epoch {self.epoch}, after {self.trainer.tally.steps} steps of it")
                    self.save()
                    self.say_how_to_go_on()

    @property
    def epoch(self) -> int:
        """The number of the epoch under way, from 1."""
        return len(self.history) + 1

    def reached(self, accuracy: float | None) -> bool:
        """Whether the last epoch tested has at least this accuracy, in percent; None is never reached."""
        return accuracy is not None and bool(self.history) and self.history[-1]["test_accuracy"] >= accuracy

    @property
    def seconds(self) -> float:
        """Since the run was started, without the time between a stop and its resumption."""
        return self.spent + time.monotonic() - self.started

    def begin(self, resume: bool) -> None:
        """Opens an empty folder for a new run; or, to resume, puts the trainer where the folder's run was.

        Raises:
            InputError: there is a run in the folder already, and it is not to be resumed; or it cannot be.
        """
        if resume and self.folder is None:
            raise InputError("resume needs the run's folder: give out=")
        if self.folder is not None:
            trainer = self.trainer  # before anything is learned
            self.identity = identity(trainer.model, trainer.recipe, self.data, self.seed, self.policy)
        if resume and holds_run(self.folder):
            self.resume()
        elif resume and has_history(self.folder):
            raise InputError(f"{self.folder} holds results, but no checkpoint to go on from: name another folder")
        elif not resume and self.folder is not None and is_taken(self.folder):
            raise InputError(f"{self.folder} holds a run already: resume it (--resume), or name another folder")
        else:
            self.start()
        self.begun = True

    def start(self) -> None:
        if self.folder is not None:
            try:
                write(self.folder / LOG, b"")
                write(self.folder / "history.csv", history_csv([]).encode())
            except OSError as error:
                raise InputError(f"{self.folder} cannot be written ({error.strerror}); name another folder") from error
        self.log(f"Data: {self.data}")
        if self.first_weights != AS_BUILT:
            self.log(f"The network has learned before: it starts from the weights of {self.first_weights}")

    def resume(self) -> None:
        checkpoint, wrong = newest_checkpoint(self.folder)
        must_agree(self.folder, with_defaults(checkpoint), self.identity)
        try:
            self.trainer.model.load_state_dict(checkpoint["weights"])
            self.trainer.load_state_dict(checkpoint["trainer"])
            log_bytes = int(checkpoint["log_bytes"])
            self.hardware = [str(one) for one in checkpoint.get("hardware", [])]
            self.first_weights = str(checkpoint.get("first_weights", AS_BUILT))
            self.trainer.model.learned_from = checkpoint["learned_from"].to(torch.int64).flatten()
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{self.folder}: the state in {LAST} does not fit this network and recipe") from error
        check_unseen(self.trainer.model.learned_from, self.data.test)
        self.history = checkpoint["history"]
        self.best_saved = self.best_of_folder()
        self.spent = checkpoint["seconds"]
        cut(self.folder / LOG, log_bytes)
        if wrong:
            self.log(f"Resumed from {BEFORE}: {wrong}")
        self.log(f"Resumed after epoch {len(self.history)} and {self.trainer.tally.steps} steps of the next")
        then, now = checkpoint["torch"], package_version("torch")
        if then != now:
            self.log(f"Until now it ran with torch {then}, from here on with {now}: the last digits may differ")
        if self.recorded() != len(self.history):  # a stop came between the checkpoint and the records
            self.attempt(self.save_records)

    def best_of_folder(self) -> float:
        """The test accuracy, in percent, of what best.pt holds; -1 if that is damaged, or no epoch of this history.

        Raises:
            InputError: it cannot be read at the moment.
        """
        try:
            history = load_checkpoint(self.folder / BEST)["history"]
        except InputError as error:
            if isinstance(error.__cause__, OSError | MemoryError):
                raise
            return -1.0
        return history[-1]["test_accuracy"] if history and history == self.history[: len(history)] else -1.0

    def recorded(self) -> int | None:
        """The number of epochs in run.json and in history.csv; None if they differ or one is not whole."""
        try:
            run = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            epochs = len(read_history(self.folder / "history.csv"))
            return epochs if run["results"]["epochs"] == epochs else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def after_step(self) -> None:
        """Saves where the run is, if it is time."""
        if time.monotonic() - self.saved_at >= SAVE_SECONDS:
            self.save()

    def end_epoch(self, record: dict) -> None:
        """Adds an epoch's record to the history, and saves."""
        with undisturbed():
            self.history.append(record)
            self.trainer.begin_epoch()
        self.save()

    def save(self) -> None:
        """Writes last.pt, from which the run can go on, best.pt after an epoch that is the best yet, and the records.

        Raises:
            TrainingError: what would be saved is not finite.
        """
        if self.folder is None:
            return
        self.trainer.check(self.epoch)
        here = describe_hardware(self.trainer.device)
        self.hardware = [*(one for one in self.hardware if one != here), here]
        self.attempt(self.save_checkpoints, self.save_records)
        self.saved_at = time.monotonic()

    def save_checkpoints(self) -> None:
        checkpoint = self.identity | {
            "classes": list(self.data.classes),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "history": self.history,
            "seconds": self.seconds,
            "weights": self.trainer.model.state_dict(),
            "learned_from": self.trainer.model.learned_from,
            "first_weights": self.first_weights,
            "torch": package_version("torch"),
            "hardware": self.hardware,
        }
        accuracy = self.history[-1]["test_accuracy"] if self.history else -1.0
        if accuracy > self.best_saved and not self.trainer.tally.steps:
            write_checkpoint(self.folder / BEST, checkpoint)
            self.best_saved = accuracy
        log = self.folder / LOG
        place = {"trainer": self.trainer.state_dict(), "log_bytes": log.stat().st_size if log.exists() else 0}
        write_checkpoint(self.folder / LAST, checkpoint | place, keep=BEFORE)

    def save_records(self) -> None:
        if not self.history:
            return
        write(self.folder / "history.csv", history_csv(self.history).encode())
        write(self.folder / "run.json", json.dumps(self.describe(), indent=2).encode())

    def attempt(self, *saves: Callable[[], None]) -> None:
        """Calls `saves`; if the disk does not take it, says so, and training goes on: the next time may succeed."""
        try:
            for save in saves:
                save()
            self.not_saved = None
        except OSError as error:
            self.not_saved = error
            self.log(
                f"NOT SAVED in {self.folder}: {error.strerror or error}; trying again; what was saved before is kept"
            )

    def finish(self) -> None:
        """Makes sure that the end of the run is on disk.

        Raises:
            TrainingError: it is not.
        """
        if self.not_saved is not None:
            self.save()
        if self.not_saved is not None:
            raise TrainingError(
                f"{self.folder}: the end of the run is not saved ({self.not_saved.strerror}); make room and resume"
            )

    def say_how_to_go_on(self) -> None:
        if self.folder is None:
            self.log("Nothing was kept: out=None")
        elif self.not_saved is None:
            self.log(f"Saved in {self.folder}; to go on: fit(..., out={str(self.folder)!r}, resume=True), or --resume")

    def log(self, line: str, show: bool = True) -> None:
        """Adds a line to training.log; prints it too unless `show` is False."""
        if show:
            print(line, flush=True)
        if self.folder is not None:
            with suppress(OSError), open(self.folder / LOG, "a", encoding="utf-8") as log:  # it was printed at least
                log.write(line + "\n")

    def describe(self) -> dict:
        """The content of run.json: what ran on what, and what came out."""
        model = self.trainer.model
        history = self.history
        reached = [record["seconds"] for record in history if record["test_accuracy"] >= self.target]
        return self.identity | {
            "first_weights": self.first_weights,
            "parameters": parameter_count(model),
            "versions": {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES},
            "hardware": ", then ".join(self.hardware) or describe_hardware(self.trainer.device),
            "precision": self.trainer.precision,
            "results": {
                "epochs": len(history),
                "test_accuracy": history[-1]["test_accuracy"],
                "test_loss": history[-1]["test_loss"],
                "best_test_accuracy": max(record["test_accuracy"] for record in history),
                "test_images": len(self.data.test),
                "test_evaluations": len(history) if self.data.test.name == "test" else 0,
                "seconds": history[-1]["seconds"],
                "target": self.target,
                "seconds_to_target": reached[0] if reached else None,
            },
        }


def cut(log: Path, size: int) -> None:
    """Takes off what was logged after the checkpoint: it is going to be logged again."""
    if log.is_file() and log.stat().st_size > size:
        os.truncate(log, size)
