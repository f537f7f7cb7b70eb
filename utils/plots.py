"""Every picture: functions that return matplotlib figures and show nothing themselves.

Each title ends with the data set's name and provenance, so that no picture passes for another data set's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from utils.auditing.effective_field import effective_fields
from utils.data import Split
from utils.errors import InputError
from utils.evaluation import Evaluation
from utils.figures import DPI, denormalize, image_grid, pixels, titled
from utils.insight_figures import attention, frequent_mistakes, reliability, robustness

if TYPE_CHECKING:
    from utils.repeat import Repeats

__all__ = [
    "accuracy_by_seconds",
    "attention",
    "augmented",
    "claimed_and_measured",
    "confusion",
    "curves",
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


def samples(split: Split, per_class: int = 8) -> Figure:
    """The first `per_class` images of every class, one class a row."""
    figure, axes = image_grid(len(split.classes), per_class)
    for row, label in zip(axes, range(len(split.classes)), strict=True):
        for axis, index in zip(row, (split.labels == label).nonzero().flatten()[:per_class].tolist(), strict=False):
            axis.imshow(pixels(split.images[index]))
        row[0].set_ylabel(split.classes[label], rotation=0, ha="right", va="center")
    return titled(figure, f"{split.name} images", split.origin)


def augmented(split: Split, batch_policy, seed: int = 0, images: int = 6, draws: int = 7) -> Figure:
    """Images as they are (first column) and `draws` random augmentations of each.

    Args:
        split: the images; the first ones are shown.
        batch_policy: a `BatchPolicy` that ends in Normalize, which is taken back for the eye.
        seed: of the augmentation.
    """
    generator = torch.Generator().manual_seed(seed)
    originals = split.images[:images].cpu()
    figure, axes = image_grid(images, draws + 1)
    for row, original in zip(axes, originals, strict=True):
        row[0].imshow(pixels(original))
        drawn = denormalize(batch_policy(original.repeat(draws, 1, 1, 1), generator), split)
        for axis, image in zip(row[1:], drawn, strict=True):
            axis.imshow(pixels(image))
    axes[0][0].set_title("as it is", fontsize=9)
    axes[0][1].set_title("augmented", fontsize=9, loc="left")
    return titled(figure, "What augmentation does", split.origin)


def curves(history: Sequence[dict], title: str, origin: str) -> Figure:
    """Loss, accuracy (the last test accuracy named) and learning rate by epoch.

    Args:
        history: the records that `fit` returns.
        title: which network and recipe.
        origin: the data's name and provenance (`data.origin`).
    """
    if not history:
        raise InputError("no epoch is complete yet: there is nothing to draw; resume the run")
    column = {key: [record[key] for record in history] for key in history[0]}
    figure = Figure(figsize=(11, 3.4), dpi=DPI, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for part, style in (("train", "--"), ("test", "-")):
        loss.plot(column["epoch"], column[f"{part}_loss"], style, label=part)
        accuracy.plot(column["epoch"], column[f"{part}_accuracy"], style, label=part)
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


def repeats(runs: Repeats) -> Figure:
    """A histogram of the test accuracies of runs that differ in their seed alone, with their mean and the bar."""
    figure = Figure(figsize=(6.4, 3.4), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    low, high = floor(min(runs.accuracies) * 10) / 10, ceil(max(runs.accuracies) * 10) / 10
    tenths = max(round((high - low) * 10), 1)
    axis.hist(runs.accuracies, bins=min(tenths, 20), range=(low, low + tenths / 10), rwidth=0.9)
    axis.axvline(runs.mean, color="tab:orange", label=f"mean {runs.mean:.2f} %")
    bar = f"bar {runs.target:.2f} %: {runs.reached} of {len(runs.records)} reach it"
    axis.axvline(runs.target, color="grey", label=bar)
    axis.set(xlabel="test accuracy, last epoch (%)", ylabel="seeds")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    first = runs.records[0]
    title = f"{first['model']}, recipe {first['recipe']['name']}, {len(runs.records)} seeds"
    return titled(figure, title, f"{first['data']['name']}: {first['data']['provenance']}")


def claimed_and_measured(panels: dict[str, dict[str, Sequence[float]]], target: float, origin: str) -> Figure:
    """Accuracy by epoch: one panel a network, one line a run, all on the same axes.

    Args:
        panels: by title, then by the line's label, accuracies in percent from epoch 1 on. Labels that start alike up
            to ", " share a colour; "claimed" is dashed.
        target: in percent, a thin line across.
        origin: the data's name and provenance.
    """
    columns = 4
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(11, 2.7 * rows + 0.5), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    kinds = list(dict.fromkeys(label.split(", ")[0] for lines in panels.values() for label in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for label, accuracies in lines.items():
            kind = label.split(", ")[0]
            style = "--" if kind == "claimed" else "-"
            axis.plot(range(1, len(accuracies) + 1), accuracies, style, color=f"C{kinds.index(kind)}", linewidth=1.2)
        axis.axhline(target, color="grey", linewidth=0.7)
        axis.set(title=title, xlabel="epoch", ylim=(35, 90))
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    for axis in axes:  # those left over
        axis.axis("off")
    figure.axes[0].set_ylabel("test accuracy (%)")
    handles = [
        Line2D([], [], color=f"C{number}", linestyle="--" if kind == "claimed" else "-")
        for number, kind in enumerate(kinds)
    ]
    figure.legend(handles, kinds, loc="lower right", fontsize=9)
    return titled(figure, "Test accuracy by epoch, claimed and measured", origin)


def accuracy_by_seconds(curves: dict[str, Sequence[Sequence[dict]]], target: float, origin: str) -> Figure:
    """Test accuracy against wall time, one colour a run, one line a seed, a dot where it ends.

    Args:
        curves: by the run's label, a history (as `fit` returns) for each seed.
        target: in percent, a line across.
        origin: the data's name and provenance.
    """
    figure = Figure(figsize=(7, 4), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    for number, (label, histories) in enumerate(curves.items()):
        for history in histories:
            seconds = [record["seconds"] for record in history]
            accuracies = [record["test_accuracy"] for record in history]
            axis.plot(seconds, accuracies, color=f"C{number}", linewidth=1.2, label=label)
            axis.plot(seconds[-1:], accuracies[-1:], "o", color=f"C{number}", markersize=4)
            label = None  # once in the legend
    axis.axhline(target, color="grey", linewidth=0.7)
    axis.set(xlabel="seconds since the call of fit", ylabel="test accuracy (%)")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return titled(figure, f"Time to {target:g} % of the test images", origin)


def stacked_bar(parts: dict[str, float], title: str, unit: str, origin: str) -> Figure:
    """One bar made of `parts`, each with its name, amount and share."""
    figure = Figure(figsize=(9, 2.2), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    whole, left = sum(parts.values()), 0.0
    for name, amount in parts.items():
        axis.barh([0], [amount], left=left, label=f"{name} {amount:.1f} ({100 * amount / whole:.0f} %)")
        left += amount
    axis.set(xlabel=unit, yticks=[], xlim=(0, whole))
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(parts), fontsize=8, frameon=False)
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
    figure, axes = image_grid(max(1, -(-len(worst) // columns)), columns, cell=1.55)
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(pixels(result.split.images[index]))
        answer, truth = result.predictions[index], result.labels[index]
        certain, fair = 100 * result.probabilities[index, answer], 100 * result.probabilities[index, truth]
        names = result.split.classes
        axis.set_title(f"{names[answer]} {certain:.0f} %\nis {names[truth]} ({fair:.0f} %)", fontsize=8)
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
        names: one a picture.
        probabilities: float (N, classes).
    """
    figure = Figure(figsize=(6.4, 1.7 * len(pictures) + 0.3), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(pictures), 2, width_ratios=(1, 3), squeeze=False)
    for (left, right), picture, name, row in zip(axes, pictures, names, probabilities, strict=True):
        left.imshow(pixels(picture))
        left.set_title(name, fontsize=8)
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
        names: of modules; by default the network's own children that leave a map.
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
