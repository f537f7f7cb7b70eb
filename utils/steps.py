"""The transforms that run on whole batches, each read from its Albumentations namesake.

To add one: write a class like `Flip` below and enter it in `STEPS` at the end.
"""

from __future__ import annotations

import functools

import albumentations as A
import cv2
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from torch import Tensor

from utils.errors import InputError


class Dice:
    """Random numbers for a batch: (N, k) float32, k for each of its N images."""

    def __init__(self, n: int, device: torch.device, generator: torch.Generator):
        self.n, self.device, self.generator = n, device, generator

    def uniform(self, low: float, high: float, k: int = 1) -> Tensor:
        """Real numbers from [low, high)."""
        return torch.empty(self.n, k, device=self.device).uniform_(low, high, generator=self.generator)

    def integer(self, low: int, high: int | Tensor, k: int = 1) -> Tensor:
        """Whole numbers from low..high, both included; `high` may be (N, k), a bound for each number."""
        return low + (self.uniform(0, 1, k) * (high - low + 1)).floor()


class Step:
    """One transform: what is drawn for every image, and what that does to the images that are chosen."""

    p: float  # probability that an image is chosen

    def draw(self, dice: Dice, height: int, width: int) -> tuple[Tensor, ...]:
        """The random numbers: tensors whose first axis is the image. Here none."""
        return ()

    def change(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """A new (N, C, H, W) of the same dtype (Normalize alone makes float32 of uint8)."""
        raise NotImplementedError


class Nothing(Step):
    """NoOp, and ToTensorV2: a batch already is a tensor, channels first."""

    def __init__(self, transform: A.NoOp | ToTensorV2):
        self.p = 0.0


class Flip(Step):
    """HorizontalFlip, VerticalFlip."""

    def __init__(self, flip: A.HorizontalFlip | A.VerticalFlip):
        self.p = flip.p
        self.axis = 3 if isinstance(flip, A.HorizontalFlip) else 2

    def change(self, images: Tensor) -> Tensor:
        return images.flip(self.axis)


class Affine(Step):
    """Affine and ShiftScaleRotate: output = centre + shift + shear @ rotation @ scale @ (input - centre)."""

    def __init__(self, affine: A.Affine):
        if affine.interpolation not in INTERPOLATIONS:
            raise unsupported(affine, "its interpolation must be linear or nearest")
        if affine.border_mode not in BORDERS:
            raise unsupported(affine, "its border_mode must be constant, replicate or reflect_101")
        if affine.fit_output or affine.balanced_scale:
            raise unsupported(affine, "fit_output and balanced_scale must be False")
        self.p = affine.p
        self.affine = affine
        self.interpolation, self.border = INTERPOLATIONS[affine.interpolation], BORDERS[affine.border_mode]
        self.fill = per_channel(affine.fill) if affine.border_mode == cv2.BORDER_CONSTANT else None

    def draw(self, dice: Dice, height: int, width: int) -> tuple[Tensor]:
        """(N, 2, 3), from an output pixel (x, y, 1) to its place in the input.

        Both are counted from the centre: the output in pixels, the input in grid_sample's units, where the
        first pixel is at -1 and the last at 1.
        """
        affine = self.affine
        if affine.translate_px is not None:
            shift_x, shift_y = (dice.integer(*map(int, affine.translate_px[axis])) for axis in "xy")
        else:  # whole pixels, cut towards 0: 0.0625 of 32 pixels is at most 1, and half of the time 0
            shift_x = (dice.uniform(*affine.translate_percent["x"]) * width).trunc()
            shift_y = (dice.uniform(*affine.translate_percent["y"]) * height).trunc()
        shear_x, shear_y = (-dice.uniform(*affine.shear[axis]).deg2rad().tan() for axis in "xy")
        scale_x, scale_y = (dice.uniform(*affine.scale[axis]) for axis in "xy")
        if affine.keep_ratio:
            scale_y = scale_x
        angle = dice.uniform(*affine.rotate).deg2rad()  # counter-clockwise, as y points down

        zero, one = torch.zeros_like(angle), torch.ones_like(angle)
        unshear = matrix(one, -shear_x, -shear_y, one) / (1 - shear_x * shear_y).unsqueeze(2)
        unrotate = matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        # 2 / (side - 1) turns pixels into grid_sample's units.
        unscale = matrix(2 / (width - 1) / scale_x, zero, zero, 2 / (height - 1) / scale_y)
        inverse = unscale @ unrotate @ unshear
        shift = torch.stack([shift_x, shift_y], dim=1)  # (N, 2, 1)
        return (torch.cat([inverse, -inverse @ shift], dim=2),)

    def change(self, images: Tensor, inverse: Tensor) -> Tensor:
        height, width = images.shape[2:]
        x = torch.arange(width, device=images.device) - (width - 1) / 2
        y = torch.arange(height, device=images.device).unsqueeze(1) - (height - 1) / 2
        by_x, by_y, offset = inverse[..., None, None].unbind(2)  # each (N, 2, 1, 1)
        grid = (by_x * x + (by_y * y + offset)).permute(0, 2, 3, 1)  # (N, H, W, 2)

        pixels = images.float()
        if self.fill is not None:  # grid_sample knows no border but 0, so let 0 stand for the fill
            fill = constant(self.fill, torch.float32, images.device)
            pixels = pixels - fill
        pixels = F.grid_sample(pixels, grid, self.interpolation, self.border, align_corners=True)
        if self.fill is not None:
            pixels = pixels + fill
        return pixels.round_().to(torch.uint8) if images.dtype == torch.uint8 else pixels


class Pad(Step):
    """Pad: the same number of pixels is added to every image."""

    def __init__(self, pad: A.Pad):
        if pad.p != 1:
            raise unsupported(pad, "it must have p=1, for all images of a batch to have one size")
        if pad.border_mode not in PADDINGS:
            raise unsupported(pad, "its border_mode must be replicate or reflect_101")
        self.p = 1.0
        sizes = (pad.padding,) * 4 if isinstance(pad.padding, int) else tuple(pad.padding)
        self.left, self.top, self.right, self.bottom = sizes * (4 // len(sizes))
        self.mode = PADDINGS[pad.border_mode]

    def change(self, images: Tensor) -> Tensor:
        sides = (self.left, self.right, self.top, self.bottom)
        return F.pad(images.float(), sides, self.mode).to(images.dtype)  # torch pads no uint8


class Crop(Step):
    """RandomCrop: every place is equally likely."""

    def __init__(self, crop: A.RandomCrop):
        if crop.p != 1 or crop.pad_if_needed:
            raise unsupported(crop, "it must have p=1 and pad_if_needed=False")
        self.p = 1.0
        self.height, self.width = crop.height, crop.width

    def draw(self, dice: Dice, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Top and left: two (N, 1), in pixels."""
        if self.height > height or self.width > width:
            crop, image = f"{self.height}x{self.width}", f"{height}x{width} image"
            raise InputError(f"RandomCrop: {crop} cannot be cut from a {image}; choose a smaller one")
        return dice.integer(0, height - self.height), dice.integer(0, width - self.width)

    def change(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
        rows = top.long() + torch.arange(self.height, device=images.device)  # (N, height)
        columns = left.long() + torch.arange(self.width, device=images.device)
        rows = rows[:, None, :, None].expand(-1, images.size(1), -1, images.size(3))
        cut = images.gather(2, rows)
        return cut.gather(3, columns[:, None, None, :].expand(*cut.shape[:3], -1))


class Holes(Step):
    """CoarseDropout: every hole lies wholly inside the image, all places being equally likely."""

    def __init__(self, dropout: A.CoarseDropout):
        if isinstance(dropout.fill, str):
            raise unsupported(dropout, f"its fill must be numbers, not {dropout.fill!r}")
        self.p = dropout.p
        self.dropout = dropout
        self.fill = per_channel(dropout.fill)

    def draw(self, dice: Dice, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, bottom and right of k holes: four (N, k), in pixels, bottom and right just outside.

        k is the greatest number of holes; those that an image does not get are 0 pixels high.
        """
        heights, widths = self.dropout.hole_height_range, self.dropout.hole_width_range
        fewest, k = self.dropout.num_holes_range
        exists = torch.arange(k, device=dice.device) < dice.integer(fewest, k)
        if heights[1] >= 1:  # pixels, else parts of a side; like Albumentations, ask the height only
            if heights[0] > height or widths[0] > width:
                hole, image = f"{heights[0]}x{widths[0]} hole", f"{height}x{width} image"
                raise InputError(f"CoarseDropout: a {hole} does not fit into a {image}; choose a smaller one")
            hole_height = dice.integer(int(heights[0]), int(min(heights[1], height)), k)
            hole_width = dice.integer(int(widths[0]), int(min(widths[1], width)), k)
        else:
            hole_height = (dice.uniform(*heights, k) * height).trunc()
            hole_width = (dice.uniform(*widths, k) * width).trunc()
        top = dice.integer(0, height - hole_height, k)
        left = dice.integer(0, width - hole_width, k)
        return top, left, top + hole_height * exists, left + hole_width

    def change(self, images: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
        height, width = images.shape[2:]
        y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        rows = (top.unsqueeze(2) <= y) & (y < bottom.unsqueeze(2))  # (N, k, H)
        columns = (left.unsqueeze(2) <= x) & (x < right.unsqueeze(2))  # (N, k, W)
        hole = (rows.unsqueeze(3) & columns.unsqueeze(2)).any(dim=1, keepdim=True)  # (N, 1, H, W)
        fill = constant(self.fill, images.dtype, images.device)  # 125.9 becomes 125, as in Albumentations
        return images * ~hole + fill * hole  # 5 times as fast as torch.where on a CPU


class Colors(Step):
    """ColorJitter: brightness, contrast, saturation and hue, one after the other, in an order drawn for each image.

    Each of the first three moves a pixel away from a grey, or towards it: from black, from the mean grey of the image,
    from the pixel's own grey. After each, pixels are cut to whole numbers of 0..255; after the third, rounded.
    """

    def __init__(self, jitter: A.ColorJitter):
        self.p = jitter.p
        self.ranges = [jitter.brightness, jitter.contrast, jitter.saturation]
        if any(jitter.hue):  # a turn by 0 changes nothing, and turning takes most of the time
            self.ranges.append(jitter.hue)

    def draw(self, dice: Dice, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Factors (N, k) of the k changes, that of hue in turns of the colour wheel, and their order (N, k)."""
        factors = torch.cat([dice.uniform(*limits) for limits in self.ranges], dim=1)
        return factors, dice.uniform(0, 1, len(self.ranges)).argsort(dim=1)

    def change(self, images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.size(1) != 3:
            raise InputError("ColorJitter is for uint8 images with three channels: put it before Normalize")
        for which in order.split(1, dim=1):  # (N, 1), each image's next change
            factor = factors.gather(1, which)[..., None, None]
            which = which[..., None, None]  # 0 brightness, 1 contrast, 2 saturation, 3 hue
            pixels = images.float()
            own_grey = grey(pixels)
            origin = torch.where(which == 1, own_grey.mean((2, 3), keepdim=True), own_grey * (which == 2))
            changed = origin + factor * (pixels - origin) + 0.5 * (which == 2)
            if len(self.ranges) == 4:
                changed = torch.where(which == 3, with_hue_shifted(pixels, factor), changed)
            images = changed.clamp_(0, 255).to(torch.uint8)
        return images


class Normalize(Step):
    """Normalize of the "standard" kind: (pixel - mean) / std, with mean and std in pixel units."""

    def __init__(self, normalize: A.Normalize):
        if normalize.normalization != "standard" or normalize.p != 1:
            raise unsupported(normalize, 'it must have normalization="standard" and p=1')
        self.p = 1.0
        self.mean = per_channel(normalize.mean_np.tolist())
        self.scale = per_channel(normalize.denominator.tolist())

    def change(self, images: Tensor) -> Tensor:
        mean = constant(self.mean, torch.float32, images.device)
        return (images - mean).mul_(constant(self.scale, torch.float32, images.device))


def grey(pixels: Tensor) -> Tensor:
    """How bright (N, 1, H, W) the pixels (N, 3, H, W), red, green and blue, look: the luma of ITU-R BT.601."""
    return (pixels * constant((0.299, 0.587, 0.114), torch.float32, pixels.device)).sum(1, keepdim=True)


def with_hue_shifted(pixels: Tensor, turns: Tensor) -> Tensor:
    """Pixels (N, 3, H, W), float32, whose hues have moved by `turns` (N, 1, 1, 1) of the colour wheel.

    Source: A. R. Smith, "Color gamut transform pairs", 1978, for hue, saturation and value.
    """
    red, green, blue = pixels.split(1, dim=1)
    value, least = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = value - least
    # Sixths of the wheel: 0 at red, 2 at green, 4 at blue. What is grey has no hue, and any will do.
    sixths = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    ) / chroma.clamp(min=1)
    away = sixths + 6 * turns + constant((5.0, 3.0, 1.0), torch.float32, pixels.device)
    away -= 6 * (away / 6).floor()  # as remainder, but much faster
    return value - chroma * torch.minimum(away, 4 - away).clamp_(0, 1)


def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """(N, 2, 2), rows (a, b) and (c, d), of four (N, 1)."""
    return torch.cat([a, b, c, d], dim=1).view(-1, 2, 2)


def per_channel(values: float | tuple[float, ...] | list[float]) -> tuple[float, ...]:
    """One number a channel, or a single one for all."""
    return tuple(values) if isinstance(values, tuple | list) else (values,)


@functools.cache  # a copy to a GPU waits for it, so each is made once
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(C, 1, 1), or (1, 1, 1) if there is a single value."""
    return torch.tensor(values).to(device, dtype).view(-1, 1, 1)


def unsupported(transform: object, reason: str) -> InputError:
    """The error for what Albumentations can do and this module cannot."""
    return InputError(
        f"{type(transform).__name__} cannot be run on whole batches: {reason}; "
        "to run the policy image by image, use dataclasses.replace(recipe, per_image=True)"
    )


# Albumentations' names on the left, those of torch's grid_sample on the right.
INTERPOLATIONS = {cv2.INTER_NEAREST: "nearest", cv2.INTER_LINEAR: "bilinear"}
BORDERS = {
    cv2.BORDER_CONSTANT: "zeros",
    cv2.BORDER_REPLICATE: "border",
    cv2.BORDER_REFLECT_101: "reflection",
}
PADDINGS = {cv2.BORDER_REPLICATE: "replicate", cv2.BORDER_REFLECT_101: "reflect"}  # those of torch's pad

STEPS: dict[type, type[Step]] = {
    A.HorizontalFlip: Flip,
    A.VerticalFlip: Flip,
    A.Affine: Affine,
    A.ShiftScaleRotate: Affine,
    A.Pad: Pad,
    A.RandomCrop: Crop,
    A.ColorJitter: Colors,
    A.CoarseDropout: Holes,
    A.Normalize: Normalize,
    A.NoOp: Nothing,
    ToTensorV2: Nothing,
}
