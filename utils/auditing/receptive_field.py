"""Layer algebra: the receptive field of every result in a trace, worked out from kernels, strides and dilations.

A result is a `Layout`: which of its axes run along the image's rows or columns, and what each position along them
sees. One rule per tensor operation says what comes out of what goes in; the arithmetic is in lines.py beside this
file, the rules that are not here in window_rules.py and shape_rules.py.

Source: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019,
doi:10.23915/distill.00021; here with upsampling, reshaped maps, and height and width apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from utils.auditing import shape_rules as shapes
from utils.auditing import window_rules as windows
from utils.auditing.layouts import (
    SIDES,
    Layout,
    Look,
    Strand,
    argument,
    dimensions,
    first,
    inputs_of,
    is_spatial,
    merged,
    plain,
    shrunk,
    size_of,
    union,
)
from utils.auditing.lines import IMAGE_LINE, Unfollowed
from utils.trace import IMAGE, Operand, Operation, operands


def layouts(operations: Sequence[Operation], image_shape: Sequence[int]) -> list[list[Layout] | Unfollowed]:
    """For every operation of a trace the layouts of its results, or why they could not be worked out.

    Args:
        image_shape: batch, channels, height, width.
    """
    image = image_layout(image_shape)
    known: list[list[Layout] | Unfollowed] = []

    def look_up(operand: Operand) -> Layout:
        if operand.source is None:
            return plain(operand.shape)
        found = [image] if operand.source == IMAGE else known[operand.source]
        if isinstance(found, Unfollowed):
            raise found
        return whole_of(found[operand.result], operand)

    for operation in operations:
        try:
            rule = find_rule(operation.function)
            result = rule(operation, look_up)
            results = result if isinstance(result, list) else [result] * len(operation.shapes)
            known.append([fitted(r, shape) for r, shape in zip(results, operation.shapes, strict=True)])
        except Unfollowed as reason:
            known.append(reason)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            known.append(Unfollowed(f"{operation.function} is used in a way that has no rule: {error!r}"))
    return known


def image_layout(shape: Sequence[int]) -> Layout:
    """Of the image itself: every position sees itself. `shape`: batch, channels, height, width."""
    height, width = (Strand(side, shape[2 + side], IMAGE_LINE) for side in SIDES)
    return Layout(((shape[0],), (shape[1],), (height,), (width,)))


def whole_of(layout: Layout, operand: Operand) -> Layout:
    """The layout of a tensor into a part of which, some channels perhaps, something was written.

    Raises:
        Unfollowed: the part is not as high or as wide as the whole.
    """
    sizes = tuple(map(size_of, layout.axes))
    if len(sizes) != len(operand.shape):
        raise Unfollowed("a part of a tensor is written in place")
    for number, (size, expected) in enumerate(zip(sizes, operand.shape, strict=True)):
        if size != expected:
            if is_spatial(layout.axes[number]):
                raise Unfollowed("a part of a map is written in place")
            layout = layout.with_axis(number, expected)
    return layout


# Of a second result of another shape, such as saved statistics: nothing may read it.
UNKNOWN = Layout((("unknown",),))


def fitted(layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout with its plain sizes as in `shape`; strands must fit."""
    if len(layout.axes) != len(shape):
        return plain(shape) if not layout.strands and layout.spans == (None, None) else UNKNOWN
    axes = []
    for axis, size in zip(layout.axes, shape, strict=True):
        if size_of(axis) != size and len(axis) == 1:
            axis = (replace(axis[0], size=size),) if isinstance(axis[0], Strand) else (size,)
        if size_of(axis) != size:
            return UNKNOWN
        axes.append(axis)
    return replace(layout, axes=tuple(axes))


def find_rule(function: str) -> Callable[[Operation, Look], Layout | list[Layout]]:
    """The rule for an ATen function.

    Raises:
        Unfollowed: there is none.
    """
    name = function if function in RULES else function.rstrip("_").removeprefix("_")
    if name in RULES:
        return RULES[name]
    for spelling in (function, function.rstrip("_")):
        packet = getattr(torch.ops.aten, spelling, None)
        if packet is not None and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads()):
            return pointwise
    raise Unfollowed(f"there is no rule for {function}")


def pointwise(operation: Operation, look: Look) -> Layout:
    """Position by position, with broadcasting."""
    return merged(inputs_of(operation, look), operation)


def reduction(operation: Operation, look: Look) -> Layout:
    """Mean, sum, maximum, ... over some axes."""
    layout = first(operation, look)
    rank = len(layout.axes)
    numbers = dimensions(operation, rank)
    if len(inputs_of(operation, look)) > 1:  # torch.max(a, b)
        return pointwise(operation, look)
    layout = layout.blurred(numbers, operation.index)
    kept = len(operation.shape) == rank
    return shrunk(layout, numbers) if kept else layout.without(numbers)


def mixing(operation: Operation, look: Look) -> Layout:
    """Softmax, sort, cumulative sum: every position along an axis may depend on all of them."""
    layout = first(operation, look)
    rank = len(layout.axes)
    if operation.function in ("sort", "topk"):  # a trace leaves out what equals its default
        return layout.blurred([argument(operation, "dim", -1) % rank], operation.index)
    return layout.blurred(dimensions(operation, rank), operation.index)


def statistics(layout: Layout, numbers: Sequence[int], by: int) -> Layout:
    """Normalised by the mean over some axes: a position sees what it saw, and all the others through the mean."""
    return layout.also_seeing(layout.blurred(numbers, by))


def batch_norm(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    training = operation.arguments.get("training", operation.arguments.get("train", False))
    if "no_training" in operation.function or not training:
        return layout
    others = [i for i in range(len(layout.axes)) if i != 1]
    return statistics(layout, others, operation.index)


def group_norm(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    return statistics(layout, range(1, len(layout.axes)), operation.index)


def layer_norm(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    rank = len(layout.axes)
    return statistics(layout, range(rank - len(operation.arguments["normalized_shape"]), rank), operation.index)


def product(operation: Operation, look: Look) -> Layout:
    """Matrix products: rows of the left with columns of the right, mixed along the axis that both lose."""
    *added, left, right = (look(operand) for operand in operands(operation.arguments))
    left = left.blurred([len(left.axes) - 1], operation.index)
    right = right.blurred([len(right.axes) - 2], operation.index)
    if left.strands and right.strands:  # as in attention: every row sees what all columns see
        right = right.blurred([len(right.axes) - 1], operation.index)
    batch = [union(a, b) for a, b in zip(left.axes[:-2], right.axes[:-2], strict=True)]
    axes = (*batch, left.axes[-2], right.axes[-1])
    return merged([replace(left.also_seeing(right), axes=axes), *added], operation)


def attention(operation: Operation, look: Look) -> Layout:
    """Fused softmax(query key^T) value, axes (batch, heads, positions, channels): a query sees all positions."""
    query, *others = inputs_of(operation, look)[:3]
    rows = query.blurred([3], operation.index)
    for other in others:
        rows = rows.also_seeing(other.blurred([2, 3], operation.index))
    return rows.with_axis(3, operation.shape[3])


def halved(operation: Operation, look: Look) -> Layout:
    """Gated linear unit: one half of an axis times a function of the other half."""
    layout = first(operation, look)
    number = argument(operation, "dim", -1) % len(layout.axes)
    if is_spatial(layout.axes[number]):
        raise Unfollowed("it halves height or width")
    return layout.with_axis(number, operation.shape[number])


RULES_BY_USE = {
    windows.convolution: "convolution",
    windows.pool: "avg_pool2d max_pool2d max_pool2d_with_indices",
    windows.adaptive_pool: "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d",
    windows.upsampling: "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d",
    windows.padded: "constant_pad_nd reflection_pad2d replication_pad2d",
    windows.sliced: "slice",
    windows.flipped: "flip",
    windows.rolled: "roll",
    windows.unfolded: "unfold",
    windows.columns: "im2col",
    windows.shuffled: "pixel_shuffle pixel_unshuffle",
    shapes.reshaped: "view _unsafe_view reshape _reshape_alias",
    shapes.repeated: "repeat",
    shapes.chosen: "index index_select",
    shapes.same: "clone detach alias contiguous _to_copy native_dropout lift_fresh channel_shuffle "
    "native_channel_shuffle",
    shapes.restrided: "as_strided",
    shapes.constant: "empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones "
    "new_full",
    shapes.permuted: "permute transpose t",
    shapes.unsqueezed: "unsqueeze",
    shapes.squeezed: "squeeze",
    shapes.selected: "select",
    shapes.split: "split split_with_sizes unbind",
    shapes.stacked: "cat stack",
    pointwise: "dropout alpha_dropout bernoulli _prelu_kernel hardswish log_sigmoid_forward rrelu_with_noise "
    "floor_divide fill copy expand",
    halved: "glu",
    reduction: "mean sum amax amin max min prod var std var_mean linalg_vector_norm norm logsumexp argmax argmin any "
    "all",
    mixing: "_softmax _log_softmax cumsum cummax cummin sort topk",
    batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm",
    group_norm: "native_group_norm",
    layer_norm: "native_layer_norm",
    product: "mm bmm addmm baddbmm",
    attention: "_scaled_dot_product_flash_attention_for_cpu",
}
RULES = {function: rule for rule, functions in RULES_BY_USE.items() for function in functions.split()}
