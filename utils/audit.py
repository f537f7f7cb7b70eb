"""The assignment's limits, measured on a network: the notebook's "Does the network keep to the limits?".

Layers are found by running the network once, so any order and any `forward` will do, as long as the layers are
modules. The receptive field is read off the gradients of the network itself, not off a formula.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.tables import as_table

MAX_PARAMETERS = 200_000  # fewer than
MIN_RECEPTIVE_FIELD = 44  # more than, in pixels


@dataclass(frozen=True)
class Layer:
    """A convolution or pooling layer as it ran on one image: its name, its module, and the shapes (channels, h, w)."""

    name: str
    module: nn.Module
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    receptive_field: int | None = None

    @property
    def kind(self) -> str:
        """What students call it: "conv 3x3", "depthwise 3x3", "pointwise 1x1", with stride and dilation if any."""
        if not isinstance(self.module, nn.Conv2d):
            return type(self.module).__name__
        height, width = self.module.kernel_size
        word = "depthwise" if is_depthwise(self.module) else "pointwise" if (height, width) == (1, 1) else "conv"
        words = [word, f"{height}x{width}"]
        if self.module.stride != (1, 1):
            words.append(f"stride {self.module.stride[0]}")
        if self.module.dilation != (1, 1):
            words.append(f"dilation {self.module.dilation[0]}")
        return " ".join(words)


@dataclass(frozen=True)
class Limit:
    """One requirement of the assignment: what it demands, what was measured, and whether that passes."""

    id: str
    demanded: str
    measured: str
    passed: bool


class Limits(tuple):
    """The requirements, in order; prints as a table."""

    @property
    def passed(self) -> bool:
        return all(limit.passed for limit in self)

    def __str__(self) -> str:
        rows = [("requirement", "demanded", "measured", "")]
        rows += [(row.id, row.demanded, row.measured, "passed" if row.passed else "FAILED") for row in self]
        return as_table(rows)


def check_limits(model: nn.Module, side: int = 32) -> Limits:
    """What can be said of a network without training it: parameters, field, depthwise, dilated, pooling, blocks.

    Args:
        model: takes float32 (N, 3, side, side); its convolutions and pools are modules. It is left as it was.
        side: of the images, in pixels.

    Raises:
        InputError: the network has no convolution, or no nn.AdaptiveAvgPool2d to end on.
    """
    layers = layer_table(model, side)
    convolutions = [layer for layer in layers if isinstance(layer.module, nn.Conv2d)]
    parameters = sum(p.numel() for p in model.parameters())
    field = max(layer.receptive_field for layer in convolutions if layer.receptive_field is not None)
    separable = [
        first.name
        for first, second in zip(convolutions, convolutions[1:], strict=False)
        if is_depthwise(first.module) and is_pointwise(second.module)
    ]
    dilated = [c.name for c in convolutions if max(c.module.kernel_size) > 1 and max(c.module.dilation) > 1]
    pooled = [layer.name for layer in layers if isinstance(layer.module, (nn.MaxPool2d, nn.AdaptiveMaxPool2d))]
    head = [layer.name for layer in layers if isinstance(layer.module, nn.AdaptiveAvgPool2d)]
    sides = [layer.shape_out[-1] for layer in convolutions if layer.shape_out[-1] > 1]
    blocks = list(dict.fromkeys([side, *sides]))  # the sides of the map, in order
    return Limits(
        (
            Limit("params", f"fewer than {MAX_PARAMETERS:,}", f"{parameters:,}", parameters < MAX_PARAMETERS),
            Limit("rf", f"more than {MIN_RECEPTIVE_FIELD}", str(field), field > MIN_RECEPTIVE_FIELD),
            Limit("structure", "four blocks", " > ".join(map(str, blocks)), len(blocks) == 4),
            Limit("depthwise", "at least one separable", ", ".join(separable) or "none", bool(separable)),
            Limit("dilated", "at least one", ", ".join(dilated) or "none", bool(dilated)),
            Limit("gap", "global average pooling", ", ".join(head) or "none", len(head) == 1),
            Limit("max_pooling", "none", ", ".join(pooled) or "none", not pooled),
        )
    )


def layer_table(model: nn.Module, side: int = 32) -> list[Layer]:
    """The convolutions and pools in the order in which they run, each with its map and its receptive field.

    The field is a side in input pixels, padding counted as image, before the global average (from there on: None).
    """
    model = uniform_copy(model)
    with recorded(model) as layers:
        model(torch.ones(1, 3, side, side, dtype=torch.float64))
    fields = receptive_fields(model, len(layers))
    return [
        Layer(name, module, tuple(x.shape[1:]), tuple(y.shape[1:]), field)
        for (name, module, x, y), field in zip(layers, fields, strict=True)
    ]


def receptive_fields(model: nn.Module, count: int, side: int = 65) -> list[int | None]:
    """Side of the square of input pixels that one position in the middle of each layer's output depends on.

    The gradient of that position with respect to the image is not zero exactly there: the weights are all positive
    (`uniform_copy`), so that nothing cancels. The image grows until no field touches its border.
    """
    image = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    with recorded(model) as layers:
        model(image)
    fields: list[int | None] = []
    for _, module, _, output in layers:
        if fields and fields[-1] is None or isinstance(module, nn.AdaptiveAvgPool2d):
            fields.append(None)
            continue
        middle = output[..., output.shape[-2] // 2, output.shape[-1] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        fields.append(int(rows[-1] - rows[0]) + 1)
        if rows[0] == 0 or rows[-1] == side - 1:
            return receptive_fields(model, count, 2 * side)
    return fields


def uniform_copy(model: nn.Module) -> nn.Module:
    """A float64 copy whose kernels are averages and whose batch norms change nothing: no gradient cancels."""
    model = copy.deepcopy(model).cpu().double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.fill_(1 / module.weight[0].numel())
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return model


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor, Tensor]]]:
    """Notes each convolution and pool as it runs: its name, itself, its input and its output."""
    kinds = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
    layers: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, x, y, name=name: layers.append((name, module, x[0], y)))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def is_depthwise(convolution: nn.Conv2d) -> bool:
    return 1 < convolution.groups == convolution.in_channels


def is_pointwise(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.groups == 1
