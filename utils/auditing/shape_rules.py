"""The rules of the layer algebra for what only moves values about: views, permutations, joining, splitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate

from utils.auditing.layouts import (
    Axis,
    Layout,
    Look,
    Strand,
    Taps,
    argument,
    dimensions,
    first,
    inputs_of,
    is_spatial,
    merged,
    moved,
    plain,
    size_of,
)
from utils.auditing.lines import Unfollowed, nearest, window
from utils.trace import Operation


def reshaped(operation: Operation, look: Look) -> Layout:
    """The same values in the same order, in axes of other sizes."""
    layout = first(operation, look)
    parts = [part for axis in layout.axes for part in axis if part != 1]
    axes: list[Axis] = []
    gone: list[Strand] = []  # strands of one position whose axis is gone
    for size in operation.shape:
        while parts and is_single(parts[0]) and size != 1:
            gone.append(parts.pop(0))
        axis = [parts.pop(0)] if parts and is_single(parts[0]) else []
        while size > 1:
            if is_single(parts[0]):
                gone.append(parts.pop(0))
                continue
            taken, *rest = divided(parts.pop(0), size)
            parts[:0] = rest
            size //= size_of((taken,))
            axis.append(taken)
        axes.append(whole(axis))
    gone += parts
    lost = Layout(tuple((part,) for part in gone)).blurred(range(len(gone)), operation.index)
    return replace(layout, axes=tuple(axes)).also_seeing(lost)


def divided(part: int | Strand, size: int) -> list[int | Strand]:
    """`part` if an axis of this size can hold it, else what of it goes there, and the rest.

    Height and width are divided into blocks of neighbours, whose inside becomes an axis that counts as seen whole.
    """
    length = size_of((part,))
    if size % length == 0:
        return [part]
    if length % size:
        raise Unfollowed("it reshapes across height or width")
    inside = length // size
    if not isinstance(part, Strand):
        return [size, inside]
    return [Strand(part.side, size, part.line.through(**window(inside, inside))), Taps(inside)]


def whole(parts: list[int | Strand]) -> Axis:
    """One axis of these parts. Height and then channels, as in depth to space, is a finer height."""
    if len(parts) == 2 and isinstance(parts[0], Strand) and not isinstance(parts[1], Strand):
        if isinstance(parts[1], Taps):
            raise Unfollowed("it takes the map apart and puts it together again")
        strand, fold = parts
        return (Strand(strand.side, strand.size * fold, strand.line.through(**nearest(Fraction(1, fold)))),)
    return tuple(parts) or (1,)


def is_single(part: int | Strand) -> bool:
    return isinstance(part, Strand) and part.size == 1


def same(operation: Operation, look: Look) -> Layout:
    return first(operation, look)


def restrided(operation: Operation, look: Look) -> Layout:
    """Another order in memory; what ATen does to a pooled map in channels-last order."""
    layout = first(operation, look)
    if layout.strands or tuple(map(size_of, layout.axes)) != operation.shape:
        raise Unfollowed("as_strided reads memory in an order of its own")
    return layout


def constant(operation: Operation, look: Look) -> Layout:
    """Made in the shape of a tensor, without its values."""
    return plain(operation.shape)


def permuted(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    rank = len(layout.axes)
    if operation.function == "permute":
        order = [d % rank for d in operation.arguments["dims"]]
    else:
        order = list(range(rank))
        a, b = (0, 1) if operation.function == "t" else (operation.arguments[n] % rank for n in ("dim0", "dim1"))
        if rank > 1:
            order[a], order[b] = b, a
    return replace(layout, axes=tuple(layout.axes[i] for i in order))


def unsqueezed(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    number = operation.arguments["dim"] % (len(layout.axes) + 1)
    return replace(layout, axes=(*layout.axes[:number], (1,), *layout.axes[number:]))


def squeezed(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    ones = [i for i in dimensions(operation, len(layout.axes)) if size_of(layout.axes[i]) == 1]
    return layout.blurred(ones, operation.index).without(ones)


def repeated(operation: Operation, look: Look) -> Layout:
    layout = first(operation, look)
    axes = [(1,)] * (len(operation.shape) - len(layout.axes)) + list(layout.axes)
    for number, times in enumerate(operation.arguments["repeats"]):
        if times > 1 and is_spatial(axes[number]):
            raise Unfollowed("it repeats a map side by side")
        axes[number] = axes[number] if times == 1 else (operation.shape[number],)
    return replace(layout, axes=tuple(axes))


def chosen(operation: Operation, look: Look) -> Layout:
    """Channels in another order, as in x[:, order]; `order` may not depend on the image."""
    layout = first(operation, look)
    if operation.function == "index_select":
        number = operation.arguments["dim"] % len(layout.axes)
    else:
        (number,) = (i for i, index in enumerate(operation.arguments["indices"]) if index is not None)
    if len(inputs_of(operation, look)) > 1 or len(operation.shape) != len(layout.axes):
        raise Unfollowed(f"there is no rule for {operation.function} by what the image says")
    if is_spatial(layout.axes[number]):
        raise Unfollowed(f"there is no rule for {operation.function} along height or width")
    return layout.with_axis(number, operation.shape[number])


def selected(operation: Operation, look: Look) -> Layout:
    """One position of an axis, which is gone."""
    layout = first(operation, look)
    number = operation.arguments["dim"] % len(layout.axes)
    return at_position(layout, number, operation.arguments["index"] % size_of(layout.axes[number]), operation)


def at_position(layout: Layout, number: int, position: int, operation: Operation) -> Layout:
    """What lies at one position along an axis, without that axis."""
    one = moved(layout, number, 1, taps=lambda o: [position + o])
    return one.blurred([number], operation.index).without([number])


def split(operation: Operation, look: Look) -> list[Layout]:
    layout = first(operation, look)
    number = argument(operation, "dim", 0) % len(layout.axes)
    if operation.function == "unbind":
        return [at_position(layout, number, position, operation) for position in range(len(operation.shapes))]
    sizes = [shape[number] for shape in operation.shapes]
    starts = accumulate(sizes, initial=0)
    return [moved(layout, number, n, taps=lambda o, at=at: [at + o]) for n, at in zip(sizes, starts, strict=False)]


def stacked(operation: Operation, look: Look) -> Layout:
    """cat and stack: along an axis with pixels, the pieces must continue each other."""
    layouts = [look(tensor) for tensor in operation.arguments["tensors"]]
    number = argument(operation, "dim", 0) % len(operation.shape)
    joined: Axis = (operation.shape[number],)
    if operation.function == "stack":
        if any(layout.strands != layouts[0].strands for layout in layouts):  # different pixels at the same position
            joined = (Taps(len(layouts)),)
        layouts = [replace(x, axes=(*x.axes[:number], (1,), *x.axes[number:])) for x in layouts]
    pieces = [layout.axes[number] for layout in layouts]
    if {tuple(getattr(part, "side", None) for part in piece) for piece in pieces} == {(0,), (1,)}:
        layouts = [layout.blurred([number], operation.index) for layout in layouts]  # rows, then columns: no map's axis
    elif any(map(is_spatial, pieces)):
        joined = continued(pieces, operation.shape[number])
    beside = [layout.with_axis(number, operation.shape[number]) for layout in layouts]
    return merged(beside, operation).with_axis(number, *joined)


def continued(pieces: Sequence[Axis], size: int) -> Axis:
    """The one strand that these are pieces of, in order."""
    start = 0
    for piece in pieces:
        if len(piece) != 1 or not isinstance(piece[0], Strand):
            raise Unfollowed("it joins pieces of a map with something else")
        if piece[0].line != pieces[0][0].line.through(lambda o, start=start: [start + o]):
            raise Unfollowed("it joins pieces of a map in another order")
        start += piece[0].size
    return (replace(pieces[0][0], size=size),)
