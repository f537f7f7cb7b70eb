"""What happens to a training image: the assignment's augmentation, written as Albumentations, and run.

The notebook's augmentation section shows the policy and pictures of it. There are two ways to run one:
`BatchPolicy` on whole batches on the device (utils/batched.py), the default, and `per_image_loader` on one
image at a time in DataLoader workers.
"""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils.batched import BatchPolicy
from utils.data import Split
from utils.descriptions import describe
from utils.errors import InputError
from utils.recipes import Recipe

__all__ = [
    "POLICIES",
    "BatchPolicy",
    "PerImage",
    "affine_policy",
    "assignment_policy",
    "describe",
    "per_image_loader",
    "recipe_policy",
]

DEPRECATION = "ShiftScaleRotate is a special case of Affine transform. Please use Affine transform instead."


def assignment_policy(
    mean: Iterable[float],
    std: Iterable[float],
    *,
    flip: float = 0.5,
    shift_scale_rotate: float = 0.5,
    coarse_dropout: float = 0.5,
    crop: int = 0,
    color_jitter: float = 0.0,
) -> A.Compose:
    """The augmentation that the assignment asks for, then Normalize.

    The assignment fixes the transforms; how often each is applied is the caller's choice. Albumentations
    2.0.8 makes an Affine of ShiftScaleRotate: it scales width and height independently, by 0.9..1.1
    (1 + `scale_limit`), and cuts shifts to whole pixels, so that up to 0.0625 of 32 pixels is -1, 0 or 1
    pixel, and half of the time 0.

    Args:
        mean, std: of the training images, three channels, pixels counted as 0..1.
        flip, shift_scale_rotate, coarse_dropout: probability per image, 0..1.
        crop: pixels by which every image is padded (reflected), for a random crop of 32x32; the assignment asks for
            none, 0.
        color_jitter: probability of a change of colours, 0..1; the assignment asks for none, 0.

    Returns:
        A Compose that maps a uint8 image (H, W, 3) to float32 (H, W, 3).

    Raises:
        InputError: `mean` or `std` are not three numbers in 0..1, or a probability is not in 0..1.
    """
    check_probability("shift_scale_rotate", shift_scale_rotate)
    with warnings.catch_warnings():
        # The assignment asks for ShiftScaleRotate by name, so the advice to use Affine cannot be taken.
        warnings.filterwarnings("ignore", re.escape(DEPRECATION), UserWarning)
        move = A.ShiftScaleRotate(
            shift_limit=0.0625,
            scale_limit=0.1,
            rotate_limit=15,
            # The default of Albumentations 1.x, for which the assignment was written (2.x: black).
            # The picture goes on beyond its border: no fill, no edge that tells how it was turned.
            border_mode=cv2.BORDER_REFLECT_101,
            p=shift_scale_rotate,
        )
    return whole_policy(mean, std, move, flip=flip, coarse_dropout=coarse_dropout, crop=crop, color_jitter=color_jitter)


def affine_policy(
    mean: Iterable[float], std: Iterable[float], *, shift_scale_rotate: float = 0.5, **others
) -> A.Compose:
    """`assignment_policy` with an Affine of the same ranges in place of ShiftScaleRotate, black beyond the border.

    The policy of system 002, which names the transforms but not their parameters: the black is Albumentations' default.
    The other arguments are those of `assignment_policy`.
    """
    check_probability("shift_scale_rotate", shift_scale_rotate)
    move = A.Affine(
        translate_percent=(-0.0625, 0.0625),
        scale=(0.9, 1.1),
        rotate=(-15, 15),
        p=shift_scale_rotate,
    )
    return whole_policy(mean, std, move, **others)


POLICIES = {"assignment": assignment_policy, "affine": affine_policy}  # by the name that a recipe gives


def recipe_policy(recipe: Recipe, mean: Iterable[float], std: Iterable[float], epoch: int = 1) -> A.Compose:
    """The policy that a recipe names, with the recipe's probabilities, as it is in an epoch (from 1) of the run.

    Args:
        mean, std: as for `assignment_policy`.
    """
    if recipe.is_plain(epoch):
        recipe = replace(recipe, shift_scale_rotate=0.0, coarse_dropout=0.0, crop=0, color_jitter=0.0)
    return POLICIES[recipe.policy](
        mean,
        std,
        flip=recipe.flip,
        shift_scale_rotate=recipe.shift_scale_rotate,
        coarse_dropout=recipe.coarse_dropout,
        crop=recipe.crop,
        color_jitter=recipe.color_jitter,
    )


def whole_policy(
    mean: Iterable[float],
    std: Iterable[float],
    move: A.Affine,
    flip: float = 0.5,
    coarse_dropout: float = 0.5,
    crop: int = 0,
    color_jitter: float = 0.0,
) -> A.Compose:
    """HorizontalFlip, RandomCrop if there is a `crop`, `move`, ColorJitter if it has a probability, hole, Normalize.

    The hole is one of 16x16 pixels in the mean colour. The ranges of ColorJitter are those of cifar10-tiniest
    (github.com/xvel/cifar10-tiniest), but for its hue.
    """
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if not (len(mean) == len(std) == 3 and all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std)):
        raise InputError(
            f"mean and std must be three numbers in 0..1 each, std above 0; got {mean} and {std}: "
            "if they count pixels as 0..255, divide them by 255"
        )
    check_probability("flip", flip)
    check_probability("coarse_dropout", coarse_dropout)
    check_probability("color_jitter", color_jitter)
    cropping = [A.Pad(crop, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(32, 32)] if crop else []
    colors = [A.ColorJitter(0.1, 0.1, 0.5, hue=0, p=color_jitter)] if color_jitter else []
    return A.Compose(
        [
            A.HorizontalFlip(p=flip),
            *cropping,
            move,
            *colors,
            A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(16, 16),
                hole_width_range=(16, 16),
                fill=tuple(255 * m for m in mean),  # Normalize comes later: pixels are uint8 here
                fill_mask=None,
                p=coarse_dropout,
            ),
            A.Normalize(mean=mean, std=std, max_pixel_value=255),
        ]
    )


def check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise InputError(f"{name}={p} is no probability: give a number in 0..1")


def check_normalized(policy: A.Compose, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses a policy whose images are not normalised as those of the test are.

    Raises:
        InputError: it does not normalise every image exactly once, by `mean` and `std` (0..1 units) to within 0.01.
    """
    places = [at for at, transform in enumerate(policy.transforms) if isinstance(transform, A.Normalize)]
    steps = [(policy.transforms[at], full_scale(policy.transforms[:at])) for at in places]
    by = [normalized_by(*step) for step in steps if step[0].normalization == "standard"]
    always = policy.p == 1 and all(normalize.p == 1 for normalize, _ in steps)
    if not always or len(by) != 1 or not np.allclose(by[0], (mean, std), rtol=0, atol=0.01):
        mean, std = (tuple(round(v, 4) for v in values) for values in (mean, std))
        full = steps[-1][1] if steps else full_scale(policy.transforms)
        asked = f"A.Normalize(mean={mean}, std={std}, max_pixel_value={full:g})"
        raise InputError(f"the policy has to normalise every image as the test does, once: with {asked}")


def normalized_by(normalize: A.Normalize, full: float) -> np.ndarray:
    """Mean and std (2, 3), in 0..1 units, of a standard Normalize that gets pixels of 0..`full`."""
    return np.array([normalize.mean, normalize.std]) * normalize.max_pixel_value / full


def full_scale(before: Sequence[A.BasicTransform]) -> float:
    """The largest value of a pixel that comes out of `before`: 255, or 1 after ToFloat."""
    last = next((t for t in reversed(before) if isinstance(t, A.ToFloat | A.FromFloat)), None)
    return 255 / (last.max_value or 255) if isinstance(last, A.ToFloat) else 255


class PerImage(Dataset):
    """A split, augmented image by image. Keys are (epoch, index), items (float32 (3, H, W), int label).

    What happens to an image depends on (seed, epoch, index) alone, neither on the order of the images nor on
    the number of workers: a resumed run sees the same pictures.

    Args:
        split: images and labels; a copy in host memory is used.
        policy: any Albumentations policy that keeps the size of the image.
        seed: 0 or more.
    """

    def __init__(self, split: Split, policy: A.Compose, seed: int):
        self.images = split.images.cpu().permute(0, 2, 3, 1).numpy()  # a view, in Albumentations' order
        self.labels = split.labels.tolist()
        self.policy = copy.deepcopy(policy)  # the random state of this one is set for every image
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        numbers = np.random.default_rng((self.seed, epoch, index))
        # One stream for all transforms. Compose.set_random_seed would start each on a copy of the same one:
        # all coins would fall alike, and an image be flipped if and only if it gets a hole.
        self.policy.set_random_state(numbers, random.Random(int(numbers.integers(2**32))))
        image = self.policy(image=self.images[index])["image"]
        if not isinstance(image, Tensor):  # the policy does not end with ToTensorV2
            image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return image.float(), self.labels[index]


def per_image_loader(
    split: Split,
    policy: A.Compose,
    batch_size: int,
    seed: int,
    epoch: int,
    order: Iterable[int],
    workers: int = 0,
) -> DataLoader:
    """One epoch of batches (float32 (N, 3, H, W), int64 (N,)), augmented image by image.

    Args:
        split, policy, seed: as for `PerImage`.
        batch_size: images a batch; the last one may be shorter.
        epoch: 0 or more; every epoch augments the images anew.
        order: the indices of the images, usually a permutation.
        workers: processes that augment; 0 does it in this one. The batches are the same.
    """
    return DataLoader(
        PerImage(split, policy, seed),
        batch_size,
        sampler=[(epoch, index) for index in torch.as_tensor(order).tolist()],
        num_workers=workers,
        generator=torch.Generator(),  # else the loader would draw from torch's global one, and move it on
    )
