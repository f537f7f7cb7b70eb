"""Train, test, fit: the loop and nothing around it. The notebook's training section calls `fit`.

The test is in utils/evaluation.py; what a run leaves on disk (log, history, checkpoints) in utils/runs.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import albumentations as A
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from utils.data import ImageData, Split, fingerprints
from utils.device import autocast, keep_freed_memory, pick_device, pick_precision
from utils.errors import InputError, TrainingError
from utils.evaluation import answer_shape, check_fit, check_unseen, evaluate
from utils.optim import Muon
from utils.recipes import Recipe
from utils.runs import Run
from utils.transforms import POLICIES, BatchPolicy, per_image_loader

REFRESH_SECONDS = 0.5  # of the tqdm line: reading a number off a GPU makes it wait


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

    Args:
        model: maps float32 (N, 3, side, side) to logits (N, classes); ends on `device`, with the last epoch's weights.
        data: from `load_cifar10`.
        recipe: from `RECIPES`, or a changed copy of one.
        seed: of order, augmentation and dropout. The first weights are `build_model`'s.
        out: folder for `last.pt`, `best.pt`, `history.csv`, `training.log`, `run.json`; None writes nothing.
        resume: go on after the last epoch that `out` holds; the end is the same as without the stop, to the bit on CPU.
        until: stop after the first epoch with at least this test accuracy, in percent.
        device: "auto", "cpu", "cuda" or "mps".
        policy: an Albumentations Compose to use instead of the recipe's.
        report_every: a line of the log after every so many batches of an epoch; 0: none.
        class_report: scikit-learn's precision, recall and F1 of each class in the log after every epoch.

    Returns:
        One record an epoch: epoch (from 1), learning_rate (of its last step), train_loss and train_accuracy (running
        means over the augmented images), test_loss, test_accuracy, seconds (since the start). Accuracies in percent.

    Raises:
        InputError: model, data, recipe or run folder do not fit together.
        TrainingError: the loss is not finite; the checkpoints of earlier epochs stay.
    """
    started = time.monotonic()
    check_fit(model, data.test)
    model.learned_from = fingerprints(data.train.images)
    check_unseen(model, data.test)
    asked, recipe = recipe.sides, with_usable_sides(recipe, model)
    trainer = Trainer(model, recipe, pick_device(device))
    data = data.to(trainer.device)
    if policy is None:
        policy = recipe_policy(recipe, data)
    with Run(out, trainer, data, seed, until) as run:
        history = run.resume() if resume else run.start()
        if recipe.sides != asked:
            run.log(f"Image sides {recipe.sides} instead of {asked}: the network cannot take the smaller ones")
        before = history[-1]["seconds"] if history else 0.0
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            if until is not None and history and history[-1]["test_accuracy"] >= until:
                break
            batches = epoch_batches(data.train, policy, recipe, seed, epoch)
            trained = trainer.train(batches, epoch, len(data.train), report_every, run.log)
            tested = evaluate(model, data.test, precision=trainer.precision)
            run.log(trained.line, show=False)  # tqdm has shown it
            if class_report:
                run.log(tested.report)
            run.log(str(tested))
            history.append(
                {
                    "epoch": epoch,
                    "learning_rate": trainer.learning_rate,
                    "train_loss": trained.loss,
                    "train_accuracy": trained.accuracy,
                    "test_loss": tested.loss,
                    "test_accuracy": tested.accuracy,
                    "seconds": round(before + time.monotonic() - started, 2),
                }
            )
            run.save(history)
    return history


def recipe_policy(recipe: Recipe, data: ImageData) -> A.Compose:
    """The recipe's policy, with its probabilities and the data's mean and std."""
    return POLICIES[recipe.policy](
        data.mean,
        data.std,
        flip=recipe.flip,
        shift_scale_rotate=recipe.shift_scale_rotate,
        coarse_dropout=recipe.coarse_dropout,
    )


def with_usable_sides(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe with each image side that the model cannot take raised to the next one of its sides that it can.

    Raises:
        InputError: the model cannot take the greatest of them.
    """
    usable = []
    for side in sorted(set(recipe.sides)):
        with suppress(RuntimeError):
            answer_shape(model, (3, side, side))
            usable.append(side)
    if max(recipe.sides) not in usable:
        raise InputError(f"{type(model).__name__} cannot take images of {max(recipe.sides)} pixels, a recipe's side")
    return replace(recipe, sides=tuple(min(u for u in usable if u >= side) for side in recipe.sides))


def epoch_batches(
    split: Split, policy: A.Compose, recipe: Recipe, seed: int, epoch: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """The batches of one epoch: float32 images (batch, 3, H, W), augmented and normalised, with int64 labels (batch,).

    All random numbers of an epoch (order, augmentation, dropout) follow from (seed, epoch) alone, so that a resumed
    run draws what an uninterrupted one would have drawn.
    """
    epoch_seed = (seed << 20) + epoch
    torch.manual_seed(epoch_seed)  # for dropout, which draws from torch's own generator
    generator = torch.Generator(split.images.device).manual_seed(epoch_seed)
    order = torch.randperm(len(split), generator=generator, device=split.images.device)
    if recipe.per_image:
        return per_image_loader(split, policy, recipe.batch_size, seed, epoch, order, recipe.workers)
    augment = BatchPolicy(policy)
    return (
        (augment(split.images[chosen], generator), split.labels[chosen]) for chosen in order.split(recipe.batch_size)
    )


@dataclass(frozen=True)
class TrainedEpoch:
    """Mean loss and accuracy (percent) over the images of an epoch, as the network saw them while it learned."""

    loss: float
    accuracy: float
    line: str


class Trainer:
    """A model with all that changes while it learns: its optimisers and, for fp16, the scale of its gradients."""

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device):
        self.model = model.to(device, memory_format=torch.channels_last)
        self.recipe = recipe
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
        self.precision = pick_precision(device, recipe.precision)
        if recipe.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = recipe.dropout
        self.optimizers = build_optimizers(model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    @property
    def learning_rate(self) -> float:
        """The first optimiser's, of the last step: SGD's, or Adam's."""
        return self.optimizers[0].param_groups[0]["lr"]

    def state_dict(self) -> dict:
        """What training has changed besides the weights, for a checkpoint."""
        return {"optimizers": [o.state_dict() for o in self.optimizers], "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Puts back what `state_dict` returned."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])

    def train(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        epoch: int,
        images: int,
        report_every: int = 0,
        log: Callable[[str], None] = print,
    ) -> TrainedEpoch:
        """One pass over the training images: `images` of them, in `batches`, as epoch number `epoch` (from 1).

        After every `report_every` batches, `log` gets a line: means over the epoch so far.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.model.train()
        steps = ceil(images / self.recipe.batch_size)
        loss_sum = torch.zeros((), device=self.device)  # sums over images: a short last batch weighs what it holds
        hits = torch.zeros((), device=self.device)
        seen, refreshed, line = 0, 0.0, ""
        bar = tqdm(batches, f"Epoch {epoch}/{self.recipe.epochs}", steps, file=sys.stdout, dynamic_ncols=True)
        with bar:
            for step, (pictures, labels) in enumerate(bar):
                pictures, labels = pictures.to(self.device), labels.to(self.device)
                loss, logits = self.step(pictures, labels, (epoch - 1 + (step + 0.5) / steps) / self.recipe.epochs)
                loss_sum += loss * len(labels)
                hits += (logits.argmax(1) == labels).sum()
                seen += len(labels)
                if step == steps - 1 or time.monotonic() - refreshed > REFRESH_SECONDS:
                    refreshed = time.monotonic()
                    line = (
                        f"Train: Loss={loss.item():.4f} Batch_id={step} Accuracy={100 * hits.item() / seen:.2f} "
                        f"LR={self.learning_rate:.4f}"
                    )
                    bar.set_description_str(line, refresh=False)
                    if not torch.isfinite(loss_sum):
                        raise TrainingError(
                            f"the loss stopped being a number in epoch {epoch}, by step {step}; the checkpoints of "
                            "earlier epochs are kept; try a lower learning rate, or precision='fp32'"
                        )
                if report_every and (step + 1) % report_every == 0:
                    bar.clear()
                    log(
                        f"Epoch {epoch}, Batch {step + 1}: Train Loss: {loss_sum.item() / seen:.4f}, "
                        f"Train Accuracy: {100 * hits.item() / seen:.2f}%"
                    )
        return TrainedEpoch(loss_sum.item() / seen, 100 * hits.item() / seen, line)

    def step(self, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Learns from one batch, `progress` (0..1) of the way through the run.

        Returns:
            The mean loss () and the logits (N, classes), detached.
        """
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * self.recipe.rate_at(progress)
        images = resize(images, self.recipe.side_at(progress)).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.model.zero_grad()
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach(), logits.detach()


def build_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """What the recipe names; with Muon, SGD for the rest; every parameter in exactly one of them.

    Muon is for matrices that mix channels: not for a depthwise kernel, which has one input channel.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return [torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)]
    by_muon = [p for p in parameters if recipe.optimizer == "muon" and p.ndim == 4 and p.size(1) > 1]
    by_sgd = [p for p in parameters if all(p is not kernel for kernel in by_muon)]
    sgd = torch.optim.SGD(
        by_sgd,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )
    if not by_muon:
        return [sgd]
    return [sgd, Muon(by_muon, recipe.muon_learning_rate, recipe.momentum, recipe.muon_weight_decay)]


def resize(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, H, W) scaled to (N, 3, side, side) with antialiasing; as they are if that is their size."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
