"""What the values of a tensor depend on, axis by axis, and how that is changed. For the rules of the layer algebra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from utils.auditing.lines import Line, Unfollowed, join
from utils.trace import Operand, Operation, operands

SIDES = (0, 1)  # height, width


@dataclass(frozen=True)
class Strand:
    """An axis that runs along the image's height (side 0) or width (1): its number of positions, and their line."""

    side: int
    size: int
    line: Line

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last pixel that any of its positions depends on."""
        return self.line.span(self.size)


class Taps(int):
    """The size of an axis that runs along the inside of windows, as Tensor.unfold makes it."""


Axis = tuple  # of strands and plain sizes, outermost first: several after a reshape has merged axes


@dataclass(frozen=True)
class Layout:
    """What the values of a tensor depend on.

    Attributes:
        axes: of the tensor.
        spans: for height and width, the pixels that every position sees alike, as after global pooling; or None.
        mixed_by: what made positions along a side see them alike: indices into the trace, each with the side.
    """

    axes: tuple[Axis, ...]
    spans: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)
    mixed_by: frozenset[tuple[int, int]] = frozenset()

    @property
    def strands(self) -> list[Strand]:
        return [part for axis in self.axes for part in axis if isinstance(part, Strand)]

    @property
    def is_map(self) -> bool:
        """Whether one axis is the height and another the width."""
        alone = [axis[0].side for axis in self.axes if len(axis) == 1 and isinstance(axis[0], Strand)]
        return sorted(alone) == [0, 1] and len(self.strands) == 2

    def axis(self, side: int) -> int:
        """The number of the axis that is the height (0) or the width (1) of a map."""
        return next(i for i, axis in enumerate(self.axes) if side in (getattr(part, "side", None) for part in axis))

    def strand(self, side: int) -> Strand:
        return next(strand for strand in self.strands if strand.side == side)

    def line(self, side: int) -> Line:
        return self.strand(side).line

    def with_axis(self, number: int, *parts: int | Strand) -> Layout:
        return replace(self, axes=(*self.axes[:number], parts, *self.axes[number + 1 :]))

    def blurred(self, numbers: Sequence[int], by: int) -> Layout:
        """The layout after operation `by` has mixed all positions along these axes: each now sees what any one saw."""
        spans, axes, mixed_by = list(self.spans), list(self.axes), self.mixed_by
        for number in numbers:
            for part in self.axes[number]:
                if isinstance(part, Strand):
                    spans[part.side] = both(spans[part.side], part.span)
                    mixed_by |= {(by, part.side)}
            axes[number] = (size_of(self.axes[number]),)
        return Layout(tuple(axes), tuple(spans), mixed_by)

    def also_seeing(self, other: Layout) -> Layout:
        """The layout where every position sees, besides, what all positions of `other` see alike."""
        spans = tuple(both(a, b) for a, b in zip(self.spans, other.spans, strict=True))
        return replace(self, spans=spans, mixed_by=self.mixed_by | other.mixed_by)

    def without(self, numbers: Sequence[int]) -> Layout:
        return replace(self, axes=tuple(axis for i, axis in enumerate(self.axes) if i not in numbers))


def size_of(axis: Axis) -> int:
    return prod(part.size if isinstance(part, Strand) else part for part in axis)


def is_spatial(axis: Axis) -> bool:
    """Whether it runs along the image's height or width, alone or merged with other axes."""
    return any(isinstance(part, Strand) for part in axis)


def both(a: tuple | None, b: tuple | None) -> tuple | None:
    """The span that covers two; None covers nothing."""
    return join(span for span in (a, b) if span is not None) if a or b else None


def plain(shape: Sequence[int]) -> Layout:
    """The layout of a tensor that does not depend on the image."""
    return Layout(tuple((size,) for size in shape))


def merged(layouts: Sequence[Layout], operation: Operation) -> Layout:
    """The layout of a result whose every position takes from the same position of each input."""
    shape = operation.shape
    result = plain(shape)
    for layout in layouts:
        offset = len(shape) - len(layout.axes)
        spread = [i for i, axis in enumerate(layout.axes) if size_of(axis) == 1 != shape[offset + i]]
        layout = layout.blurred(spread, operation.index)
        result = result.also_seeing(layout)
        for number, axis in enumerate(layout.axes, offset):
            if size_of(axis) == shape[number]:
                result = result.with_axis(number, *union(result.axes[number], axis))
    return result


def union(a: Axis, b: Axis) -> Axis:
    """The axis of a result that takes from `a` and from `b` at the same position."""
    if not is_spatial(a):
        return b
    if not is_spatial(b):
        return a
    if [(p.side, p.size) if isinstance(p, Strand) else p for p in a] != [
        (p.side, p.size) if isinstance(p, Strand) else p for p in b
    ]:
        raise Unfollowed("it joins maps whose axes are ordered differently")
    parts = zip(a, b, strict=True)
    return tuple(replace(p, line=p.line | q.line) if isinstance(p, Strand) else p for p, q in parts)


def moved(layout: Layout, number: int, size: int, **taps) -> Layout:
    """`layout` with a new line along one axis: `taps` are the arguments of `Line.through`."""
    axis = layout.axes[number]
    if not is_spatial(axis):
        return layout.with_axis(number, size)
    if len(axis) > 1:
        raise Unfollowed("a window runs over an axis into which height and width are merged")
    return layout.with_axis(number, Strand(axis[0].side, size, axis[0].line.through(**taps)))


Look = Callable[[Operand], Layout]  # finds the layout of an argument


def inputs_of(operation: Operation, look: Look) -> list[Layout]:
    """The layouts of all tensors among the arguments that depend on the image."""
    return [look(operand) for operand in operands(operation.arguments) if operand.source is not None]


def first(operation: Operation, look: Look) -> Layout:
    """The layout of the first argument: the tensor that the operation is about."""
    return look(next(iter(operation.arguments.values())))


def argument(operation: Operation, name: str, default):
    """What an operation was given under this name, or the default if nothing."""
    value = operation.arguments.get(name)
    return default if value is None else value


def pair(value) -> tuple[int, ...]:
    """Numbers for height and width, of which the same one may be given once: (2, 2) of 2 or (2,)."""
    return (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)


def dimensions(operation: Operation, rank: int, name: str = "dim") -> list[int]:
    """The axes an operation is told to work on; all if it is told none."""
    value = operation.arguments.get(name)
    if value is None or value == ():
        return list(range(rank))
    return [d % rank for d in ((value,) if isinstance(value, int) else value)]


def shrunk(layout: Layout, numbers: Sequence[int]) -> Layout:
    """The layout with a single position along each of these axes."""
    for number in numbers:
        layout = layout.with_axis(number, 1)
    return layout
