"""Every picture: functions that return matplotlib figures and show nothing themselves.

Each title ends with the data set's name and provenance, so that no picture passes for another data set's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from utils.auditing.effective_field import effective_fields
from utils.batched import BatchPolicy
from utils.comparison_figures import accuracy_by_seconds, claimed_and_measured, frontier, repeats, stacked_bar
from utils.data import Split
from utils.errors import InputError
from utils.evaluation import Evaluation
from utils.figures import DPI, denormalize, image_grid, pixels, titled
from utils.insight_figures import attention, frequent_mistakes, reliability, robustness

__all__ = [
    "accuracy_by_seconds",
    "attention",
    "augmented",
    "claimed_and_measured",
    "confusion",
    "curves",
    "frontier",
    "frequent_mistakes",
    "mistakes",
    "predictions",
    "receptive_field",
    "reliability",
    "repeats",
    "robustness",
    "samples",
    "stacked_bar",
]

LONGEST = 28  # characters of a picture's name that fit over it


def samples(split: Split, per_class: int = 8) -> Figure:
    """The first `per_class` images of every class, one class a row."""
    figure, axes = image_grid(len(split.classes), per_class)
    for row, label in zip(axes, range(len(split.classes)), strict=True):
        for axis, index in zip(row, (split.labels == label).nonzero().flatten()[:per_class].tolist(), strict=False):
            axis.imshow(pixels(split.images[index]))
        row[0].set_ylabel(split.classes[label], rotation=0, ha="right", va="center")
    return titled(figure, f"{split.name} images", split.origin)


def augmented(split: Split, batch_policy: BatchPolicy, seed: int = 0, images: int = 6, draws: int = 7) -> Figure:
    """Images as they are (first column) and `draws` random augmentations of each.

    Args:
        split: the first `images` of it are shown, or as many as there are.
        batch_policy: one that ends in Normalize, which is taken back for the eye.
        seed: of the augmentation.
    """
    generator = torch.Generator().manual_seed(seed)
    originals = split.images[:images].cpu()
    figure, axes = image_grid(len(originals), draws + 1)
    for row, original in zip(axes, originals, strict=True):
        row[0].imshow(pixels(original))
        drawn = denormalize(batch_policy(original.repeat(draws, 1, 1, 1), generator), split)
        for axis, image in zip(row[1:], drawn, strict=True):
            axis.imshow(pixels(image))
    axes[0][0].set_title("as it is", fontsize=9)
    axes[0][1].set_title("augmented", fontsize=9, loc="left")
    return titled(figure, "What augmentation does", split.origin)


def curves(history: Sequence[dict], title: str, origin: str, tested: str = "test") -> Figure:
    """Loss, accuracy (the last test accuracy named) and learning rate by epoch.

    Args:
        history: the records that `fit` returns.
        title: which network and recipe.
        origin: the data's name and provenance (`data.origin`).
        tested: on what the network was tested after every epoch, "test" or "validation" (`data.test.name`).

    Raises:
        InputError: the history is empty.
    """
    if not history:
        raise InputError("no epoch is complete yet: there is nothing to draw; resume the run")
    column = {key: [record[key] for record in history] for key in history[0]}
    figure = Figure(figsize=(11, 3.4), dpi=DPI, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for part, style, label in (("train", "--", "train"), ("test", "-", tested)):
        loss.plot(column["epoch"], column[f"{part}_loss"], style, label=label)
        accuracy.plot(column["epoch"], column[f"{part}_accuracy"], style, label=label)
    rate.plot(column["epoch"], column["learning_rate"], color="tab:green")
    last = history[-1]
    accuracy.axhline(last["test_accuracy"], color="grey", linewidth=0.7)
    text = f"last epoch {last['test_accuracy']:.2f} %"
    accuracy.text(0.03, 0.92, text, transform=accuracy.transAxes, va="top")  # the curves come from below
    for axis, label in ((loss, "loss (nats)"), (accuracy, "accuracy (%)"), (rate, "learning rate")):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    loss.legend()
    accuracy.legend(loc="lower right")
    return titled(figure, title, origin)


def confusion(result: Evaluation) -> Figure:
    """Rows are the true classes, columns the answers; numbers are images, shades the share of the row."""
    matrix = result.confusion.numpy()
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    classes = result.split.classes
    figure = Figure(figsize=(6.4, 5.8), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        color = "white" if share[row, column] > 0.5 else "black"
        axis.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set(xlabel="answer", ylabel="truth")
    title = f"Confusion: {result.accuracy:.2f} % right of {result.total:,} {result.split.name} images"
    return titled(figure, title, result.split.origin)


def mistakes(result: Evaluation, count: int = 20) -> Figure:
    """The `count` most confidently wrong answers, each with its probability and what the image is."""
    worst = result.mistakes(count).tolist()
    columns = 5
    figure, axes = image_grid(max(1, -(-len(worst) // columns)), columns, cell=1.55, frames=False)
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(pixels(result.split.images[index]))
        answer, truth = result.predictions[index], result.labels[index]
        percent, names = 100 * result.probabilities[index], result.split.classes
        title = f"{names[answer]} {percent[answer]:.0f} %\nis {names[truth]} ({percent[truth]:.0f} %)"
        axis.set_title(title, fontsize=8)
    return titled(figure, f"The {len(worst)} most confident mistakes", result.split.origin)


def predictions(
    pictures: Sequence[Tensor],
    names: Sequence[str],
    probabilities: Tensor,
    classes: Sequence[str],
    top: int = 3,
) -> Figure:
    """Pictures beside bars of their `top` most probable classes.

    Args:
        pictures: uint8 (3, H, W) each.
        names: one a picture; of a long one, the end is shown.
        probabilities: float (N, classes).
    """
    figure = Figure(figsize=(6.4, 1.7 * len(pictures) + 0.3), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(pictures), 2, width_ratios=(1, 3), squeeze=False)
    for (left, right), picture, name, row in zip(axes, pictures, names, probabilities, strict=True):
        left.imshow(pixels(picture))
        name = name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}"
        left.set_title(name.replace("$", r"\$"), fontsize=8)  # of a file: no formula
        left.axis("off")
        best = row.argsort(descending=True, stable=True)[:top].tolist()
        bars = right.barh([classes[k] for k in best], [100 * row[k].item() for k in best])
        right.bar_label(bars, fmt="%.1f %%", padding=3)
        right.invert_yaxis()
        right.set_xlim(0, 115)
        right.set_xticks([])
        right.spines[:].set_visible(False)
    return figure


def receptive_field(
    model: nn.Module, split: Split, names: Sequence[str] | None = None, images: int = 200, index: int = 0
) -> Figure:
    """What the middle of a map can see, and what matters to it, over one image, module by module.

    Above, the theoretical field: a square that grows beyond the image into the padding. Below, the effective field: the
    magnitude of the gradient at each pixel, mean over the first `images` of the split; brightness is its square root.

    Args:
        model: any network that takes the split's images; it stays as it is.
        names: of modules; by default the network's own children that leave a map, or what comes nearest to blocks.
        index: of the image that is shown.
    """
    fields = effective_fields(model, split, names, images)
    picture = pixels(split.images[index])
    height, width = picture.shape[:2]
    largest = max([height, width, *(side for field in fields for side in field.field or ())])
    columns = len(fields)
    figure = Figure(figsize=(max(6.0, 2.2 * columns + 0.6), 5.2), dpi=DPI, layout="constrained")
    for column, (upper, lower, field) in enumerate(
        zip(*figure.subplots(2, columns, squeeze=False), fields, strict=True)
    ):
        upper.imshow(picture)
        upper.set_facecolor("0.9")  # what is not image is padding
        upper.set_xlim(width / 2 - 0.52 * largest, width / 2 + 0.52 * largest)
        upper.set_ylim(height / 2 + 0.52 * largest, height / 2 - 0.52 * largest)
        heat = (field.gradient / field.gradient.max()).sqrt().numpy()
        lower.imshow(picture.mean(2), cmap="gray", vmin=-150, vmax=400)  # pale, for the heat to be seen
        lower.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(1.5 * heat, 0, 1))
        size = "unknown"
        if field.spans is not None:
            size = "{} x {}".format(*field.field)
            (top, bottom), (left, right) = field.spans
            for axis, color in ((upper, "tab:red"), (lower, "tab:cyan")):
                square = Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, color=color)
                axis.add_patch(square)
        upper.set_title(f"{field.name}: {size}", fontsize=9)
        lower.set_title(f"95 % within {field.within(0.95)} pixels", fontsize=9)
        for axis in (upper, lower):
            axis.set(xticks=[], yticks=[])
        if column == 0:
            upper.set_ylabel("theoretical field")
            lower.set_ylabel("effective field")
    count = min(images, len(split))
    return titled(figure, f"What the middle of each map sees; gradients over {count} {split.name} images", split.origin)
