"""Which operations of a trace lead to the network's answer, and which of them are its last maps."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from utils.auditing.lines import Unfollowed
from utils.trace import IMAGE, Operation, Recorder


def made_of(operations: Sequence[Operation], results: Iterable[int | None], ends: Container[int] = ()) -> set[int]:
    """The operations that these results depend on, the results' own included.

    Args:
        results: indices into the trace; `IMAGE` and None are passed over.
        ends: operations that are left out, with what only they depend on.
    """
    found: set[int] = set()
    waiting = list(results)
    while waiting:
        index = waiting.pop()
        if index is not None and index != IMAGE and index not in found and index not in ends:
            found.add(index)
            waiting += operations[index].inputs
    return found


def last_maps(recorder: Recorder, found: Sequence, allowed: Container[int] | None = None) -> list[int]:
    """The operations that are met first, going back from the answer along every way, whose result is a map.

    Args:
        found: what `layouts` returned; a result that the algebra could not follow counts as a map if it has four axes,
            the last two longer than 1.
        allowed: only these operations may be returned; None: all.
    """
    targets: set[int] = set()
    seen: set[int] = set()
    waiting = [operand.source for operand in recorder.outputs]
    while waiting:
        index = waiting.pop()
        if index is None or index == IMAGE or index in seen:
            continue
        seen.add(index)
        operation, layout = recorder.operations[index], found[index]
        if isinstance(layout, Unfollowed):
            is_map = len(operation.shape) == 4 and min(operation.shape[2:]) > 1
        else:
            is_map = layout[0].is_map
        if is_map and (allowed is None or index in allowed):
            targets.add(index)
        else:
            waiting += operation.inputs
    return sorted(targets)
