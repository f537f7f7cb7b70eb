"""The rows of an audit on a result: what the accuracy was measured on, and the accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.arrays import JPEG_COPY, ORIGINAL, TEST_IMAGES
from utils.auditing.requirement import MIN_ACCURACY, Requirement, row, unjudged
from utils.data import ImageData, Split, fingerprints
from utils.errors import InputError, one_line
from utils.evaluation import EVALUATION_BATCH, SEEN_ALLOWED, Evaluation, normalize
from utils.history import read_history
from utils.trace import copied

CLOSE_CALLS = 0.02  # share of the answers that another precision may turn


def result_rows(
    model: nn.Module, data: ImageData | None, result: Evaluation | None, run: str | Path | None
) -> tuple[Requirement, Requirement]:
    """What the accuracy was measured on, and the accuracy."""
    record = None if run is None else Record(run)
    if result is not None and not isinstance(result, Evaluation):
        raise InputError(f"result must be what evaluate() returns, got {type(result).__name__}; a folder goes to run=")
    if result is None and record is None:
        reason = "no result was given"
        return unjudged("data", reason), unjudged("accuracy", reason)
    faults, said = [], []
    if result is not None:
        split = result.split
        said += [f"{len(split):,} images of {split.dataset}, {split.name} set", split.provenance]
        faults += split_faults(split, data, getattr(model, "learned_from", None))
        faults += answer_faults(model, result)
        accuracy, images = result.accuracy, result.total
    if record is not None:
        if result is None:
            said += [f"{record.images:,} test images of {record.data}", record.provenance]
            faults += name_faults(record.data, record.images)
            accuracy, images = record.accuracy, record.images
        faults += record.faults(accuracy)
    measured = "; ".join(filter(None, [*said, *faults]))
    data_row = row("data", measured, not faults)
    correct = round(accuracy * images / 100)
    text = f"{accuracy:.2f} %, {correct:,} of {images:,}"
    if faults:
        text += "; but see data"
    return data_row, row("accuracy", text, accuracy >= MIN_ACCURACY and not faults)


def name_faults(dataset: str, images: int) -> Iterator[str]:
    if dataset not in (ORIGINAL, JPEG_COPY):
        yield "not CIFAR-10"
    if images != TEST_IMAGES:
        yield f"{images:,} images, not {TEST_IMAGES:,}"


def split_faults(split: Split, data: ImageData | None, learned: Tensor | None) -> Iterator[str]:
    """By content: are these the test images, untouched, and was none of them trained on?

    Args:
        learned: fingerprints of the images that the network says it was trained on, if it does.
    """
    yield from name_faults(split.dataset, len(split))
    tested = fingerprints(split.images)
    if data is not None:
        learned = fingerprints(data.train.images)
        known = torch.cat([learned, fingerprints(data.test.images)])
        strange = int((~torch.isin(tested, known)).sum())
        if strange:
            yield f"{strange:,} images are not in the data set as they are: augmented, or of another source"
    if learned is not None:
        shared = int(torch.isin(tested, learned).sum())
        if shared > SEEN_ALLOWED * len(tested):
            yield f"{shared:,} of the images are training images"
    elif split.name != "test":
        yield f"they are the {'training' if split.name == 'train' else split.name} images"
    different = len(tested.unique())
    if different < (1 - SEEN_ALLOWED) * len(tested):
        yield f"only {different:,} different images"


def answer_faults(model: nn.Module, result: Evaluation) -> Iterator[str]:
    """Whether the network, in evaluation mode and on images as they are, gives the answers of the result."""
    claimed = result.predictions
    try:
        own = predictions(model, result.split, training=False)
        differing = int((own != claimed).sum())
        if differing <= CLOSE_CALLS * len(own):
            return
        left_on = predictions(model, result.split, training=True)
    except Exception as error:  # whatever a network may raise
        yield f"the network cannot repeat it: {one_line(error)}"
        return
    text = f"the network gives other answers to {differing:,} of these images in evaluation mode"
    if (left_on != claimed).sum() < differing:
        yield f"{text}: they look like those of a model left in training mode"
    else:
        yield f"{text}: measured on augmented images, or with other weights"


@torch.no_grad()
def predictions(model: nn.Module, split: Split, training: bool) -> Tensor:
    """The most probable class of each image, from a copy of the model in one mode or the other; int64 (N,)."""
    network = copied(model).cpu().float().train(training)
    answers = []
    for images in split.images.cpu().split(EVALUATION_BATCH):
        pixels = normalize(images, split.mean, split.std).contiguous()  # a `view` may not take channels last
        answers.append(network(pixels).argmax(1))
    return torch.cat(answers)


class Record:
    """What a run's folder says of itself, and what its history says of that.

    Raises:
        InputError: the folder holds no run.json and history.csv, or they lack what is needed.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        try:
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            self.data, self.provenance = run["data"]["name"], run["data"].get("provenance", "")
            self.images = int(run["data"].get("test_images") or run["results"]["test_images"])
            self.accuracy = float(run["results"]["test_accuracy"])
            if not isinstance(self.data, str) or not isinstance(self.provenance, str):
                raise TypeError("the data's name or provenance is no text")
            if not isfinite(self.accuracy):
                raise ValueError(f"an accuracy of {self.accuracy}")
        except OSError as error:
            raise InputError(f"{folder}: no run.json there; a run's folder holds it") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{folder / 'run.json'}: not a run's record ({type(error).__name__}: {error})") from error
        self.history = read_history(folder / "history.csv")
        if not self.history:
            raise InputError(f"{folder / 'history.csv'} holds no epoch")

    def faults(self, claimed: float) -> Iterator[str]:
        """Whether the claimed accuracy is that of the epoch that did best on the test images, and not of the last."""
        last = self.history[-1]
        best = max(self.history, key=lambda record: record["test_accuracy"])
        if abs(claimed - last["test_accuracy"]) < 0.005:
            return
        if abs(claimed - best["test_accuracy"]) < 0.005:
            yield (
                f"the best epoch, {best['epoch']} of {last['epoch']}, was picked on the test images: "
                f"{best['test_accuracy']:.2f} %; the last has {last['test_accuracy']:.2f} %"
            )
        else:
            yield f"{claimed:.2f} % is not in its history, whose last epoch has {last['test_accuracy']:.2f} %"
