"""One row of an audit, and what the assignment demands in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

MAX_PARAMETERS = 200_000  # fewer than
MIN_RECEPTIVE_FIELD = 44  # more than, in pixels
MIN_ACCURACY = 85.0  # percent

DEMANDS = {
    "forward": "answers with finite numbers",
    "structure": "C1 C2 C3 C4 O, reduced by convolutions",
    "max_pooling": "none",
    "bonus": "dilation in place of strides and pools",
    "rf": f"more than {MIN_RECEPTIVE_FIELD}",
    "depthwise": "at least one separable",
    "dilated": "at least one",
    "gap": "global average pooling",
    "params": f"fewer than {MAX_PARAMETERS:,}",
    "augment": "flip, shift-scale-rotate, one 16x16 hole",
    "data": "the 10,000 test images of CIFAR-10",
    "accuracy": f"at least {MIN_ACCURACY:g} %",
}


@dataclass(frozen=True)
class Requirement:
    """What is demanded, what was measured, and whether that passes.

    Attributes:
        passed: None if it cannot be judged; `measured` says why.
        where: the layers, parameters or transforms that show it, in order, each once.
    """

    id: str
    demanded: str
    measured: str
    passed: bool | None
    where: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        return asdict(self) | {"where": list(self.where)}


def row(id: str, measured: str, passed: bool | None, where: Iterable[str] = ()) -> Requirement:
    return Requirement(id, DEMANDS[id], measured, passed, tuple(dict.fromkeys(where)))


def unjudged(id: str, reason: str) -> Requirement:
    return row(id, f"cannot be judged: {reason}", None)


def shortened(names: Sequence[str], most: int = 4) -> str:
    """Names in one line, the first few if there are many.

    >>> shortened(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
