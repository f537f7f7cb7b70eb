"""An Albumentations policy in words, one line a transform: the notebook's augmentation section prints them."""

from __future__ import annotations

from collections.abc import Iterator

import albumentations as A
import cv2
import numpy as np


def describe(policy: A.Compose) -> str:
    """One line a transform: name, probability, and the parameters that matter.

    Numbers that belong to the data set (mean and std of Normalize, a fill that equals that mean) are named
    and not printed, so that a policy reads the same for every data set. Transforms without words of their own
    here are shown by their `repr`.

    >>> print(describe(A.Compose([A.HorizontalFlip(), A.CoarseDropout((1, 1), (8, 16), (16, 16), fill=0)])))
    HorizontalFlip    p=0.5
    CoarseDropout     p=0.5   1 hole of 8..16 x 16 pixels, fill = 0
    """
    mean = next((t.mean_np for t in policy.transforms if isinstance(t, A.Normalize)), None)
    return "\n".join(describe_transform(transform, mean) for transform in policy.transforms)


def describe_transform(transform: A.BasicTransform, mean: np.ndarray | None) -> str:
    """The line of `describe` for one transform; `mean` is that of Normalize, in pixel units."""
    match transform:
        case A.HorizontalFlip() | A.VerticalFlip() | A.NoOp():
            details = []
        case A.Affine():  # ShiftScaleRotate too
            details = affine_details(transform, mean)
        case A.Pad() if isinstance(transform.padding, int):
            details = [f"{transform.padding} pixels on each side", f"border {BORDERS[transform.border_mode]}"]
        case A.RandomCrop() if not transform.pad_if_needed:
            details = [f"{transform.height} x {transform.width} pixels"]
        case A.ColorJitter():
            ranges = {name: getattr(transform, name) for name in ("brightness", "contrast", "saturation", "hue")}
            details = [f"{name} {low:g}..{high:g}" for name, (low, high) in ranges.items() if (low, high) != (0, 0)]
        case A.CoarseDropout():
            details = hole_details(transform, mean)
        case A.Normalize(normalization="standard"):
            details = ["by mean and standard deviation of each channel"]
        case _:
            return " ".join(repr(transform).split())
    return f"{type(transform).__name__:16}  p={transform.p:<4g}  {', '.join(details)}".rstrip()


def affine_details(affine: A.Affine, mean: np.ndarray | None) -> Iterator[str]:
    if affine.translate_px is not None:
        yield f"shift {spans(affine.translate_px)} pixels"
    else:
        yield f"shift {spans(affine.translate_percent)} of the side"
    yield f"scale {spans(affine.scale)} " + ("alike on both axes" if affine.keep_ratio else "on each axis")
    yield f"rotate {span(affine.rotate)} degrees"
    if affine.shear != {"x": (0, 0), "y": (0, 0)}:
        yield f"shear {spans(affine.shear)} degrees"
    yield INTERPOLATIONS[affine.interpolation]
    yield f"border {BORDERS[affine.border_mode]}"
    if affine.border_mode == cv2.BORDER_CONSTANT:
        yield fill_detail(affine.fill, mean)


def hole_details(dropout: A.CoarseDropout, mean: np.ndarray | None) -> Iterator[str]:
    number = span(dropout.num_holes_range)
    size = f"{span(dropout.hole_height_range)} x {span(dropout.hole_width_range)}"
    unit = "pixels" if dropout.hole_height_range[1] >= 1 else "of the sides"
    yield f"{number} {'hole' if number == '1' else 'holes'} of {size} {unit}"
    yield fill_detail(dropout.fill, mean)


def fill_detail(fill: float | tuple[float, ...] | str, mean: np.ndarray | None) -> str:
    if mean is not None and not isinstance(fill, str) and np.allclose(fill, mean, atol=0.5):
        return "fill = data set mean"
    return "fill = " + (f"{fill:g}" if isinstance(fill, float) else str(fill))


def spans(bounds: dict[str, tuple[float, float]]) -> str:
    """The spans of the x and y axes; one if they are equal."""
    x, y = span(bounds["x"]), span(bounds["y"])
    return x if x == y else f"x {x} y {y}"


def span(bounds: tuple[float, float]) -> str:
    """(0.9, 1.1) as "0.9..1.1", (16, 16) as "16"."""
    low, high = bounds
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


INTERPOLATIONS = {
    cv2.INTER_NEAREST: "nearest",
    cv2.INTER_LINEAR: "linear",
    cv2.INTER_CUBIC: "cubic",
    cv2.INTER_AREA: "area",
    cv2.INTER_LANCZOS4: "lanczos4",
}
BORDERS = {
    cv2.BORDER_CONSTANT: "constant",
    cv2.BORDER_REPLICATE: "replicate",
    cv2.BORDER_REFLECT: "reflect",
    cv2.BORDER_WRAP: "wrap",
    cv2.BORDER_REFLECT_101: "reflect_101",
}
