"""The pictures of utils/insight.py: where a network looks, how sure it is, what disturbs it."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import nn

from utils.evaluation import Evaluation
from utils.figures import DPI, image_grid, pixels, titled
from utils.insight import calibration, confusion_pairs, grad_cam, standard_error


def attention(model: nn.Module, result: Evaluation, count: int = 6) -> Figure:
    """Grad-CAM of `count` right and `count` wrong answers: what spoke for the answer and, where wrong, for the truth.

    The right ones are the first of the split; the wrong ones the most confident.
    """
    split = result.split
    right = (result.predictions == result.labels).nonzero().flatten()[:count]
    wrong = result.mistakes(count)
    rows = [("right: the picture", right, None), ("what spoke for the answer", right, result.predictions)]
    rows += [("wrong: the picture", wrong, None), ("what spoke for the answer", wrong, result.predictions)]
    rows += [("what spoke for the truth", wrong, result.labels)]
    figure, axes = image_grid(len(rows), count, cell=1.3, frames=False)
    for line, (title, indices, classes) in zip(axes, rows, strict=True):
        line[0].set_title(title, fontsize=8, loc="left", y=1.17)
        if not len(indices):
            continue
        images = split.images[indices.to(split.images.device)]
        heat = None if classes is None else grad_cam(model, images, split, classes[indices])
        for column, (axis, image, index) in enumerate(zip(line, images, indices.tolist(), strict=False)):
            picture = pixels(image)
            if heat is None:
                axis.imshow(picture)
                label = split.classes[result.labels[index]]
            else:
                axis.imshow(picture.mean(2), cmap="gray")
                axis.imshow(heat[column].numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.55)
                label = split.classes[classes[index]]
            axis.set_title(label, fontsize=8, y=0.97)
    return titled(figure, "What spoke for which class (Grad-CAM)", split.origin)


def reliability(result: Evaluation) -> Figure:
    """How often the network is right against how sure it is, and how many answers are how sure."""
    found = calibration(result)
    bins = len(found.images)
    edges = [100 * place / bins for place in range(bins)]
    figure = Figure(figsize=(8.4, 3.6), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    filled = found.images > 0
    left.plot([0, 100], [0, 100], color="grey", linewidth=0.7, label="as often right as sure")
    left.bar(edges, found.accuracy.numpy(), 100 / bins, align="edge", edgecolor="white")
    means = found.confidence[filled].numpy(), found.accuracy[filled].numpy()
    left.plot(*means, "o", color="tab:orange", markersize=3, label="mean confidence of a bin")
    left.set(xlabel="confidence (%)", ylabel="right answers (%)", xlim=(0, 100), ylim=(0, 100))
    left.legend(fontsize=8)
    right.bar(edges, found.images.numpy(), 100 / bins, align="edge", edgecolor="white", color="tab:grey")
    right.set(xlabel="confidence (%)", ylabel="images", xlim=(0, 100))
    title = f"Calibration: expected calibration error {found.error:.1f} %, accuracy {result.accuracy:.2f} %"
    return titled(figure, title, result.split.origin)


def robustness(results: dict[str, Evaluation]) -> Figure:
    """Accuracy under each corruption (see `insight.under_corruption`), with its standard error."""
    names = list(results)
    accuracies = [result.accuracy for result in results.values()]
    errors = [standard_error(result.accuracy, result.total) for result in results.values()]
    clean = results[names[0]]
    figure = Figure(figsize=(7.6, 0.27 * len(names) + 1.1), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(names, accuracies, xerr=errors, color=["tab:green", *["tab:blue"] * (len(names) - 1)])
    labels = [f"{accuracy:.1f}" for accuracy in accuracies]
    axis.bar_label(bars, labels, label_type="center", color="white", fontsize=8)  # clear of the clean images' line
    axis.axvline(clean.accuracy, color="tab:green", linewidth=0.7)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy (%)", xlim=(0, 105))
    title = f"Accuracy on {clean.total:,} {clean.split.name} images, as they are and spoiled"
    return titled(figure, title, clean.split.origin)


def frequent_mistakes(result: Evaluation, pairs: int = 4, examples: int = 6) -> Figure:
    """The most frequent confusions, one a row, with the most confident examples of each."""
    found = confusion_pairs(result, pairs)
    figure, axes = image_grid(max(1, len(found)), examples, cell=1.1, frames=False)
    names = list(result.split.classes)
    mistakes = result.mistakes()
    for line, (truth, answer, images) in zip(axes, found, strict=False):
        fits = (result.labels[mistakes] == names.index(truth)) & (result.predictions[mistakes] == names.index(answer))
        line[0].set_title(f"{truth} taken for {answer}: {images}", fontsize=8, loc="left")
        for axis, index in zip(line, mistakes[fits].tolist(), strict=False):
            axis.imshow(pixels(result.split.images[index]))
    return titled(figure, "The most frequent confusions, their most confident examples", result.split.origin)
