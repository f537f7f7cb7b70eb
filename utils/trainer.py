"""One step of training, and one epoch of steps. The loop over epochs is `engine.fit`."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from utils.device import autocast, keep_freed_memory, memory_format, pick_precision
from utils.errors import InputError, TrainingError
from utils.graphs import Graphed
from utils.interrupt import undisturbed
from utils.optim import build_optimizers, set_rate
from utils.recipes import Recipe
from utils.symmetry import MirrorSymmetry
from utils.tally import Tally

REFRESH_SECONDS = 0.5  # of the tqdm line: reading a number off a GPU makes it wait


class Trainer:
    """A model with all that changes while it learns: optimisers, for fp16 the gradient scaler, and the epoch's sums.

    Attributes:
        tally: the sums of the epoch under way; its `steps` say how much of the epoch is done.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device):
        self.model = model.to(device, memory_format=memory_format(model))
        self.recipe = recipe
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
        self.precision = pick_precision(device, recipe.precision)
        if recipe.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = recipe.dropout
        self.symmetry = MirrorSymmetry(self.model) if recipe.mirror_symmetric else None
        if self.symmetry:
            self.symmetry.impose()
        graphed = device.type == "cuda" and recipe.cuda_graphs
        self.optimizers = build_optimizers(model, recipe, graphed)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        if graphed:
            gc.collect()  # earlier trainers: each is in a cycle with its graphs, which keep the memory of a step
            self.learn = Graphed(self.learn, failed=self.renew_scaler)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Starts the sums of an epoch at 0."""
        self.tally = Tally(self.device)

    @property
    def learning_rate(self) -> float:
        """The first optimiser's, of the last step: SGD's, or Adam's."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def train(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        epoch: int,
        images: int,
        report_every: int = 0,
        log: Callable[[str], None] = print,
        after_step: Callable[[], None] = lambda: None,
    ) -> str:
        """Learns from `batches`, which are the rest of an epoch.

        Args:
            epoch: its number, from 1.
            images: how many training images the whole epoch has.
            report_every: `log` gets a line, the means over the epoch so far, after every so many batches; 0: never.
            after_step: called after every step, when model, optimisers and tally agree and can be saved.

        Returns:
            The last line that tqdm showed. `tally` has the sums.

        Raises:
            TrainingError: the loss is not finite, or the images of a batch are all the same.
        """
        self.model.train()
        steps = ceil(images / self.recipe.batch_size)
        tally, refreshed = self.tally, 0.0
        title = f"Epoch {epoch}/{self.recipe.epochs}"
        bar = tqdm(batches, title, steps, initial=tally.steps, file=sys.stdout, dynamic_ncols=True)
        with bar:
            for pictures, labels in bar:
                with undisturbed():
                    pictures, labels = pictures.to(self.device), labels.to(self.device)
                    loss, logits = self.step(
                        pictures, labels, (epoch - 1 + (tally.steps + 0.5) / steps) / self.recipe.epochs
                    )
                    tally.add(pictures, labels, loss, logits)
                if tally.steps == steps or time.monotonic() - refreshed > REFRESH_SECONDS:
                    refreshed = time.monotonic()
                    tally.check(epoch)
                    bar.set_description_str(self.line, refresh=False)
                if report_every and tally.steps % report_every == 0:
                    bar.clear()
                    log(
                        f"Epoch {epoch}, Batch {tally.steps}: Train Loss: {tally.loss:.4f}, "
                        f"Train Accuracy: {tally.accuracy:.2f}%"
                    )
                after_step()
        return self.line

    def step(self, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Learns from one batch, `progress` (0..1) of the way through the run.

        Returns:
            The mean loss () and the logits (N, classes), detached.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                set_rate(group, optimizer.defaults["lr"] * self.recipe.rate_at(progress))
        return self.learn(images, labels, side=self.recipe.side_at(progress))

    def learn(self, images: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Learns from one batch, scaled to `side` pixels, at the rates that the optimisers have."""
        loss, logits = self.forward_backward(resize(images, side), labels)
        self.update()
        return loss, logits

    def forward_backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the gradient of the mean loss into the parameters; returns the loss () and the logits (N, classes).

        Raises:
            InputError: the model answers with anything but a tensor, such as that of an auxiliary head besides.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            logits = self.model(images)
        if not isinstance(logits, Tensor):
            raise InputError(
                f"{type(self.model).__name__} answers with a {type(logits).__name__} in training, where fit takes a "
                "tensor of logits: it has no loss for other answers"
            )
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.model.zero_grad()
        self.scaler.scale(loss).backward()
        return loss.detach(), logits.detach()

    def update(self) -> None:
        """Changes the parameters by their gradients.

        A gradient that the loss scale has made too large for fp16 counts as 0. `scaler.step` would skip the whole step
        instead, and would have to wait for the GPU to know whether to.
        """
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if self.scaler.is_enabled():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        if self.symmetry:
            self.symmetry.average_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        self.scaler.update()  # lowers the scale if `unscale_` has met something infinite

    def renew_scaler(self) -> None:
        """Replaces the fp16 scaler, which a failed CUDA graph leaves half way through a step; the scale is kept."""
        state = self.scaler.state_dict()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.scaler.is_enabled())
        if state:
            self.scaler.load_state_dict(state)

    @property
    def line(self) -> str:
        """The text of tqdm's line, in the usual form of the course: last loss, batch, accuracy so far, rate."""
        return (
            f"Train: Loss={self.tally.sums['last_loss'].item():.4f} Batch_id={self.tally.steps - 1} "
            f"Accuracy={self.tally.accuracy:.2f} LR={self.learning_rate:.4f}"
        )

    def check(self, epoch: int) -> None:
        """Makes sure that tally and weights are finite, as before a checkpoint is written over a good one.

        Raises:
            TrainingError: something is not finite, or the images of a batch were all the same.
        """
        self.tally.check(epoch)
        broken = [name for name, tensor in self.model.state_dict().items() if not tensor.isfinite().all()]
        if broken:
            raise TrainingError(
                f"weights stopped being numbers in epoch {epoch}, by step {self.tally.steps - 1}: "
                f"{', '.join(broken[:3])}; the checkpoint from before is kept; try a lower learning rate, or "
                "precision='fp32'"
            )

    def state_dict(self) -> dict:
        """What training has changed besides the weights, for a checkpoint."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Puts back what `state_dict` returned."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            groups = optimizer.state_dict()["param_groups"]  # as recipe and device ask for; the saved ones may differ
            optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
            for group, before in zip(optimizer.param_groups, saved["param_groups"], strict=True):
                set_rate(group, float(before["lr"]))
        if state["scaler"]:  # empty of a run that was not in fp16 until now
            self.scaler.load_state_dict(state["scaler"])
        self.tally.load_state_dict(state["tally"])


def resize(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, H, W) scaled to (N, 3, side, side) with antialiasing; as they are if that is their size."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
