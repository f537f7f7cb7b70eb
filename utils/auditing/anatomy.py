"""What a network is made of, read from a trace: convolutions, pools, averages, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

from utils.auditing.convolutions import Convolution, convolution_of
from utils.auditing.layouts import SIDES, Layout
from utils.auditing.lines import Line, Unfollowed, join, pixels
from utils.auditing.maxima import POOLS, takes_maximum, worked_out
from utils.auditing.paths import last_maps, made_of
from utils.auditing.receptive_field import image_layout, layouts
from utils.auditing.window_rules import pool_window, takes_whole_map
from utils.trace import IMAGE, Operand, Operation, Recorder, operands

AVERAGES = ("mean", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear")
PADDINGS = ("constant_pad_nd", "reflection_pad2d", "replication_pad2d")


class Anatomy:
    """A trace with everything about it that the audit asks.

    Attributes:
        operations: the trace.
        layouts: for every operation those of its results, or why the algebra could not follow.
        live: the operations that the network's answer depends on, as indices into the trace.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self.operations = recorder.operations
        self.layouts = layouts(self.operations, recorder.image_shape)
        self.image = image_layout(recorder.image_shape)
        self.live = made_of(self.operations, [operand.source for operand in recorder.outputs])
        self.consumers: dict[int, list[int]] = {}
        for operation in self.operations:
            for source in operation.inputs:
                self.consumers.setdefault(source, []).append(operation.index)

    def leave_out(self, idle: set[int]) -> None:
        """Takes operations whose results change nothing of the answer from `live`; before anything else is asked."""
        self.live -= idle

    @property
    def live_operations(self) -> list[Operation]:
        """Those of `live`, in the order in which they ran."""
        return [operation for operation in self.operations if operation.index in self.live]

    def layout(self, index: int) -> Layout | None:
        found = self.layouts[index]
        return None if isinstance(found, Unfollowed) else found[0]

    def input_layout(self, operand: Operand) -> Layout | None:
        if operand.source is None:
            return None
        if operand.source == IMAGE:
            return self.image
        found = self.layouts[operand.source]
        return None if isinstance(found, Unfollowed) else found[operand.result]

    @cached_property
    def convolutions(self) -> list[Convolution]:
        """Those with a two-dimensional kernel that the answer depends on, in the order in which they ran."""
        ran = [o for o in self.live_operations if o.function == "convolution"]
        return [c for c in map(convolution_of, ran) if len(c.kernel) == 2]

    @cached_property
    def body(self) -> list[Convolution]:
        """The convolutions that work on a map, not on what a global pooling has left of it."""
        return [c for c in self.convolutions if works_on_map(self.layout(c.operation.index), c.operation)]

    @cached_property
    def last_maps(self) -> list[int]:
        """The last maps on the ways to the answer: what the global average, or whatever is there, takes."""
        return last_maps(self.recorder, self.layouts)

    @cached_property
    def global_pools(self) -> list[Operation]:
        """The operations after the last maps whose result has lost height or width, as a global average's has."""
        result = []
        for index in sorted(self.after_last_maps):
            operation = self.operations[index]
            inputs = [self.input_layout(o) for o in operands(operation.arguments)]
            before = {s.side for layout in inputs if layout for s in layout.strands}
            after = self.layout(index)
            lost = before - {s.side for s in after.strands} if after is not None else leaves_no_map(operation)
            if lost:
                result.append(operation)
        return result

    @cached_property
    def max_pools(self) -> list[Operation]:
        """The operations that take the largest of several positions of a map, in whatever way."""
        live = self.live_operations
        found = {o.index for o in live if takes_maximum(self, o)}
        found |= {largest.index for o in live if o.index not in found and (largest := worked_out(self, o))}
        return [self.operations[index] for index in sorted(found)]

    @cached_property
    def after_last_maps(self) -> set[int]:
        """The live operations on which no last map depends: they come after those, or on a way past them."""
        return self.live - made_of(self.operations, self.last_maps)

    @cached_property
    def average_pools(self) -> list[Operation]:
        """Average pools that leave a map."""
        return [o for o in self.live_operations if self.averages_windows(o)]

    def averages_windows(self, operation: Operation) -> bool:
        before, after = self.input_layout(first_operand(operation)), self.layout(operation.index)
        if operation.function not in AVERAGES:
            return False
        if before is None or after is None:  # the algebra could not follow: what is called a pool is one
            return "pool" in operation.function and max(operation.shape[2:]) > 1
        return before.is_map and after.is_map and any(before.line(side) != after.line(side) for side in SIDES)

    @cached_property
    def stages(self) -> list[int]:
        """For every operation, how many reducing convolutions lie before it, itself included."""
        return self.stages_of([c for c in self.body if self.reduces(c)])

    def stages_of(self, convolutions: Sequence[Convolution]) -> list[int]:
        """For every operation, how many of these convolutions lie before it, itself included."""
        reducing = {c.operation.index for c in convolutions}
        result: list[int] = []
        for operation in self.operations:
            before = max((result[i] for i in operation.inputs if i != IMAGE), default=0)
            result.append(before + (operation.index in reducing))
        return result

    def reduces(self, convolution: Convolution) -> bool:
        """Whether it makes the map smaller by its stride, or by its dilation without padding."""
        after = convolution.operation.shape[2:]
        smaller = any(a < b for a, b in zip(after, self.size_before(convolution), strict=True))
        return smaller and (convolution.is_strided or convolution.is_dilated)

    def size_before(self, convolution: Convolution) -> tuple[int, ...]:
        """Height and width of the map that it works on, without padding that is an operation of its own."""
        operand = convolution.operation.arguments["input"]
        padded = operand.shape[-2:]
        while operand.source not in (None, IMAGE) and (before := self.before_padding(self.operations[operand.source])):
            operand = before
        return tuple(map(min, operand.shape[-2:], padded))

    def before_padding(self, operation: Operation) -> Operand | None:
        """What the operation has padded; None if it does not pad.

        F.pad(mode="circular") copies a map into a new tensor, then slices of that, one after another, to its borders.
        """
        if operation.function in PADDINGS:
            return first_operand(operation)
        origins = [self.operations[i].inputs for i in operation.inputs if i != IMAGE]
        if operation.function != "copy_" or len(origins) != 2 or origins[0] != origins[1] or IMAGE in origins[0]:
            return None
        earlier = self.operations[origins[0][0]]
        if earlier.function == "copy_" and earlier.arguments["self"].source is None:
            return earlier.arguments["src"]
        return self.before_padding(earlier)

    @cached_property
    def otherwise_reducing(self) -> list[Operation]:
        """What sets positions further apart and is no convolution: pools, slices, ...; shortcuts are left out."""
        convolutions = {c.operation.index for c in self.convolutions}
        others = [o for o in self.live_operations if o.index not in convolutions]
        return [o for o in others if self.jump_changes(o) > 0 and not self.is_shortcut(o)]

    def is_shortcut(self, operation: Operation) -> bool:
        """Whether an operation that reduces a map is a shortcut around a reducing convolution, whose map it joins next.

        As in a residual block whose input is subsampled, without a convolution, to fit what is added to it ("option A"
        of K. He et al., arXiv 1512.03385, for CIFAR-10), or averaged, with a 1x1 convolution after it (ResNet-D of
        T. He et al., arXiv 1812.01187).
        """
        convolutions = {c.operation.index for c in self.convolutions if c.is_strided or not c.is_pointwise}
        waiting, seen, joined = [operation.index], set(), False
        while waiting:
            for index in self.live.intersection(self.consumers.get(waiting.pop(), [])) - seen:
                seen.add(index)
                if index in convolutions:
                    return False
                if self.stages[index] > self.stages[operation.index]:
                    joined = True
                else:
                    waiting.append(index)
        return joined

    def jump_changes(self, operation: Operation) -> int:
        """1 if positions lie further apart after it than before, -1 if closer, else 0."""
        after = self.layout(operation.index)
        if after is None:
            return change_of_shape(operation)
        if not has_both_sides(after):
            return 0
        for operand in operands(operation.arguments):
            before = self.input_layout(operand)
            if before is not None and has_both_sides(before):
                for side in SIDES:
                    a, b = after.line(side).jump, before.line(side).jump
                    if a != b and after.strand(side).size > 1:
                        return 1 if a > b else -1
        return 0

    def pointwise_after(self, convolution: Convolution) -> bool:
        """Whether a 1x1 convolution, or a linear layer over the channels, that mixes comes next."""
        of = {c.operation.index: c for c in self.convolutions}
        waiting, seen = [convolution.operation.index], set()
        while waiting:
            for index in self.consumers.get(waiting.pop(), []):
                if index in seen or index not in self.live:
                    continue
                seen.add(index)
                operation, layout = self.operations[index], self.layout(index)
                if index in of:
                    if of[index].is_pointwise and works_on_map(layout, operation):
                        return True
                elif operation.function in PRODUCTS:
                    if layout is not None and has_both_sides(layout):
                        return True
                elif operation.function not in (*POOLS, *AVERAGES) and (layout is None or layout.strands):
                    waiting.append(index)
        return False

    @cached_property
    def gates(self) -> list[Operation]:
        """The operations through which a position of the last maps sees all of the image."""
        layouts = [layout for i in self.last_maps if (layout := self.layout(i))]
        gates = {index for layout in layouts for index, _ in layout.mixed_by}
        return [self.operations[i] for i in sorted(gates)]

    def field(self) -> tuple[int, int]:
        """Height and width of the field of the last maps; of several, the largest. Gates do not count.

        Raises:
            Unfollowed: the algebra could not follow the network, or there is no map; the message says why.
        """
        maps = self.last_layouts()
        return tuple(max(layout.line(side).field for layout in maps) for side in SIDES)

    def why_unfollowed(self) -> str:
        """Why the algebra could not follow the first operation that it could not, of those the answer depends on."""
        results = (self.layouts[index] for index in sorted(self.live))
        return next((str(result) for result in results if isinstance(result, Unfollowed)), "")

    def last_layouts(self) -> list[Layout]:
        """The layouts of the last maps; raises `Unfollowed` as `field` does."""
        for index in self.last_maps:
            if isinstance(self.layouts[index], Unfollowed):
                raise self.layouts[index]
        maps = [self.layout(index) for index in self.last_maps]
        if not maps or not all(layout.is_map for layout in maps):
            raise Unfollowed("there is no map of positions: it looks at the image as a whole at once")
        return maps

    def widest_lines(self) -> list[Line]:
        """For height and width the line of the last map that sees most."""
        maps = self.last_layouts()
        return [max((layout.line(side) for layout in maps), key=lambda line: line.field) for side in SIDES]

    def field_with_average(self) -> tuple[int, int]:
        """Height and width of the field of the average over the last maps, of those positions that it takes."""
        maps = list(zip(self.last_maps, self.last_layouts(), strict=True))
        spans = [[layout.line(s).span(self.positions_taken(i, layout, s)) for i, layout in maps] for s in SIDES]
        return tuple(pixels(join(span)) for span in spans)

    def positions_taken(self, index: int, layout: Layout, side: int) -> int:
        """How many positions of a last map, along a side, are pooled: an average pool may leave out the last ones."""
        size, pools = layout.strand(side).size, [o for o in self.global_pools if index in o.inputs]
        if not pools or any(o.function != "avg_pool2d" for o in pools):
            return size
        return min(size, max(kernel[side] - padding[side] for kernel, _, padding, _ in map(pool_window, pools)))


def takes_average(operation: Operation) -> bool:
    """Whether it is a mean, and of all positions: an average pool may leave some out."""
    return operation.function in AVERAGES and (operation.function != "avg_pool2d" or takes_whole_map(operation))


def leaves_no_map(operation: Operation) -> bool:
    """By shapes alone, where the algebra could not follow: a map becomes one number a channel, or all in a row."""
    before, after = first_operand(operation).shape, operation.shape
    if len(before) != 4 or max(before[2:]) == 1 or len(after) < 2 or before[0] != after[0]:
        return False
    return after[1:] == (prod(before[1:]),) or (after[1] == before[1] and prod(after[2:]) == 1)


def change_of_shape(operation: Operation) -> int:
    """`jump_changes` by shapes alone, where the algebra could not follow: of what resizes a map, and only of that."""
    before, after, name = first_operand(operation).shape, operation.shape, operation.function
    resizes = name.lstrip("_").startswith(("upsample", "pixel_", "index")) or operation.arguments.get("step", 1) > 1
    if not (resizes or operation.arguments.get("transposed")) or len(before) != 4 or len(after) != 4:
        return 0
    ratios = [a / b for a, b in zip(after[2:], before[2:], strict=True)]
    return 1 if min(ratios) < 0.75 else -1 if max(ratios) > 1.5 else 0


def works_on_map(layout: Layout | None, operation: Operation) -> bool:
    return layout.is_map if layout is not None else max(operation.shape[2:]) > 1


def has_both_sides(layout: Layout) -> bool:
    """Whether height and width are there, each in an axis of its own, as in a map, or both in one."""
    return {strand.side for strand in layout.strands} == set(SIDES)


def first_operand(operation: Operation) -> Operand:
    return operands(operation.arguments)[0]
