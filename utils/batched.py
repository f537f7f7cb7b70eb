"""An Albumentations policy, run on whole batches on whichever device the images are on: the default path.

`BatchPolicy` reads the transforms of an `A.Compose`, so that a policy is written once (utils/transforms.py)
and runs both ways. It draws from the distributions of Albumentations 2.0.8, though not the same numbers, and
keeps to its units: uint8 pixels 0..255 until Normalize. Nothing here makes the CPU wait for a GPU. The transforms
that it knows are in utils/steps.py.
"""

from __future__ import annotations

import albumentations as A
import torch
from torch import Tensor

from utils.errors import InputError
from utils.steps import STEPS, Dice, Step, unsupported


class BatchPolicy:
    """An Albumentations policy as one function of a whole batch.

    Args:
        policy: an `A.Compose` with p=1 of the transforms in `STEPS`, not nested.

    Raises:
        InputError: the policy has a transform or an option that is not supported here; the message names it.
    """

    def __init__(self, policy: A.Compose):
        if type(policy) is not A.Compose or policy.p != 1:
            raise unsupported(policy, "only a plain Compose with p=1 is")
        for transform in policy.transforms:
            if type(transform) not in STEPS:
                raise unsupported(transform, "known are " + ", ".join(known.__name__ for known in STEPS))
        self.steps = [STEPS[type(transform)](transform) for transform in policy.transforms]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The augmented batch; `images` stay as they are.

        Args:
            images: uint8 (N, C, H, W), on any device.
            generator: on the same device; the only source of random numbers.

        Returns:
            float32 (N, C, H, W): normalised if the policy has a Normalize, else 0..255.

        Raises:
            InputError: `images` have another dtype or shape; or are too small for RandomCrop or CoarseDropout's hole;
                or come to ColorJitter without three channels, or normalised.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise InputError(f"expected uint8 images (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        dice = Dice(len(images), images.device, generator)
        for step in self.steps:
            images = apply(step, images, dice)
        return images.float()


def apply(step: Step, images: Tensor, dice: Dice) -> Tensor:
    """The batch with each image changed by `step`, or not, independently with probability `step.p`."""
    if step.p <= 0:
        return images
    drawn = step.draw(dice, *images.shape[2:])
    if step.p >= 1:
        return step.change(images, *drawn)

    chosen = dice.uniform(0, 1).squeeze(1) < step.p
    if images.device.type != "cpu":
        # Change all and keep the chosen: their number, which picking them needs, would have to be waited for.
        return torch.where(chosen.view(-1, 1, 1, 1), step.change(images, *drawn), images)

    index = chosen.nonzero().squeeze(1)
    changed = step.change(images.index_select(0, index), *(numbers[index] for numbers in drawn))
    # Whole images, picked from [images, changed]: 5 times as fast as torch.where or images[index] = changed.
    place = torch.arange(len(images))
    place[index] = torch.arange(len(index)) + len(images)
    return torch.cat([images, changed]).index_select(0, place)
