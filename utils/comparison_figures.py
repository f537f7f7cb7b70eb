"""The pictures of many runs and of what they cost; the pictures of one network are in utils/plots.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, floor
from typing import TYPE_CHECKING, Protocol

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.auditing.requirement import MAX_PARAMETERS as LIMIT
from utils.figures import DPI, titled

if TYPE_CHECKING:
    from utils.repeat import Repeats


def repeats(runs: Repeats) -> Figure:
    """A histogram of the test accuracies of runs that differ in their seed alone, with their mean and the bar."""
    figure = Figure(figsize=(6.4, 3.4), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    low, high = floor(min(runs.accuracies) * 10) / 10, ceil(max(runs.accuracies) * 10) / 10
    tenths = max(round((high - low) * 10), 1)
    axis.hist(runs.accuracies, bins=min(tenths, 20), range=(low, max(high, low + tenths / 10)), rwidth=0.9)
    axis.axvline(runs.mean, color="tab:orange", label=f"mean {runs.mean:.2f} %")
    bar = f"bar {runs.target:.2f} %: {runs.reached} of {len(runs.records)} reach it"
    axis.axvline(runs.target, color="grey", label=bar)
    axis.set(xlabel=f"{runs.tested} accuracy, last epoch (%)", ylabel="seeds")
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
    for (title, lines), axis in zip(panels.items(), axes, strict=False):  # in this order: zip takes none too many
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


class Point(Protocol):
    """A network in the frontier's picture: its accuracy in percent, the deviation or None, on which data, and how."""

    name: str
    parameters: int
    test_accuracy: float
    deviation: float | None
    data: str
    how: str


def has_its_neighbour_on_the_left(point: Point, points: Iterable[Point]) -> bool:
    """Whether a slightly smaller network lies so near that a name above and left of this one would run into it."""
    return any(
        0.8 * point.parameters < other.parameters < point.parameters
        and -1.2 < point.test_accuracy - other.test_accuracy < 0.7
        for other in points
    )


def has_its_neighbour_below(point: Point, points: Sequence[Point]) -> bool:
    """Whether the point nearest in accuracy, of those that a name beside this one could run into, lies below it."""
    above = [
        other.test_accuracy - point.test_accuracy
        for other in points
        if other is not point and 2 / 3 < other.parameters / point.parameters < 3 / 2
    ]
    return min(above, key=abs, default=0) < 0


def frontier(points: Sequence[Point], origin: str) -> Figure:
    """Test accuracy against parameters (on a logarithmic axis), one colour for each way in which they were had."""
    figure = Figure(figsize=(7.6, 5.4), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    groups: dict[str, list[Point]] = {}
    for point in points:
        pixels = ", original pixels" if "original" in point.data else ""
        groups.setdefault(point.how.split(",")[0] + pixels, []).append(point)
    most_accurate = {point.name: point for point in sorted(points, key=lambda point: point.test_accuracy)}
    for number, (label, members) in enumerate(groups.items()):
        members = sorted(members, key=lambda point: point.parameters)
        x, y = [point.parameters for point in members], [point.test_accuracy for point in members]
        errors = [point.deviation or 0.0 for point in members]
        line = "-" if " under " in label else ""  # a family: one network at several widths
        axis.errorbar(x, y, errors, fmt=f"o{line}", color=f"C{number}", markersize=5, linewidth=1.2, label=label)
        for point in members:
            if point is not most_accurate[point.name]:
                continue  # the same network under another recipe: named once, as the points may nearly coincide
            crosses = LIMIT / 1.5 < point.parameters < 0.95 * LIMIT  # a label on its right would cross the limit's line
            left = crosses or has_its_neighbour_below(point, points)
            place, side = ((-4, 4), "right") if left else ((5, -10), "left")
            if left and has_its_neighbour_on_the_left(point, most_accurate.values()):
                place, side = (5, 4), "left"  # rather across the limit's line than across another name
            at = (point.parameters, point.test_accuracy)
            axis.annotate(point.name, at, xytext=place, textcoords="offset points", ha=side, fontsize=7)
    axis.axvline(LIMIT, color="grey", linewidth=0.7, zorder=0, label="the assignment's limit")
    axis.set(xscale="log", xlim=(16_000, 320_000), xlabel="parameters", ylabel="test accuracy, last epoch (%)")
    axis.margins(y=0.1)
    axis.set_xticks([25_000, 50_000, 100_000, 200_000], ["25,000", "50,000", "100,000", "200,000"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return titled(figure, "Accuracy against parameters", origin)
