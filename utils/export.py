"""A trained network as an ONNX file, which runs without this package and without torch; checked before it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from utils.data import Split
from utils.errors import InputError, one_line
from utils.evaluation import EVALUATION_BATCH, check_shapes, evaluating, normalize
from utils.files import write

TOLERANCE = 1e-4  # of a logit, in float32


def export_onnx(
    model: nn.Module,
    path: str | Path,
    split: Split,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> float:
    """Writes `model` to the ONNX file `path`, if ONNX Runtime answers like it on every image of `split`.

    The file's input is "images", float32 (N, 3, H, W), normalised; its output "logits", float32 (N, classes); N is
    free. Its metadata has "classes", "mean" and "std" (as JSON; pixels counted as 0..1).

    Args:
        model: with float32 weights; stays as it is; exported in evaluation mode.
        split: images that fit the model.
        mean, std: what the model's images are normalised with; by default the split's.
        classes: the names of what the model answers; by default the split's.

    Returns:
        The greatest difference between two logits, torch's and ONNX Runtime's.

    Raises:
        InputError: the network does not answer with a logit for each class, or cannot be exported; the answers differ
            by more than 1e-4 or in a class; or the file cannot be written. Nothing is left of it.
    """
    mean, std = tuple(mean or split.mean), tuple(std or split.std)
    facts = {"classes": list(classes or split.classes), "mean": list(mean), "std": list(std)}
    number = len(facts["classes"])
    check_shapes(model, tuple(split.images.shape[1:]), number, f"a file with {number} names of classes")
    device = next(model.parameters()).device
    try:
        with evaluating(model.to("cpu")):
            content = onnx_file(model, tuple(split.images.shape[1:]), facts)
            difference = check_answers(model, content, split, mean, std)
    finally:
        model.to(device)
    try:
        write(Path(path), content)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another file") from error
    return difference


def onnx_file(model: nn.Module, shape: tuple[int, ...], facts: dict[str, list]) -> bytes:
    """The content of the ONNX file, for images (channels, height, width) and with these metadata."""
    two = torch.zeros(2, *shape)  # of one image, the exporter would conclude that N is always 1
    try:
        program = torch.onnx.export(
            getattr(model, "_orig_mod", model),  # of torch.compile's wrapper, which hides what forward takes
            (two,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # of the many kinds that torch's exporter raises
        reason = one_line(error.__cause__ or error)
        raise InputError(f"{type(model).__name__} cannot be exported to ONNX: {reason}") from error
    graph = program.model_proto
    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in facts.items()})
    return graph.SerializeToString()


@torch.no_grad()
def check_answers(model: nn.Module, content: bytes, split: Split, mean: Sequence[float], std: Sequence[float]) -> float:
    """The greatest difference between a logit of the model and of ONNX Runtime's.

    Raises:
        InputError: it is more than 1e-4, or the two name different classes for an image.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    greatest, changed = 0.0, 0
    for images in split.images.cpu().split(EVALUATION_BATCH):
        pictures = normalize(images, mean, std).contiguous()
        ours = model(pictures)
        theirs = torch.from_numpy(np.asarray(session.run(["logits"], {"images": pictures.numpy()})[0]))
        greatest = max(greatest, float((ours - theirs).abs().max()))
        changed += int((ours.argmax(1) != theirs.argmax(1)).sum())
    if greatest > TOLERANCE or changed:
        raise InputError(
            f"ONNX Runtime answers otherwise than torch: logits differ by up to {greatest:.1e}, and {changed} of "
            f"{len(split):,} images get another class; no file was written"
        )
    return greatest
