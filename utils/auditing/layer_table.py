"""The layer table: every layer that ran, with its output size, receptive field and jump."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from utils.auditing.anatomy import PRODUCTS, Anatomy, takes_average
from utils.auditing.convolutions import name_of, times
from utils.auditing.layouts import SIDES, Layout
from utils.auditing.lines import pixels
from utils.tables import as_html, as_table
from utils.trace import Operation, operands


@dataclass(frozen=True)
class Layer:
    """One row of the layer table.

    Attributes:
        name: dotted name of the module; "forward" for a function called in the network's own `forward`.
        kind: "conv 3x3 stride 2", "depthwise 3x3", "pointwise 1x1", "max pool 2x2", "global average", "linear", ...
        output: shape without the batch axis.
        field: height and width in input pixels that one output position depends on, padding counted as image.
        jump: pixels between neighbouring positions; a fraction after upsampling. None where there is no map.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    field: tuple[int, int] | None
    jump: tuple[Fraction, Fraction] | None

    def to_dict(self) -> dict:
        jump = self.jump and [int(j) if j.denominator == 1 else float(j) for j in self.jump]
        field = self.field and list(self.field)
        return {"name": self.name, "kind": self.kind, "output": list(self.output), "field": field, "jump": jump}


class Layers(tuple):
    """The layer table that students hand in: prints as one."""

    def rows(self) -> list[tuple]:
        texts = [("layer", "kind", "output", "field", "jump")]
        for layer in self:
            field = "-" if layer.field is None else times(layer.field)
            jump = "-" if layer.jump is None else times([f"{float(j):g}" for j in layer.jump])
            texts.append((layer.name, layer.kind, "x".join(map(str, layer.output)), field, jump))
        return texts

    def __str__(self) -> str:
        return as_table(self.rows())

    def _repr_html_(self) -> str:
        return as_html(self.rows())


def layer_table(anatomy: Anatomy) -> Layers:
    """Every layer that the answer depends on, in the order in which they ran."""
    by_index = {c.operation.index: c for c in anatomy.convolutions}
    rows = []
    for operation in anatomy.live_operations:
        kind = by_index[operation.index].kind if operation.index in by_index else kind_of(anatomy, operation)
        if kind:
            layout = anatomy.layout(operation.index)
            field = layout and field_of(layout)
            jump = tuple(layout.line(s).jump for s in SIDES) if layout is not None and layout.is_map else None
            rows.append(Layer(name_of(operation), kind, operation.shape[1:], field, jump))
    return Layers(rows)


def kind_of(anatomy: Anatomy, operation: Operation) -> str | None:
    """The words for a layer that is no convolution; None if it is none that belongs into a table of layers."""
    name = operation.function
    if operation in anatomy.global_pools and takes_average(operation):
        return "global average"
    if operation in anatomy.max_pools:
        kernel = operation.arguments.get("kernel_size")
        return f"max pool {times(kernel)}" if kernel else "maximum over positions"
    if name in ("avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"):
        kernel = operation.arguments.get("kernel_size")
        return f"average pool {times(kernel)}" if kernel else "average pool, adaptive"
    if name == "mean" and operation in anatomy.gates:
        return "average over the map"
    if name.startswith(("upsample", "_upsample")):
        return "upsampling"
    if name == "pixel_shuffle":
        return "pixel shuffle"
    if name in PRODUCTS and any(o.source is None and len(o.shape) == 2 for o in operands(operation.arguments)):
        return "linear"
    return "convolution" if name == "convolution" else None


def field_of(layout: Layout) -> tuple[int, int] | None:
    """Height and width of what one position sees, or of what all see alike."""
    if layout.is_map:
        return tuple(layout.line(side).field for side in SIDES)
    if layout.strands or None in layout.spans:
        return None
    return tuple(pixels(span) for span in layout.spans)
