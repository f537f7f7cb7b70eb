"""The receptive field read off the network itself: the pixels whose gradient at one output position is not zero.

It knows nothing of kernels and strides, and checks the layer algebra in receptive_field.py. What runs is a copy
in float64 whose parameters are all positive and whose activations, norms and maximum pools pass every gradient on,
so that nothing cancels and nothing is cut off. The image is a strip, long enough along the side that is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from utils.auditing.layouts import SIDES
from utils.auditing.lines import Line, Unfollowed
from utils.auditing.passing import Passing, Seen
from utils.auditing.paths import last_maps
from utils.auditing.receptive_field import layouts
from utils.errors import one_line
from utils.trace import Recorder, copied, operands

if TYPE_CHECKING:
    from utils.auditing.anatomy import Anatomy

# Sides of a strip, in pixels.
LONGEST = 1 << 16  # the longest, however large a field the algebra has found
BLIND = 1 << 11  # the longest that no such field asks for: of a network that sees all of any image, none is long enough
NARROW = 32  # the other side, where the network takes that
SQUARE = 512  # the other side at most: larger squares take too much memory


class NoFootprint(Exception):
    """The gradients cannot tell; the message says why."""


def footprint(model: nn.Module, shape: Sequence[int], guess: Sequence[Line] | None) -> tuple[int, int]:
    """Height and width of the field of the last maps of `model`, in pixels; the largest if there are several.

    Args:
        model: runs as a copy.
        shape: channels, height, width that the model takes.
        guess: for height and width the line that the algebra found, to know how long a strip to take and how many
            neighbouring positions to ask; None if it found none.

    Raises:
        NoFootprint: see there.
    """
    model = passing_copy(model)
    try:
        probe = dry_run(model, shape)
        return tuple(field_along(probe, side, guess) for side in SIDES)
    except NoFootprint:
        raise
    except Exception as error:  # whatever a network may raise
        raise NoFootprint(f"the network does not run as a copy in float64: {one_line(error)}") from error


@dataclass
class Target:
    """A result to measure: the number of the call that made it, and which of its axes are height and width."""

    call: int
    axes: tuple[int | None, int | None]
    shape: tuple[int, ...] = ()  # on an image of the network's own size


@dataclass
class Probe:
    """A copy of the network whose gradients are measured, and the results at which they are.

    Attributes:
        model: the copy that passes every gradient on.
        targets: the results whose field is asked for.
        cuts: for height and width, the calls through which gradients shall not go: averages along it, as in a gate.
        sizes, names: those of `Passing` on an image of the network's own size.
        shape: of that image, channels, height and width.
    """

    model: nn.Module
    targets: list[Target]
    cuts: tuple[set[int], set[int]]
    sizes: dict
    names: list[str]
    shape: tuple[int, ...]

    def field(self, shape: Sequence[int], side: int, period: int) -> int | None:
        """The field along one side of an image of this shape, in pixels; None if it touches the image's border.

        Args:
            period: how many neighbouring positions to ask; the largest field of them counts.
        """
        generator = torch.Generator().manual_seed(1)
        image = (0.5 + torch.rand(1, *shape, generator=generator, dtype=torch.float64)).requires_grad_()
        passing = Passing([t.call for t in self.targets], self.cuts[side], self.sizes)
        pixels = image * 1  # a network may write into its input
        with contextlib.suppress(Seen), passing:
            self.model(pixels)
        if self.names[: len(passing.names)] != passing.names:
            raise NoFootprint("the network takes another path on another image")
        fields = [0]
        for target in self.targets:
            result = passing.kept[target.call]
            axis = result.dim() - 2 + side if target.axes[side] is None else target.axes[side]
            if shape[1 + side] > self.shape[1 + side] and result.shape[axis] <= target.shape[axis]:
                raise NoFootprint("its map does not grow with the image: it crops it")
            if own := own_gradient(result):
                raise NoFootprint(f"{own} has a gradient of its own making")
            middle = result.shape[axis] // 2
            for position in range(middle, min(middle + period, result.shape[axis])):
                (gradient,) = torch.autograd.grad(result.select(axis, position).sum(), image, retain_graph=True)
                if not gradient.isfinite().all():
                    raise NoFootprint("the gradients are not finite")
                seen = gradient.abs().sum((0, 1, 3 - side)).nonzero().flatten().tolist()
                if seen and (seen[0] == 0 or seen[-1] == shape[1 + side] - 1):
                    return None
                fields.append(seen[-1] - seen[0] + 1 if seen else 0)
        return max(fields)


def own_gradient(result: torch.Tensor) -> str:
    """The name of a torch.autograd.Function that `result` is made with, such as a sign that is trained; "" if none."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return type(node).__name__.removesuffix("Backward")
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return ""


def dry_run(model: nn.Module, shape: Sequence[int]) -> Probe:
    """One pass on an image of the given shape, to see which calls to measure and which to cut."""
    image = torch.ones(1, *shape, dtype=torch.float64)
    recorder = Recorder(image)
    passing = Passing(recorder=recorder)
    with torch.no_grad(), passing, recorder:
        recorder.answer = model(image)
    recorder.outputs = operands(recorder.describe(recorder.answer))
    found = layouts(recorder.operations, image.shape)
    wanted = last_maps(recorder, found, passing.made)
    if not wanted:
        raise NoFootprint("no call of the network makes the map that is asked for")
    targets, cuts = [], (set(), set())
    for index in wanted:
        layout = found[index]
        axes = (None, None)
        if not isinstance(layout, Unfollowed):
            axes = tuple(layout[0].axis(side) for side in SIDES)
            for op, side in layout[0].mixed_by:
                if op in passing.within:
                    cuts[side].add(passing.within[op])
        targets.append(Target(passing.made[index], axes, recorder.operations[index].shape))
    return Probe(model, targets, cuts, passing.sizes, passing.names, tuple(shape))


def idle_convolutions(model: nn.Module, anatomy: Anatomy) -> set[int]:
    """The convolutions, as indices into the trace, whose results come into the answer and change nothing of it.

    As those of a branch that is multiplied by zero, or stacked and not selected: in copies that pass every gradient on,
    the answer has none there but zeros, with the network's own parameters and with positive ones. With either alone it
    may have none by chance: behind a gain that starts at zero, or an orthogonal weight that is rounded to zero. Not
    asked where the values of the image choose what counts.
    """
    ran = [o.index for o in anatomy.operations if o.function == "convolution"]
    if not ran or not all(results[0].is_floating_point() for results in anatomy.recorder.values):
        return set()
    idle = set(ran)
    try:
        for network in (passing_copy(model), in_float64(model)):
            gradients = convolution_gradients(network, anatomy.recorder.image_shape)
            idle -= {i for i, gradient in zip(ran, gradients, strict=True) if gradient is None or gradient.any()}
    except Exception:  # whatever a network may raise
        return set()
    return idle


def convolution_gradients(model: nn.Module, shape: Sequence[int]) -> Sequence[torch.Tensor | None]:
    """Those of the answer, its numbers weighted at random, at the result of each convolution; None: not in the answer.

    Args:
        shape: of the images, batch axis included.
    """
    generator, convolutions = torch.Generator().manual_seed(2), []
    image = torch.ones(shape, dtype=torch.float64, requires_grad=True) * 1
    with Passing(convolutions=convolutions):
        answer = model(image)
    parts = tree_leaves(vars(answer) if is_dataclass(answer) else answer)
    parts = [part for part in parts if isinstance(part, torch.Tensor) and part.requires_grad]
    asked = sum((part * torch.rand(part.shape, generator=generator)).sum() for part in parts)
    return torch.autograd.grad(asked, convolutions, allow_unused=True)


def passing_copy(model: nn.Module) -> nn.Module:
    """A float64 copy on the CPU with positive random parameters; a kernel's outputs are averages of its inputs."""
    generator = torch.Generator().manual_seed(0)
    memo = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            values = torch.empty(parameter.shape, dtype=torch.float64).uniform_(0.5, 1.5, generator=generator)
            memo[id(parameter)] = nn.Parameter(values.div_(max(1, parameter.shape[1:].numel())))
    model = in_float64(model, memo)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(buffer.nan_to_num().abs())
    return model


def in_float64(model: nn.Module, memo: dict | None = None) -> nn.Module:
    """A float64 copy on the CPU, in evaluation mode; `memo` as in `copied`."""
    return nn.Module.train(copied(model, memo).cpu().double(), False)  # its own `train` may be another thing


def field_along(probe: Probe, side: int, guess: Sequence[Line] | None) -> int:
    """The field along one side, on strips that grow until it does not touch their ends.

    Where a narrow strip shows nothing, the network looks into the padding beside it: wider ones follow.
    """
    other, length = probe.shape[2 - side], long_enough(probe.shape, side, guess)
    period = guess[side].period if guess else 4
    enough = max(other, min(long_enough(probe.shape, 1 - side, guess), SQUARE))
    field, failure = None, ""
    for width in dict.fromkeys((min(NARROW, other), other, enough)):
        try:
            field = on_strips(probe, side, length, width, period)
        except NoFootprint:
            raise
        except Exception as error:
            failure = f"the network does not take an image of {length} x {width}: {one_line(error)}"
        if field:
            return field
    if field is None:
        field = on_own_size(probe, side, period)
    if field is None:
        raise NoFootprint(failure or f"the field reaches beyond {max(length, BLIND)} pixels")
    return field


def on_own_size(probe: Probe, side: int, period: int) -> int | None:
    """The field on an image of the network's own size; None if it reaches the border, or the network fails."""
    try:
        return probe.field(probe.shape, side, period)
    except NoFootprint:
        raise
    except Exception:
        return None


def long_enough(shape: Sequence[int], side: int, guess: Sequence[Line] | None) -> int:
    """The length of a strip in whose middle the field will probably not touch the ends."""
    own = shape[1 + side]
    if guess is None:
        return 2 * own
    line = guess[side]
    step = max(1, abs(line.step))
    return own + step * max(0, -(-(line.field + 4 * step + 2 - own) // step))


def on_strips(probe: Probe, side: int, length: int, width: int, period: int) -> int | None:
    """The field on a strip of this length, or twice, four times, ... the length; None if no strip is long enough."""
    longest = min(max(length, BLIND), LONGEST)
    while length <= longest:
        strip = (length, width) if side == 0 else (width, length)
        field = probe.field((probe.shape[0], *strip), side, period)
        if field is not None:
            return field
        length *= 2
    return None
