"""What all figures share: their size, their titles, and images as pixels."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from utils.data import Split
from utils.errors import InputError

DPI = 110


def image_grid(rows: int, columns: int, cell: float = 0.95, frames: bool = True) -> tuple[Figure, np.ndarray]:
    """A figure and an array (rows, columns) of axes without ticks; `cell` is the side of one in inches.

    Raises:
        InputError: there is no row or no column.
    """
    if min(rows, columns) < 1:
        raise InputError(f"a figure of {rows} x {columns} images would show nothing: take at least one of each")
    figure = Figure(figsize=(columns * cell + 1, rows * cell + 0.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.axis("on" if frames else "off")
    return figure, axes


def titled(figure: Figure, title: str, origin: str) -> Figure:
    """The figure, under a title and the data's origin, broken where it would be wider than the figure."""
    characters = int(11 * figure.get_figwidth())
    figure.suptitle("\n".join([title, *textwrap.wrap(origin, characters)]), fontsize=10)
    return figure


def pixels(image: Tensor) -> np.ndarray:
    """uint8 (3, H, W) as matplotlib wants it: (H, W, 3) on the CPU."""
    return image.cpu().permute(1, 2, 0).numpy()


def denormalize(images: Tensor, split: Split) -> Tensor:
    """float32 (N, 3, H, W) without mean and std, back to uint8 0..255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (split.mean, split.std))
    return ((images.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
