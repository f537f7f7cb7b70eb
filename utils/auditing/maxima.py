"""Max-pooling in whatever way it is written: as a pool, as a maximum over windows or slices, or in arithmetic."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from utils.auditing.layouts import Strand, Taps, is_spatial
from utils.auditing.paths import made_of
from utils.trace import Operation, operands

if TYPE_CHECKING:
    from utils.auditing.anatomy import Anatomy

POOLS = (
    "max_pool2d",
    "max_pool2d_with_indices",
    "adaptive_max_pool2d",
    "fractional_max_pool2d",
    "max_pool3d_with_indices",
    "adaptive_max_pool3d",
)
PAIRS = ("maximum", "minimum", "fmax", "fmin", "max", "min")  # of two maps
EXTREMES = ("cummax", "cummin", "amax", "amin", "max", "min", "aminmax", "argmax", "argmin", "topk", "sort", "kthvalue")
LAST = ("topk", "sort", "kthvalue")  # of these, the last axis is the one they take if nothing is said


def takes_maximum(anatomy: Anatomy, operation: Operation) -> bool:
    """Whether an operation is made to take the largest, or the smallest, of several positions of a map."""
    if operation.function in POOLS:
        return True
    inputs = [o for o in operands(operation.arguments) if o.source is not None]
    known = [layout for layout in map(anatomy.input_layout, inputs) if layout is not None]
    if operation.function in PAIRS and len(inputs) == 2:
        return at_several_places(anatomy, operation)
    order = operation.arguments.get("ord", 0)
    if not known or operation.function not in EXTREMES and not (isinstance(order, float) and isinf(order)):
        return False
    dim = operation.arguments.get("dim", -1 if operation.function in LAST else None)
    rank = len(known[0].axes)
    numbers = range(rank) if dim in (None, ()) else [d % rank for d in ((dim,) if isinstance(dim, int) else dim)]
    if operation.index in anatomy.after_last_maps:
        return any(is_spatial(known[0].axes[n]) for n in numbers)
    return any(isinstance(part, (Strand, Taps)) for n in numbers for part in known[0].axes[n])


def may_take_maximum(anatomy: Anatomy, operation: Operation) -> bool:
    """Whether it takes a maximum of something that the layer algebra could not follow."""
    inputs = [o for o in operands(operation.arguments) if o.source is not None]
    return operation.function in (*PAIRS, *EXTREMES) and None in map(anatomy.input_layout, inputs)


def at_several_places(anatomy: Anatomy, operation: Operation) -> bool:
    """Whether it takes several maps, or slices of one, that stand at different places of the image."""
    known = map(anatomy.input_layout, operands(operation.arguments))
    places = [[(s.side, s.line.middles) for s in layout.strands] for layout in known if layout and layout.strands]
    return any(place != places[0] for place in places)


def worked_out(anatomy: Anatomy, operation: Operation) -> Operation | None:
    """The later operation whose values are the largest (or smallest) of the maps that this operation takes, if any.

    As in a + relu(b - a), or where(a > b, a, b): what counts is the values, not how they are computed. The maps must be
    of one shape and stand at different places of the image, and each must be the largest somewhere. Positions at which
    one of them is 0 are not counted: maps that are put together from pieces have zeros there.
    """
    if not anatomy.recorder.values or not at_several_places(anatomy, operation):
        return None
    values = [anatomy.recorder.value(o) for o in operands(operation.arguments) if o.source is not None]
    if any(v is None or v.shape != values[0].shape or not v.is_floating_point() for v in values):
        return None
    pieces = torch.stack(values)
    counted = (pieces != 0).all(0)
    if len(pieces.argmax(0)[counted].unique()) < len(pieces):
        return None
    extremes = pieces.amax(0), pieces.amin(0)
    for later in anatomy.operations[operation.index :]:
        result = anatomy.recorder.values[later.index][0]
        if (
            later.index in anatomy.live
            and result.shape == pieces.shape[1:]
            and result.is_floating_point()
            and any(nearly_equal(result, extreme) for extreme in extremes)
            and operation.index in made_of(anatomy.operations, [later.index])
        ):
            return later
    return None


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Whether all values are equal but for rounding, however small: those of a deep network without training are."""
    a, b = a.float(), b.float()
    largest = b.nan_to_num(posinf=0, neginf=0).abs().max().item() if b.numel() else 0
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * largest)
