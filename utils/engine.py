"""fit: epochs of training, each followed by the test. The notebook's training section calls it.

One step and one epoch are in utils/trainer.py, the test in utils/evaluation.py; what a run leaves on disk (log,
history, checkpoints) in utils/runs.py; what stops a run that has gone wrong in utils/trouble.py.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from numbers import Integral, Real
from pathlib import Path

import albumentations as A
import numpy as np
import torch
from torch import Tensor, nn

from utils.data import ImageData, Split, fingerprints
from utils.device import pick_device
from utils.errors import InputError, TrainingError, check_seed
from utils.evaluation import answer_shape, check_compatible, check_unseen, evaluate
from utils.recipes import Recipe
from utils.runs import AS_BUILT, Run
from utils.symmetry import MirrorSymmetry, why_not_symmetric
from utils.trace import forward_hooks
from utils.trainer import Trainer
from utils.transforms import BatchPolicy, check_normalized, per_image_loader, recipe_policy
from utils.trouble import check_buffers, check_images, check_last_batch, check_learning, doubts, explained

AHEAD = 16  # batches that a GPU augments at once: Python takes longer to ask for one batch than the GPU to augment it
NOTHING = torch.empty(0, dtype=torch.int64)  # fingerprints of no images


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    seed: int = 0,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    until: float | None = None,
    device: str = "auto",
    policy: A.Compose | None = None,
    report_every: int = 0,
    class_report: bool = False,
) -> list[dict]:
    """Trains `model` in place on `data.train` and tests it on `data.test` after every epoch.

    Ctrl-C ends it after the step under way, saves where it was, and says how to go on.

    Args:
        model: maps float32 (N, 3, side, side) to logits (N, classes); ends on `device`, with the last epoch's weights.
        data: from `load_cifar10`.
        recipe: from `RECIPES`, or a changed copy of one.
        seed: of order, augmentation and dropout. The first weights are the model's; log and `run.json` say so if those
            have learned already. A mirror-symmetric recipe keeps half of them and mirrors those.
        out: folder for `last.pt`, `best.pt`, `history.csv`, `training.log`, `run.json`; None writes nothing. Saved
            every half minute and after every epoch.
        resume: go on after the last step that `out` holds; the end is the same as without the stop, to the bit on CPU.
        until: stop after the first epoch with at least this test accuracy, in percent.
        device: "auto", "cpu", "cuda" or "mps".
        policy: an Albumentations Compose to use instead of the recipe's; it normalises by the data's mean and std.
        report_every: a line of the log after every so many batches of an epoch; 0: none.
        class_report: scikit-learn's precision, recall and F1 of each class in the log after every epoch.

    Returns:
        One record an epoch: epoch (from 1), learning_rate (of its last step), train_loss and train_accuracy (running
        means over the augmented images), test_loss, test_accuracy, seconds (since the start). Accuracies in percent.

    Raises:
        InputError: model, data, recipe or run folder do not fit together.
        TrainingError: loss or answers are not finite, the network learns nothing, memory runs out, a loader's worker
            dies, or the end of the run cannot be saved. The last good checkpoint stays.
    """
    started = time.monotonic()
    check_arguments(model, data, recipe, seed, until, policy, report_every)
    asked, recipe = recipe, suited(recipe, model)
    check_last_batch(model, data.train, recipe)
    check_symmetry(model, recipe)
    changes = describe_changes(model, asked, recipe)
    trainer = Trainer(model, recipe, pick_device(device))
    data = data.to(trainer.device)
    with Run(out, trainer, data, seed, until, policy, first_weights(model), started) as run, explained(trainer):
        run.begin(resume)
        model.learned_from = learned_from(model, data.train)
        for line in (*changes, *doubts(model, data.train)):
            run.log(line)
        while run.epoch <= recipe.epochs and not run.reached(until):
            epoch = run.epoch
            transforms = policy or recipe_policy(recipe, data.mean, data.std, epoch)
            batches = epoch_batches(data.train, transforms, recipe, seed, epoch, trainer.tally.steps)
            line = trainer.train(batches, epoch, len(data.train), report_every, run.log, run.after_step)
            trainer.check(epoch)
            try:
                tested = evaluate(model, data.test, precision=trainer.precision)
            except InputError as error:  # before it was trained, model and data fitted together
                raise TrainingError(f"after epoch {epoch}: {error}; try a lower learning rate") from error
            run.log(line, show=False)  # tqdm has shown it
            if class_report:
                run.log(tested.report)
            run.log(str(tested))
            run.end_epoch(
                {
                    "epoch": epoch,
                    "learning_rate": trainer.learning_rate,
                    "train_loss": trainer.tally.loss,
                    "train_accuracy": trainer.tally.accuracy,
                    "test_loss": tested.loss,
                    "test_accuracy": tested.accuracy,
                    "seconds": round(run.seconds, 2),
                }
            )
            check_learning(run.history, data.train)
        run.finish()
    return run.history


def check_arguments(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    seed: int,
    until: float | None,
    policy: A.Compose | None,
    report_every: int,
) -> None:
    """Raises `InputError` if an argument of `fit` is of the wrong kind, such as a recipe's name, or does not fit."""
    for expected, kind, got in (
        ("a network, a torch.nn.Module", nn.Module, model),
        ("data as load_cifar10() returns it", ImageData, data),
        ("a recipe, as in RECIPES", Recipe, recipe),
        ("an Albumentations Compose as policy", A.Compose | None, policy),
        ("a number as until", Real | None, until),
        ("a whole number as report_every", Integral, report_every),
    ):
        if not isinstance(got, kind):
            raise InputError(f"fit needs {expected}, got {got!r:.80}")
    check_seed(seed)
    if until is not None and not isfinite(until):
        raise InputError(f"until={until} is no accuracy")
    check_compatible(model, data.test)
    check_buffers(model)
    check_images(data)
    check_unseen(learned_from(model, data.train), data.test)
    if policy is not None:
        check_normalized(policy, data.mean, data.std)


def describe_changes(model: nn.Module, asked: Recipe, recipe: Recipe) -> list[str]:
    """For the log: where the suited `recipe` differs from the one `asked` for, or from the dropout of the model."""
    changes = []
    if recipe.sides != asked.sides:
        changes.append(f"Image sides {recipe.sides} instead of {asked.sides}: the network cannot take the smaller ones")
    if recipe.mirror_symmetric != asked.mirror_symmetric:
        changes.append(f"Mirror symmetry is not imposed: {why_not_imposed(model, max(recipe.sides))}")
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)} - {recipe.dropout}
    if rates and recipe.dropout is not None:
        own = ", ".join(f"{rate:g}" for rate in sorted(rates))
        kept = "with dropout=None a recipe leaves it"
        changes.append(f"Dropout {recipe.dropout:g} instead of the network's {own}: {kept}")
    return changes


def learned_from(model: nn.Module, split: Split) -> Tensor:
    """Fingerprints (int64) of the images that a model has learned from once it knows `split`, earlier runs' too."""
    return torch.cat([getattr(model, "learned_from", NOTHING), fingerprints(split.images)]).unique()


def first_weights(model: nn.Module) -> str:
    """Where the weights of a model or of a part of it come from: "as built", "an earlier run", or a name that ships."""
    parts = list(model.modules())
    if any(hasattr(part, "learned_from") for part in parts):
        return "an earlier run"
    names = [getattr(part, "pretrained", None) for part in parts]  # a network of one's own may say True or False there
    return next((name for name in names if isinstance(name, str)), AS_BUILT)


def check_symmetry(model: nn.Module, recipe: Recipe) -> None:
    """Refuses to make weights that have learned something symmetric: half of it would be lost.

    Raises:
        InputError: the recipe asks for mirror symmetry, and the model was trained without.
    """
    weights = first_weights(model)
    if recipe.mirror_symmetric and weights != AS_BUILT and not MirrorSymmetry(model).holds():
        raise InputError(
            f"recipe {recipe.name!r} keeps kernels equal to their mirror images, and the weights of {weights} are not: "
            "start from new ones, or use dataclasses.replace(recipe, mirror_symmetric=False)"
        )


def suited(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe without what the model cannot do: image sides that it cannot take, or to be mirror-symmetric.

    Each such side is raised to the next one of the recipe's that it can take.

    Raises:
        InputError: the model cannot take the greatest of them.
    """
    usable = []
    for side in sorted(set(recipe.sides)):
        with suppress(Exception):  # whatever a network may raise
            answer_shape(model, (3, side, side))
            usable.append(side)
    if max(recipe.sides) not in usable:
        raise InputError(f"{type(model).__name__} cannot take images of {max(recipe.sides)} pixels, a recipe's side")
    sides = tuple(min(u for u in usable if u >= side) for side in recipe.sides)
    symmetric = recipe.mirror_symmetric and not why_not_imposed(model, max(sides))
    return replace(recipe, sides=sides, mirror_symmetric=symmetric)


def why_not_imposed(model: nn.Module, side: int) -> str:
    """Why a recipe cannot keep the network mirror-symmetric; "" if it can.

    `MirrorSymmetry` takes the last of its layers for the one that answers with the classes, so that has to be true.
    """
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    ran: list[nn.Module] = []
    with forward_hooks(names, lambda layer, *_: ran.append(layer)):
        answer_shape(model, (3, side, side))
    if ran and ran[-1] is not (last := list(names)[-1]):
        return f"{names[ran[-1]]} answers with the classes, but {names[last]} is the last of its layers"
    return why_not_symmetric(model)


def epoch_batches(
    split: Split, policy: A.Compose, recipe: Recipe, seed: int, epoch: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch: float32 images (batch, 3, H, W), augmented and normalised, with int64 labels (batch,).

    Order and augmentation follow from (seed, epoch), dropout from (seed, epoch, step): a resumed run draws what an
    uninterrupted one would have drawn.

    Args:
        start: how many batches to leave out, because they have been learned already.
    """
    device = split.images.device
    generator = torch.Generator(device).manual_seed(epoch_seed(seed, epoch))
    order = torch.randperm(len(split), generator=generator, device=device)
    if recipe.per_image:
        rest = order[start * recipe.batch_size :]
        batches = per_image_loader(split, policy, recipe.batch_size, seed, epoch, rest, recipe.workers)
    else:
        batches = batches_ahead(split, order, BatchPolicy(policy), recipe.batch_size, generator)
        batches = itertools.islice(batches, start, None)  # draws what it leaves out as well: it takes a second

    for step, batch in enumerate(batches, start):
        dropout_seed = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(dropout_seed))  # dropout draws from torch's own generator
        yield batch


def epoch_seed(seed: int, epoch: int) -> int:
    """What order and augmentation of an epoch are drawn by; 32 bits, as torch's CPU generator leaves out the others."""
    if seed < 1 << 12:
        return (seed << 20) + epoch
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint32)[0])


def batches_ahead(
    split: Split, order: Tensor, augment: BatchPolicy, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in that order, augmented, and their labels, in batches of `size`; on a GPU many batches at once."""
    ahead = 1 if split.images.device.type == "cpu" else AHEAD
    for chosen in order.split(ahead * size):
        images = augment(split.images[chosen], generator)
        yield from zip(images.split(size), split.labels[chosen].split(size), strict=True)
