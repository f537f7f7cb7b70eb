"""Which operations of a trace lead to the network's answer, and which of them are its last maps."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from utils.auditing.lines import Unfollowed
from utils.trace import IMAGE, Operation, Recorder


def made_of(operations: Sequence[Operation], results: Iterable[int | None], ends: Container[int] = ()) -> set[int]:
    """The operations that lead to some results, those of the results included; IMAGE and None are none.

    Args:
        ends: operations that are not gone past, nor found.
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
    """Going back from the answer along every way: the first operations whose result has height and width.

    Args:
        found: of `layouts`; where the algebra could not follow, four axes, the last two above 1, are taken for a map.
        allowed: the operations that may be answered, if not all.
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
