"""The row of an audit on the augmentation policy: the three transforms demanded, and their parameters."""

from __future__ import annotations

from collections.abc import Iterator

import albumentations as A
import numpy as np

from utils.arrays import SIDE
from utils.auditing.requirement import Requirement, row, unjudged
from utils.data import ImageData
from utils.errors import InputError
from utils.recipes import Recipe
from utils.transforms import full_scale, normalized_by, recipe_policy

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images, pixels counted as 0..1
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
HOLE = 16  # pixels a side


def augment_row(recipe: Recipe | A.Compose | None, data: ImageData | None) -> Requirement:
    """Whether the policy holds the three transforms with the demanded parameters; what is wrong with each.

    Raises:
        InputError: `recipe` is neither a recipe nor an Albumentations policy.
    """
    if recipe is None:
        return unjudged("augment", "no recipe or policy was given")
    mean, std = (data.mean, data.std) if data is not None else (CIFAR10_MEAN, CIFAR10_STD)
    if isinstance(recipe, Recipe):
        policy = recipe_policy(recipe, mean, std)
    elif isinstance(recipe, (A.BaseCompose, A.BasicTransform)):
        policy = recipe
    else:
        raise InputError(f"audit needs a Recipe or an Albumentations policy to judge, got {type(recipe).__name__}")
    transforms = list(flat(policy))
    faults = [*ignored_faults(transforms), *flip_faults(transforms), *shift_faults(transforms)]
    faults += dropout_faults(transforms, np.array(mean))
    found = [type(t).__name__ for t in transforms]
    said = "; ".join(faults) or "all three as demanded"
    if isinstance(recipe, Recipe):
        plain = sum(recipe.is_plain(epoch) for epoch in range(1, recipe.epochs + 1))
        end = f"; the last {plain} of {recipe.epochs} epochs only flip" if plain else ""
        said += f" (recipe {recipe.name}{end})"
    return row("augment", said, not faults, found)


def flat(policy: A.BaseCompose | A.BasicTransform) -> Iterator[A.BasicTransform]:
    """The transforms of a policy in order, also those inside OneOf, Sequential and the like."""
    if isinstance(policy, A.BaseCompose):
        for part in policy.transforms if policy.p > 0 else ():
            yield from flat(part)
    else:
        yield policy


def ignored_faults(transforms: list[A.BasicTransform]) -> Iterator[str]:
    """Albumentations warns of arguments that it does not know, and goes on with its defaults."""
    for transform in transforms:
        names = getattr(transform, "invalid_args", None)
        if names:
            yield f"{type(transform).__name__} ignores {', '.join(names)}: not arguments of this Albumentations"


def flip_faults(transforms: list[A.BasicTransform]) -> Iterator[str]:
    yield from missing([t for t in transforms if isinstance(t, A.HorizontalFlip)], "HorizontalFlip")


def missing(found: list[A.BasicTransform], name: str) -> Iterator[str]:
    if not found:
        yield f"no {name}"
    elif all(t.p == 0 for t in found):
        yield f"{name} with p=0 is never applied"


def shift_faults(transforms: list[A.BasicTransform]) -> Iterator[str]:
    """ShiftScaleRotate, or the Affine that it is a special case of: it must shift, scale and rotate."""
    found = [t for t in transforms if isinstance(t, A.Affine)]
    yield from missing(found, "ShiftScaleRotate")
    for affine in found:
        shifts = affine.translate_px if affine.translate_px is not None else affine.translate_percent
        moves = {
            "shift": any(value != 0 for value in ends(shifts)),
            "scale": any(value != 1 for value in ends(affine.scale)),
            "rotate": any(value != 0 for value in ends(affine.rotate)),
        }
        idle = [word for word, does in moves.items() if not does]
        if idle:
            yield f"{type(affine).__name__} does not {' or '.join(idle)}"


def ends(value) -> list[float]:
    """The numbers in a parameter: a number, a span, or spans for x and y."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [end for part in value.values() for end in ends(part)]
    return list(value) if isinstance(value, (tuple, list)) else [value]


def dropout_faults(transforms: list[A.BasicTransform], mean: np.ndarray) -> Iterator[str]:
    found = [t for t in transforms if isinstance(t, A.CoarseDropout)]
    yield from missing(found, "CoarseDropout")
    for dropout in found:
        if tuple(dropout.num_holes_range) != (1, 1):
            yield f"{spread(dropout.num_holes_range)} holes, not 1"
        height, width = sides(dropout)
        if (height, width) != ((HOLE, HOLE), (HOLE, HOLE)):
            yield f"a hole of {spread(height)} x {spread(width)} pixels, not {HOLE} x {HOLE}"
        if dropout.fill_mask is not None:
            yield f"fill_mask={numbers(dropout.fill_mask)}, not None"
        fault = fill_fault(dropout.fill, *units(transforms[: transforms.index(dropout)], mean))
        if fault:
            yield fault


def sides(dropout: A.CoarseDropout) -> list[tuple[float, float]]:
    """A hole's height and width in pixels: both are shares of the image where the height, which decides, is below 1."""
    ranges = dropout.hole_height_range, dropout.hole_width_range
    if dropout.hole_height_range[1] < 1:
        return [(low * SIDE, high * SIDE) for low, high in ranges]
    return [(int(low), int(high)) for low, high in ranges]


def spread(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def units(before: list[A.BasicTransform], mean: np.ndarray) -> tuple[np.ndarray, float, str]:
    """What the data's mean is to a transform that comes after `before`, the tolerance, and the pixels' units."""
    for at, transform in enumerate(before):
        if isinstance(transform, A.Normalize):
            if getattr(transform, "normalization", "standard") != "standard":
                return np.zeros(3), 0.1, "after Normalize"
            its_mean, its_std = normalized_by(transform, full_scale(before[:at]))
            return (mean - its_mean) / its_std, 0.1, "after Normalize"
    full = full_scale(before)
    return full * mean, 0.012 * full, f"in 0..{full:g}"


def fill_fault(fill, expected: np.ndarray, tolerance: float, unit: str) -> str | None:
    """What is wrong with a fill, if it is not the data's mean in the units of the pixels it is put among."""
    shown = numbers(tuple(expected))
    if fill is None or isinstance(fill, str):
        return f"fill={fill!r}, not the mean {shown}"
    values = np.array(ends(fill), dtype=float)
    if len(values) in (1, 3) and np.allclose(values, expected, atol=tolerance):
        return None
    text = f"fill={numbers(fill)}"
    if unit == "in 0..255" and 0 < values.max() <= 1:
        return f"{text} is in the wrong units: the pixels are {unit} there, their mean is {shown}"
    if unit == "after Normalize" and values.max() > 5:
        return f"{text} is in the wrong units: the pixels are normalised there, their mean is {shown}"
    return f"{text}, not the mean {shown}"


def numbers(value) -> str:
    """A number, or several in brackets, with three digits."""
    shown = [f"{v:.3g}" for v in ends(value)]
    return f"({', '.join(shown)})" if len(shown) > 1 else shown[0]
