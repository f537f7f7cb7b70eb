"""What stops a run that has gone wrong: early, saying what was seen and what to try."""

from __future__ import annotations

import copy
import itertools
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import sqrt

import torch
from torch import nn

from utils.data import ImageData, Split
from utils.device import is_out_of_memory
from utils.errors import InputError, TrainingError, one_line
from utils.evaluation import evaluating, normalize
from utils.recipes import Recipe
from utils.trainer import Trainer

ENOUGH = 5000  # images that a network has to have seen before it is given up because it only guesses
PATIENCE = 2  # epochs that it is given at least


def check_images(data: ImageData) -> None:
    """Refuses images that nothing can be learned from, or that a recipe cannot resize.

    Raises:
        InputError: the training images are all of one colour, or no squares.
    """
    pixels = data.train.images
    if pixels.min() == pixels.max():
        raise InputError(
            f"{data.train.dataset}: all pixels of the training images are {int(pixels.min())}; see how they were read"
        )
    height, width = pixels.shape[2:]
    if height != width:
        raise InputError(f"{data.train.dataset}: images of {height} x {width} pixels; recipes train on squares")


@torch.no_grad()
def doubts(model: nn.Module, split: Split) -> list[str]:
    """For the log: what is probably a mistake, though it can be trained: answers that are probabilities, not logits."""
    images = normalize(split.images[:4].to(next(model.parameters()).device), split.mean, split.std)
    with evaluating(model):
        answers = torch.cat([model(image) for image in images.split(1)]).float()
    sums = answers.sum(1)
    if answers.min() < 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return []
    return [
        f"WARNING: the answers of {type(model).__name__} are probabilities: each image's sum to 1. The loss, cross "
        "entropy, takes logits and does the softmax itself; with two of them a network learns slowly: leave its own out"
    ]


def check_buffers(model: nn.Module) -> None:
    """Refuses infinite numbers in a buffer, such as a mask: from then on they would pass for weights gone wrong.

    Raises:
        InputError: a buffer that a checkpoint would hold has some.
    """
    kept = model.state_dict()
    names = {name for name, _ in model.named_buffers(remove_duplicate=False)} & set(kept)
    infinite = sorted(name for name in names if kept[name].isinf().any())
    if infinite:
        raise InputError(
            f"{type(model).__name__} has infinite numbers in {', '.join(infinite[:3])}, which no checkpoint takes; "
            "in a mask -1e9 does the same, or register it with persistent=False"
        )


def check_last_batch(model: nn.Module, split: Split, recipe: Recipe) -> None:
    """Refuses a batch size that leaves a last batch of one image, if the network cannot be trained on one.

    Raises:
        InputError: it cannot, such as with batch norm after a map of one position; the message names another size.
    """
    if len(split) % recipe.batch_size != 1:
        return
    parameter, side = next(model.parameters()), min(recipe.sides)
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(torch.zeros(1, 3, side, side, device=parameter.device))
    except ValueError as error:
        better = next(size for size in itertools.count(recipe.batch_size + 1) if len(split) % size != 1)
        raise InputError(
            f"{len(split)} training images in batches of {recipe.batch_size} leave a last batch of one image, which "
            f"{type(model).__name__} cannot learn from ({one_line(error)}); take dataclasses.replace(recipe, "
            f"batch_size={better})"
        ) from error


def check_learning(history: Sequence[dict], split: Split) -> None:
    """Stops a run whose network is no better on its training images than always guessing the most frequent class.

    Judged over the last epochs that together have seen `ENOUGH` images, at least `PATIENCE` of them. No better is: less
    than three standard errors above the share of that class.

    Raises:
        TrainingError: it is no better.
    """
    epochs = max(PATIENCE, -(-ENOUGH // len(split)))
    if len(history) < epochs:
        return
    guessing = split.labels.bincount().max().item() / len(split)
    bar = 100 * (guessing + 3 * sqrt(guessing * (1 - guessing) / (epochs * len(split))))
    accuracy = sum(record["train_accuracy"] for record in history[-epochs:]) / epochs
    if accuracy < min(bar, 99.0):
        raise TrainingError(
            f"after epoch {len(history)} the network is right on {accuracy:.2f} % of the training images of the last "
            f"{epochs} epochs, where always answering the most frequent class is right on {100 * guessing:.2f} %: it "
            "learns nothing; try another learning rate, and see whether labels belong to their images: plots.samples"
        )


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Says in words what torch says when memory runs out or a loader's worker dies within the block.

    Raises:
        TrainingError: instead of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        kept = "what was saved last is kept, to resume from"
        if "DataLoader worker (pid" in str(error):  # what it raises while alive has no number
            raise TrainingError(
                f"a process that augments images died ({one_line(error)}); {kept}; if it happens again, use "
                "dataclasses.replace(recipe, workers=0), or per_image=False"
            ) from error
        if isinstance(error, TrainingError) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # which hold the tensors of the step
        fits = largest_batch(trainer)
        advice = (
            f"batches of {fits} would fit: dataclasses.replace(recipe, batch_size={fits})"
            if fits
            else "not even a batch of 2 fits: take a smaller network"
        )
        raise TrainingError(f"out of memory with batches of {trainer.recipe.batch_size}; {kept}; {advice}") from error


def largest_batch(trainer: Trainer) -> int:
    """Half the recipe's batch, or half of that, and so on: the first whose gradient fits into memory; 0: not even 2."""
    size, side = trainer.recipe.batch_size // 2, max(trainer.recipe.sides)
    while size >= 2:
        trainer.model.zero_grad()
        if trainer.device.type == "cuda":
            with suppress(RuntimeError):  # older versions of torch fail here once a CUDA graph could not be made
                torch.cuda.empty_cache()
        try:
            images = torch.zeros(size, 3, side, side, device=trainer.device)
            trainer.forward_backward(images, torch.zeros(size, dtype=torch.long, device=trainer.device))
            return size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            size //= 2
    return 0
