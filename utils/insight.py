"""What trained weights see, what they take for what, how sure they are, and what disturbs them.

The notebook's section 10 shows it. Nothing here trains, and nothing changes the network.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from numbers import Integral

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn
from tqdm import tqdm

from utils.data import Split
from utils.errors import InputError
from utils.evaluation import Evaluation, evaluate, evaluating, normalize
from utils.trace import forward_hooks
from utils.transforms import PerImage

BINS = 15  # of confidence, as in Guo et al.


def grad_cam(model: nn.Module, images: Tensor, split: Split, classes: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Where the network looked for each class: Grad-CAM by the library captum.

    Args:
        model: maps float32 (N, 3, H, W) to logits; it and its mode stay as they are.
        images: uint8 (N, 3, H, W).
        split: whose mean and std normalise them.
        classes: int64 (N,), the class that each image is asked about.
        layer: one of the model's modules that answers with a map; by default the last one that does.

    Returns:
        float32 (N, H, W) on the CPU, 0..1: the greatest value of each image is 1, or all are 0 where nothing speaks
        for the class.

    Raises:
        InputError: images and classes are not as said, or the layer is none of the model's that answers with a map; or
            no module answers with a map of more than one pixel.

    Source: R. Selvaraju et al., "Grad-CAM", arXiv 1610.02391.
    """
    device = next(model.parameters()).device
    asked = replace(split, images=images, labels=classes).to(device)  # it refuses what does not fit together
    with evaluating(model):
        pictures = normalize(asked.images, split.mean, split.std)
        found = layers_with_maps(model, pictures[:1])
        if layer is not None and layer not in found:
            raise InputError(f"{type(model).__name__}: the layer is none of its modules that answer with a map")
        heat = LayerGradCam(model, layer or found[-1]).attribute(pictures, asked.labels, relu_attributions=True)
    heat = F.interpolate(heat.detach().float(), images.shape[-2:], mode="bilinear").squeeze(1).cpu()
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def layers_with_maps(model: nn.Module, picture: Tensor) -> list[nn.Module]:
    """The modules that answer with a map of more than one pixel, in their order; a module after those inside of it.

    Args:
        picture: float32 (1, 3, H, W).

    Raises:
        InputError: there is none.
    """
    answered: list[nn.Module] = []

    def note(module: nn.Module, inputs, answer) -> None:
        if isinstance(answer, Tensor) and answer.ndim == 4 and answer[0, 0].numel() > 1:
            answered.append(module)

    with forward_hooks([module for module in model.modules() if module is not model], note):
        model(picture)
    if not answered:
        raise InputError(f"{type(model).__name__}: none of its modules answers with a map for Grad-CAM to look at")
    return answered


def confusion_pairs(result: Evaluation, count: int = 5) -> list[tuple[str, str, int]]:
    """The `count` most frequent mistakes: true class, answer, images."""
    wrong = result.confusion.clone().fill_diagonal_(0)
    names = result.split.classes
    order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = (divmod(place, len(names)) for place in order)
    return [(names[truth], names[answer], int(wrong[truth, answer])) for truth, answer in pairs if wrong[truth, answer]]


@dataclass(frozen=True)
class Calibration:
    """How often a network is right, for each degree of its confidence (the probability of its answer).

    Attributes:
        images: int64 (bins,), how many answers fall into each of equally wide bins of confidence, 0..1.
        confidence: float64 (bins,), their mean confidence in percent; 0 in an empty bin.
        accuracy: float64 (bins,), percent of them that are right; 0 in an empty bin.
    """

    images: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error, in percent: the mean over all images of |accuracy - confidence| of their bin.

        Source: C. Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, equation 3.
        """
        gaps = (self.accuracy - self.confidence).abs()
        return ((gaps * self.images).sum() / self.images.sum()).item()


def calibration(result: Evaluation, bins: int = BINS) -> Calibration:
    """The answers sorted into `bins` of confidence; the upper edge of a bin belongs to it.

    Raises:
        InputError: `bins` is no whole number from 1 on.
    """
    if not isinstance(bins, Integral) or bins < 1:
        raise InputError(f"{bins!r} bins cannot be sorted into; take a whole number from 1 on")
    confidence = result.probabilities.amax(1).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    images = torch.bincount(place, minlength=bins)
    right = (result.predictions == result.labels).double()

    def mean(values: Tensor) -> Tensor:
        return 100 * torch.bincount(place, values, minlength=bins) / images.clamp(min=1)

    return Calibration(images, mean(confidence), mean(right))


def corruptions() -> dict[str, A.BasicTransform]:
    """What a camera does to a picture, from little to much, each as the Albumentations transform that does it."""
    table: dict[str, A.BasicTransform] = {}
    for share in (0.02, 0.05, 0.1):
        table[f"noise, {100 * share:g} % of the range"] = A.GaussNoise(std_range=(share, share), p=1)
    for sigma in (0.5, 1.0, 1.5):
        table[f"blur, sigma {sigma:g} pixels"] = A.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1)
    for quality in (90, 50, 20, 10):
        table[f"JPEG, quality {quality}"] = A.ImageCompression("jpeg", (quality, quality), p=1)
    for change in (-0.4, -0.2, 0.2, 0.4):
        brightness = A.RandomBrightnessContrast((change, change), (0, 0), p=1)
        table[f"brightness {100 * change:+g} % of the range"] = brightness
    return table


def corrupted(split: Split, name: str, transform: A.BasicTransform, seed: int = 0) -> Split:
    """The split with every image changed by `transform`, image by image; its data set's name says so.

    Args:
        seed: of what the transform draws for each image.
    """
    changed = PerImage(split, A.Compose([transform]), seed)
    images = torch.stack([changed[0, index][0] for index in range(len(split))]).to(torch.uint8)
    return replace(split, images=images.to(split.images.device), dataset=f"{split.dataset}, {name}")


def under_corruption(model: nn.Module, split: Split, images: int | None = None, seed: int = 0) -> dict[str, Evaluation]:
    """What the network answers to the first `images` of a split as they are, and under each of `corruptions()`."""
    split = replace(split, images=split.images[:images], labels=split.labels[:images])
    results = {"as it is": evaluate(model, split)}
    for name, transform in tqdm(corruptions().items(), "Corruptions", leave=False, file=sys.stdout):
        results[name] = evaluate(model, corrupted(split, name, transform, seed))
    return results


def standard_error(percent: float, images: int) -> float:
    """Of an accuracy measured on so many images, in percentage points.

    >>> round(standard_error(90, 10_000), 2)
    0.3
    """
    return float(100 * np.sqrt(percent / 100 * (1 - percent / 100) / images))
