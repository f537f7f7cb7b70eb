"""The running loss and accuracy of an epoch, and the checks that its loss is finite and its images differ."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.errors import TrainingError

FEW = 8  # images: a batch of so many, or more, that are all the same is no accident


class Tally:
    """Sums over the images of an epoch, kept on the device: to read one off a GPU makes the program wait for it.

    Attributes:
        steps: batches so far.
        images: images so far.
    """

    def __init__(self, device: torch.device):
        zero = torch.zeros((), device=device)
        self.steps = self.images = 0
        # Sums over images: a short last batch weighs what it holds.
        self.sums = {"loss": zero, "hits": zero.long(), "last_loss": zero}
        # How many steps there were before the first one with a loss that is not finite, or with images all the same.
        self.sums |= {"finite_steps": zero.long(), "varied_steps": zero.long()}

    def add(self, images: Tensor, labels: Tensor, loss: Tensor, logits: Tensor) -> None:
        """Counts one batch: float32 (N, C, H, W), int64 (N,), the mean loss () and the logits (N, classes)."""
        sums = self.sums
        pixels = images[:, :, ::4, ::4]  # enough of them to tell images apart
        varied = len(images) < FEW or (pixels[1:] != pixels[:1]).any()
        sums["varied_steps"] = sums["varied_steps"] + (varied & (sums["varied_steps"] == self.steps))
        sums["loss"] = sums["loss"] + loss * len(labels)  # never finite again once it is not
        sums["finite_steps"] = sums["finite_steps"] + sums["loss"].isfinite()
        sums["hits"] = sums["hits"] + (logits.argmax(1) == labels).sum()
        sums["last_loss"] = loss
        self.steps += 1
        self.images += len(labels)

    @property
    def loss(self) -> float:
        """Mean over the images so far."""
        return self.sums["loss"].item() / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        """Percent of the images so far."""
        return 100 * self.sums["hits"].item() / max(self.images, 1)

    def check(self, epoch: int) -> None:
        """Reads the sums, which makes a GPU wait; `epoch` is for the message.

        Raises:
            TrainingError: the loss stopped being finite, or all the images of a batch are one and the same.
        """
        if self.sums["finite_steps"] < self.steps:
            raise TrainingError(
                f"the loss stopped being a number in epoch {epoch}, at step {self.sums['finite_steps'].item()} (from "
                "0); the checkpoint from before is kept; try a lower learning rate, or precision='fp32'"
            )
        if self.sums["varied_steps"] < self.steps:
            raise TrainingError(
                f"all the images of a batch were the same in epoch {epoch}, at step "
                f"{self.sums['varied_steps'].item()} (from 0); the checkpoint from before is kept; look at the data, "
                "and at what the policy makes of it: plots.augmented"
            )

    def state_dict(self) -> dict:
        return {"steps": self.steps, "images": self.images} | self.sums

    def load_state_dict(self, state: dict) -> None:
        """Puts back what `state_dict` returned."""
        self.steps, self.images = state["steps"], state["images"]
        self.sums = {key: state[key].to(self.sums[key].device) for key in self.sums}
