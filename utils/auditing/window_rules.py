"""The rules of the layer algebra for what reads windows of positions: convolution, pooling, resizing, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod

from utils.auditing.layouts import (
    SIDES,
    Layout,
    Look,
    Strand,
    Taps,
    argument,
    dimensions,
    first,
    is_spatial,
    moved,
    pair,
    shrunk,
    size_of,
)
from utils.auditing.lines import Unfollowed, adaptive_window, interpolated, nearest, transposed_window, window
from utils.trace import Operation


def convolution(operation: Operation, look: Look) -> Layout:
    layout = look(operation.arguments["input"])
    kernel = operation.arguments["weight"].shape[2:]
    layout = layout.blurred([1], operation.index)  # every output channel reads the channels of its group
    layout = layout.also_seeing(look(operation.arguments["weight"]).blurred(range(len(kernel) + 2), operation.index))
    make = transposed_window if operation.arguments["transposed"] else window
    for i, size in enumerate(kernel):
        stride, padding, dilation = (pick(operation.arguments[name], i) for name in ("stride", "padding", "dilation"))
        taps = make(size, stride, dilation, padding)
        layout = moved(layout, 2 + i, operation.shape[2 + i], **taps)
    return layout.with_axis(1, operation.shape[1])


def pick(values: Sequence[int], i: int) -> int:
    return values[i] if len(values) > 1 else values[0]


def pool(operation: Operation, look: Look) -> Layout:
    """Average or maximum over windows. Where there is one window, no map is left, as of a global pool."""
    layout = first(operation, look)
    start = len(layout.axes) - 2
    if not takes_whole_map(operation):
        kernel, stride, padding, dilation = pool_window(operation)
        for i in SIDES:
            taps = window(kernel[i], stride[i], dilation[i], padding[i])
            layout = moved(layout, start + i, operation.shape[start + i], **taps)
    if operation.shape[start:] != (1, 1):
        return layout
    return shrunk(layout.blurred([start, start + 1], operation.index), (start, start + 1))


def takes_whole_map(operation: Operation) -> bool:
    """Whether a pool has one window, and that covers the whole map: a global pool."""
    kernel, _, padding, dilation = pool_window(operation)
    sizes = operation.arguments["self"].shape[-2:]
    covered = all(k - p >= size for k, p, size in zip(kernel, padding, sizes, strict=True))
    return operation.shape[-2:] == (1, 1) and dilation == (1, 1) and covered


def pool_window(operation: Operation) -> tuple[tuple[int, int], ...]:
    """Kernel, stride, padding and dilation of a pool, each for height and width."""
    kernel = pair(operation.arguments["kernel_size"])
    stride = pair(argument(operation, "stride", ()) or kernel)
    return kernel, stride, pair(argument(operation, "padding", 0)), pair(argument(operation, "dilation", 1))


def adaptive_pool(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    for number in (len(layout.axes) - 2, len(layout.axes) - 1):
        inputs, outputs = size_of(layout.axes[number]), operation.shape[number]
        if outputs == 1:
            layout = shrunk(layout.blurred([number], operation.index), [number])
        else:
            layout = moved(layout, number, outputs, **adaptive_window(inputs, outputs))
    return layout


def upsampling(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    factors = argument(operation, "scale_factors", ())
    for i, number in enumerate(range(2, len(layout.axes))):
        inputs, outputs = size_of(layout.axes[number]), operation.shape[number]
        if operation.arguments.get("align_corners") and is_spatial(layout.axes[number]):
            if inputs == outputs:
                continue
            raise Unfollowed("with align_corners=True every position is at another distance from its neighbours")
        ratio = 1 / Fraction(pick(factors, i)).limit_denominator(1000) if factors else Fraction(inputs, outputs)
        name = operation.function
        taps = nearest(ratio) if "nearest" in name else interpolated(ratio, 2 if "bicubic" in name else 1)
        layout = moved(layout, number, outputs, **taps)
    return layout


def sliced(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    number = argument(operation, "dim", 0) % len(layout.axes)
    size, step = size_of(layout.axes[number]), argument(operation, "step", 1)
    start = argument(operation, "start", 0)
    start = max(0, start + size if start < 0 else min(start, size))
    if operation.shape[number] == size:
        return layout
    return moved(layout, number, operation.shape[number], taps=lambda o: [start + step * o], inputs=step)


def padded(operation: Operation, look: Look) -> Layout:
    """Padding, or cropping if negative. Reflected and repeated pixels count as image, like zeros."""
    layout = first(operation, look)
    amounts = argument(operation, "pad", None) or operation.arguments["padding"]
    for i, before in enumerate(amounts[::2]):
        number = len(layout.axes) - 1 - i
        if operation.shape[number] != size_of(layout.axes[number]) or before:
            layout = moved(layout, number, operation.shape[number], taps=lambda o, before=before: [o - before])
    return layout


def flipped(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    for number in dimensions(operation, len(layout.axes), "dims"):
        last = size_of(layout.axes[number]) - 1
        layout = moved(layout, number, last + 1, taps=lambda o, last=last: [last - o], inputs=-1)
    return layout


def rolled(operation: Operation, look: Look) -> Layout:
    """As it is away from the border; across it, the picture is wrapped around."""
    layout = first(operation, look)
    shifts = operation.arguments["shifts"]
    for shift, number in zip(shifts, dimensions(operation, len(layout.axes), "dims"), strict=True):
        layout = moved(layout, number, operation.shape[number], taps=lambda o, shift=shift: [o - shift])
    return layout


def unfolded(operation: Operation, look: Look) -> Layout:
    """Tensor.unfold: windows along an axis. Their inside becomes an axis that counts as seen whole."""
    layout = first(operation, look)
    number = operation.arguments["dimension"] % len(layout.axes)
    size, step = operation.arguments["size"], operation.arguments["step"]
    layout = moved(layout, number, operation.shape[number], **window(size, step))
    return replace(layout, axes=(*layout.axes, (Taps(size),)))


def columns(operation: Operation, look: Look) -> Layout:
    """F.unfold: (N, C * taps, positions); every row is counted as seeing its whole window."""
    layout = first(operation, look)
    names = ("kernel_size", "stride", "dilation", "padding")
    kernel, stride, dilation, padding = (pair(operation.arguments[name]) for name in names)
    axes = []
    for i in SIDES:
        strand = layout.axes[2 + i][0]
        if not isinstance(strand, Strand) or len(layout.axes[2 + i]) > 1:
            raise Unfollowed("F.unfold on something that is not a map")
        size = (strand.size + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        line = strand.line.through(**window(kernel[i], stride[i], dilation[i], padding[i]))
        axes.append(Strand(strand.side, size, line))
    channels = size_of(layout.axes[1])
    return replace(layout, axes=(layout.axes[0], (channels, Taps(prod(kernel))), tuple(axes)))


def shuffled(operation: Operation, look: Look) -> Layout:
    """Pixel shuffle: channels become pixels, `upscale_factor` of them in the place of one; and back."""
    layout = first(operation, look)
    inside: tuple[int, ...] = (operation.shape[-3],)
    if "upscale_factor" in operation.arguments:
        taps = nearest(Fraction(1, operation.arguments["upscale_factor"]))
    else:
        factor = operation.arguments["downscale_factor"]
        taps, inside = window(factor, factor), (operation.shape[-3] // factor**2, Taps(factor**2))
    for number in (len(layout.axes) - 2, len(layout.axes) - 1):
        layout = moved(layout, number, operation.shape[number], **taps)
    return layout.with_axis(len(layout.axes) - 3, *inside)
