"""The receptive field found in two independent ways, which must agree; and the row of the audit that says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from utils.auditing.anatomy import Anatomy
from utils.auditing.convolutions import name_of, times
from utils.auditing.footprint import NoFootprint, footprint
from utils.auditing.lines import Unfollowed
from utils.auditing.requirement import MIN_RECEPTIVE_FIELD, Requirement, row, shortened, unjudged


@dataclass(frozen=True)
class Field:
    """Height and width in pixels, before the global average and with it, and how they were found; None if unknown."""

    before: tuple[int, int] | None
    with_average: tuple[int, int] | None
    method: str


def find_field(network: nn.Module, shape: Sequence[int], anatomy: Anatomy) -> Field:
    """By layer algebra on the trace, and by the footprint of gradients in a copy of the network."""
    algebra = average = guess = measured = None
    why_no_algebra = why_no_footprint = ""
    try:
        algebra, average, guess = anatomy.field(), anatomy.field_with_average(), anatomy.widest_lines()
    except Unfollowed as reason:
        why_no_algebra = str(reason)
    try:
        measured = footprint(network, shape, guess)
    except NoFootprint as reason:
        why_no_footprint = str(reason)
    if algebra is None and measured is None:
        method = f"unknown: {why_no_algebra}; and {why_no_footprint}"
    elif measured is None:
        method = f"layer algebra alone: {why_no_footprint}"
    elif algebra is None:
        method = f"gradient footprint alone: the layer algebra stops where {why_no_algebra}"
    elif algebra == measured:
        method = "layer algebra and gradient footprint agree"
    else:
        method = f"gradient footprint {times(measured)}, which is trusted because the network itself was run; "
        method += f"the layer algebra says {times(algebra)}"
    if anatomy.recorder.reads_image_values:
        method += "; its path depends on the values of the image: judged for one image"
    return Field(algebra if measured is None else measured, average, method)


def field_row(field: Field, anatomy: Anatomy) -> Requirement:
    if field.before is None:
        return unjudged("rf", field.method)
    measured = f"{times(field.before)} before the global average"
    if field.with_average is not None:
        measured += f", {times(field.with_average)} with it"
    if anatomy.gates:
        gates = list(dict.fromkeys(map(name_of, anatomy.gates)))
        measured += f"; besides, all of the image through averages inside ({shortened(gates, 1)})"
    where = [name_of(anatomy.operations[index]) for index in anatomy.last_maps]
    return row("rf", measured, min(field.before) > MIN_RECEPTIVE_FIELD, where)
