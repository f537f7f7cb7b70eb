"""What a network does on images that it has not learned from. The notebook's sections on results use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.metrics import classification_report, confusion_matrix
from torch import Tensor, nn

from utils.data import Split, fingerprints
from utils.device import autocast, is_out_of_memory, pick_precision
from utils.errors import InputError, TrainingError, one_line

SEEN_ALLOWED = 0.01  # share of a test set that may have been trained on: a few photographs may be in both sets
EVALUATION_BATCH = 200  # images; a divisor of 10,000. 500 at once took a CPU a quarter longer: benchmarks/README.md


@dataclass(frozen=True)
class Evaluation:
    """The answers of a network to a set of images.

    Attributes:
        split: the images and labels that were asked.
        probabilities: float32 (N, classes) on the CPU, each row sums to 1.
        loss: mean cross-entropy over the images, in nats, without label smoothing.
        mirrored: whether each answer is the mean over the image and its mirror image: test-time augmentation.
    """

    split: Split
    probabilities: Tensor
    loss: float
    mirrored: bool = False

    @property
    def predictions(self) -> Tensor:
        """The most probable class of each image, int64 (N,)."""
        return self.probabilities.argmax(1)

    @property
    def labels(self) -> Tensor:
        """The true classes, int64 (N,), on the CPU."""
        return self.split.labels.cpu()

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def total(self) -> int:
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """Top-1, in percent."""
        return 100 * self.correct / self.total

    @property
    def confusion(self) -> Tensor:
        """int64 (classes, classes): how many images of the row's class were taken for the column's."""
        return torch.from_numpy(confusion_matrix(self.labels, self.predictions, labels=self._class_ids))

    @property
    def report(self) -> str:
        """scikit-learn's precision, recall and F1 of each class, as text."""
        return classification_report(
            self.labels,
            self.predictions,
            labels=self._class_ids,
            target_names=self.split.classes,
            digits=4,
            zero_division=0,
        )

    @property
    def _class_ids(self) -> list[int]:
        return list(range(len(self.split.classes)))

    def mistakes(self, count: int | None = None) -> Tensor:
        """Indices of wrongly answered images, the most confidently wrong first; int64 (at most count,)."""
        wrong = (self.predictions != self.labels).nonzero().flatten()
        order = self.probabilities[wrong].amax(1).argsort(descending=True, stable=True)
        return wrong[order][:count]

    def __str__(self) -> str:
        name = f"{self.split.name.capitalize()} set"
        how = " with test-time augmentation (image and mirror image)" if self.mirrored else ""
        return (
            f"{name}: Average loss: {self.loss:.4f}, Accuracy: {self.correct}/{self.total} ({self.accuracy:.2f}%){how}"
        )


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, precision: str = "auto", mirrored: bool = False) -> Evaluation:
    """Asks `model` about every image of `split`, as it is: normalised, not augmented, in evaluation mode.

    Args:
        model: maps float32 (N, 3, H, W) to logits (N, classes). Runs where its parameters are; its mode is put back.
        split: the images, on any device.
        precision: "auto" (what the device does well, as in training), "fp32", "bf16" or "fp16".
        mirrored: ask about the mirror image too, and take the mean of the logits: test-time augmentation, which is to
            be reported apart.

    Raises:
        InputError: the model's answers are not (N, classes), or not finite; the split's name does not begin with
            "train" and it holds images that the model has learned from; or an argument is of another kind.
        TrainingError: memory runs out.
    """
    if not (isinstance(model, nn.Module) and isinstance(split, Split)):
        kinds = f"{type(model).__name__} and {type(split).__name__}"
        raise InputError(f"evaluate needs a network and a split of the data, such as data.test; got {kinds}")
    check_compatible(model, split)
    check_unseen(getattr(model, "learned_from", None), split)
    device = next(model.parameters()).device
    precision = pick_precision(device, precision)
    logits = []
    try:
        with evaluating(model):
            for images in split.images.split(EVALUATION_BATCH):
                images = normalize(images.to(device), split.mean, split.std)
                with autocast(device, precision):
                    answer = model(images).float()
                    if mirrored:
                        answer = (answer + model(images.flip(3)).float()) / 2
                logits.append(answer)
            logits = torch.cat(logits).cpu()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"out of memory in a test of {EVALUATION_BATCH} images at once: free some") from error
    if not logits.isfinite().all():
        raise InputError(
            "the network's answers are not finite (NaN or infinite): its weights are broken, train it anew"
        )
    loss = F.cross_entropy(logits.double(), split.labels.cpu()).item()
    return Evaluation(split, logits.softmax(1), loss, mirrored)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode; then each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images (N, 3, H, W) as float32, channels last, less the mean and over the std (both in 0..1 units)."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) for v in (mean, std))
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def check_unseen(learned_from: Tensor | None, split: Split) -> None:
    """Refuses test or validation images that were trained on: accuracy on those says nothing about new images.

    Args:
        learned_from: fingerprints of the images that a network has learned from, if it says so: `fit` leaves them in
            `model.learned_from`, and checkpoints keep them.

    Raises:
        InputError: more than 1 % of the split's images are among them, pixel for pixel, and its name does not begin
            with "train".
    """
    if split.name.startswith("train") or learned_from is None:
        return
    seen = int(torch.isin(fingerprints(split.images), learned_from).sum())
    if seen > SEEN_ALLOWED * len(split):
        raise InputError(
            f"{seen:,} of these {len(split):,} images are among those that the network has learned from: they are no "
            f"{split.name} set; test on data.test, start from new weights, take out images that are there twice, or "
            "give the split its true name"
        )


def check_compatible(model: nn.Module, split: Split) -> None:
    """Refuses a model that cannot answer one image of the split with one logit for each of its classes.

    Raises:
        InputError: the model has no parameters, fails on the split's images, or has another number of classes.
    """
    check_shapes(model, tuple(split.images.shape[1:]), len(split.classes), split.dataset)


def check_shapes(model: nn.Module, shape: tuple[int, ...], classes: int, asks: str) -> None:
    """Refuses a model that cannot answer one image (channels, height, width) with one logit for each of the classes.

    Args:
        asks: for messages, what has so many classes.

    Raises:
        InputError: the model has no parameters, fails on such an image, or answers in another shape.
    """
    name, expected = type(model).__name__, (1, classes)
    if next(model.parameters(), None) is None:
        raise InputError(f"{name} has no parameters: there is nothing to train or to test")
    try:
        answer = answer_shape(model, shape)
    except Exception as error:  # whatever a network may raise
        raise InputError(f"{name} cannot take an image of {shape}: {one_line(error)}{dtype_hint(model)}") from error
    if answer != expected:
        hint = ": squeeze() takes the axis of the images away, flatten(1) keeps it" if answer == expected[1:] else ""
        raise InputError(f"{name} answers with {answer}; {asks} needs {expected}{hint}")


def dtype_hint(model: nn.Module) -> str:
    """What to do about weights that are not float32, as images are; "" if all are."""
    others = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype != torch.float32}
    return f"; its weights are {', '.join(sorted(others))}, and images come as float32: model.float()" if others else ""


@torch.no_grad()
def answer_shape(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the model's answer to one black image (channels, height, width), in evaluation mode."""
    device = next(model.parameters()).device
    if device.type == "meta":
        raise RuntimeError("it has no weights yet: its parameters are on the device 'meta'")
    with evaluating(model):
        image = torch.zeros(1, *shape, device=device)
        answer = model(image.contiguous(memory_format=torch.channels_last))  # as they come in training and test
    if not isinstance(answer, Tensor):
        raise TypeError(f"its answer is a {type(answer).__name__}, not a tensor of logits")
    return tuple(answer.shape)
