"""A convolution as it ran, and the words for it: depthwise, pointwise, grouped, dilated, strided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from utils.trace import Operation


@dataclass(frozen=True)
class Convolution:
    """A convolution as it ran: kernel, stride, dilation as (height, width), and its channels."""

    operation: Operation
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    inputs: int
    outputs: int
    transposed: bool

    @property
    def name(self) -> str:
        return name_of(self.operation)

    @property
    def is_depthwise(self) -> bool:
        return 1 < self.groups == self.inputs and max(self.kernel) > 1 and not self.transposed

    @property
    def is_pointwise(self) -> bool:
        return max(self.kernel) == 1 and self.groups == 1 and not self.transposed

    @property
    def is_dilated(self) -> bool:
        """Dilation spreads the taps of a kernel: where only one of them is on the map, it does nothing."""
        sizes = self.operation.arguments["input"].shape[-len(self.kernel) :]
        return any(k > 1 and 1 < d < n for k, d, n in zip(self.kernel, self.dilation, sizes, strict=True))

    @property
    def is_strided(self) -> bool:
        return max(self.stride) > 1 and not self.transposed

    @property
    def kind(self) -> str:
        word = "transposed" if self.transposed else "conv"
        if self.is_depthwise:
            word = "depthwise"
        elif self.groups > 1:
            word = f"grouped ({self.groups})"
        elif self.is_pointwise:
            word = "pointwise"
        words = [word, times(self.kernel)]
        words += [f"stride {short(self.stride)}"] if max(self.stride) > 1 else []
        words += [f"dilation {short(self.dilation)}"] if max(self.dilation) > 1 else []
        return " ".join(words)


def convolution_of(operation: Operation) -> Convolution:
    """What an operation called "convolution" is, with a kernel of any number of axes."""
    given = operation.arguments
    kernel = given["weight"].shape[2:]
    stride, dilation = (tuple(given[name]) * (len(kernel) // len(given[name])) for name in ("stride", "dilation"))
    channels = given["input"].shape[1], operation.shape[1]
    return Convolution(operation, kernel, stride, dilation, given["groups"], *channels, given["transposed"])


def name_of(operation: Operation) -> str:
    return operation.module or "forward"


def times(sizes: int | Sequence[int]) -> str:
    """(3, 5) as "3x5"."""
    sizes = (sizes,) if isinstance(sizes, int) else sizes
    return "x".join(map(str, sizes if len(sizes) > 1 else (*sizes, *sizes)))


def short(sizes: Sequence[int]) -> str:
    """(2, 2) as "2", (2, 1) as "2x1"."""
    return str(sizes[0]) if len(set(sizes)) == 1 else times(sizes)
