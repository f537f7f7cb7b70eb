"""Which pixels of the image each position along one axis of a map depends on, as an exact formula.

The arithmetic under receptive_field.py. One axis at a time: rows and columns do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, inf, lcm

NOTHING = (inf, -inf)  # the span of a position that depends on no pixel, as between those of a transposed convolution


class Unfollowed(Exception):
    """The algebra has no rule for an operation; the message says which."""


@dataclass(frozen=True)
class Line:
    """The first and the last pixel for every position of an axis that goes on forever, in both directions.

    Position i + period sees what position i sees, `step` pixels on. A period of more than one position comes from
    upsampling: with a transposed convolution of stride 2, even and odd positions see different windows.

    Attributes:
        step: pixels in a period.
        low, high: of the positions 0, 1, ... of a period; padding counts as image, so low may be negative.
    """

    step: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def period(self) -> int:
        return len(self.low)

    @property
    def field(self) -> int:
        """Pixels from first to last, of the position that sees most."""
        return max(pixels(span) for span in zip(self.low, self.high, strict=True))

    @property
    def jump(self) -> Fraction:
        """Pixels between neighbouring positions."""
        return Fraction(abs(self.step), self.period)

    @property
    def middles(self) -> tuple[int, list[float]]:
        """Where positions stand: the pixels in a period, and twice the middle of what each of its positions sees."""
        return self.step, [low + high for low, high in zip(self.low, self.high, strict=True)]

    def at(self, position: int) -> tuple[float, float]:
        """The first and the last pixel that `position` depends on."""
        block, phase = divmod(position, self.period)
        return self.low[phase] + block * self.step, self.high[phase] + block * self.step

    def span(self, size: int) -> tuple[float, float]:
        """The first and the last pixel that any of the positions 0 .. size - 1 depends on."""
        return join(self.at(i) for i in range(size))

    def through(self, taps: Callable[[int], Iterable[int]], outputs: int = 1, inputs: int = 1) -> Line:
        """The line of a layer's output, this being the line of its input.

        Args:
            taps: the input positions that an output position reads.
            outputs, inputs: the output position o + outputs reads what o reads, `inputs` positions on.

        >>> IMAGE_LINE.through(lambda o: [2 * o - 1, 2 * o, 2 * o + 1], 1, 2)  # 3x3, stride 2, padding 1
        Line(step=2, low=(-1,), high=(1,))
        """
        repeats = self.period // gcd(self.period, inputs)
        spans = [join(self.at(i) for i in taps(o)) for o in range(outputs * repeats)]
        return shortest(self.step * inputs * repeats // self.period, spans)

    def __or__(self, other: Line) -> Line:
        """Two maps added or stacked: a position depends on what it depended on in either."""
        period = lcm(self.period, other.period)
        step = self.step * (period // self.period)
        if step != other.step * (period // other.period):
            raise Unfollowed(f"it joins maps of different scales, {self.jump} and {other.jump} pixels a position")
        return shortest(step, [join([self.at(i), other.at(i)]) for i in range(period)])


IMAGE_LINE = Line(1, (0,), (0,))


def join(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The smallest span that covers all of them."""
    lows, highs = zip(NOTHING, *spans, strict=True)
    return min(lows), max(highs)


def pixels(span: tuple[float, float]) -> int:
    """How many pixels a span covers."""
    return 0 if span == NOTHING else int(span[1] - span[0] + 1)


def shortest(step: int, spans: list[tuple[float, float]]) -> Line:
    """The line with the shortest period whose positions 0, 1, ... have these spans."""
    total = len(spans)
    for period in range(1, total + 1):
        if total % period or step * period % total:
            continue
        line = Line(step * period // total, *(tuple(ends) for ends in zip(*spans[:period], strict=True)))
        if all(line.at(i) == span for i, span in enumerate(spans)):
            return line
    raise AssertionError("the whole list is a period of itself")


def window(kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> dict:
    """The arguments of `Line.through` for a convolution or a pool."""
    return {"taps": lambda o: [o * stride - padding + dilation * t for t in range(kernel)], "inputs": stride}


def transposed_window(kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> dict:
    """The arguments of `Line.through` for a transposed convolution.

    Output o reads input i where o = stride * i - padding + dilation * tap.
    """

    def taps(o: int) -> list[int]:
        places = [o + padding - dilation * t for t in range(kernel)]
        return [place // stride for place in places if place % stride == 0]

    return {"taps": taps, "outputs": stride}


def adaptive_window(inputs: int, outputs: int) -> dict:
    """The arguments of `Line.through` for adaptive pooling of `inputs` positions into `outputs`."""
    common = gcd(inputs, outputs)
    taps = {"taps": lambda o: range(o * inputs // outputs, -(-(o + 1) * inputs // outputs))}
    return taps | {"outputs": outputs // common, "inputs": inputs // common}


def nearest(ratio: Fraction) -> dict:
    """The arguments of `Line.through` for an upsampling that copies; `ratio`: input positions per output position."""
    taps = {"taps": lambda o: [int(o * ratio // 1)]}
    return taps | {"outputs": ratio.denominator, "inputs": ratio.numerator}


def interpolated(ratio: Fraction, reach: int) -> dict:
    """The arguments of `Line.through` for an upsampling that interpolates.

    It does so between `reach` neighbours on each side: 1 linear, 2 cubic. `ratio`: input positions per output position.
    Pixel centres are aligned (align_corners=False). A position that falls onto an input position reads that alone.
    """

    def taps(o: int) -> Iterable[int]:
        place = (o + Fraction(1, 2)) * ratio - Fraction(1, 2)
        below = place.numerator // place.denominator
        return [below] if place == below else range(below - reach + 1, below + reach + 1)

    return {"taps": taps, "outputs": ratio.denominator, "inputs": ratio.numerator}
