"""What lets every gradient through: activations, norms and maximum pools replaced while a network runs.

For the footprint of gradients: a ReLU at zero, a saturated sigmoid or the losing positions of a maximum pool would hide
pixels that do matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from utils.trace import IMAGE, Recorder

# Position by position, whatever they compute: each is replaced by something of a slope and values near 1, which neither
# saturates nor grows. Norms too: in the copy they only rescale. Detached or not, a value depends on what made it.
POINTWISE = """
relu relu6 hardtanh hardswish hardsigmoid sigmoid logsigmoid tanh silu gelu elu selu celu leaky_relu prelu rrelu
threshold softplus softsign softshrink hardshrink tanhshrink mish clamp clip clamp_min clamp_max exp log sqrt rsqrt
square abs sin cos erf sign round floor ceil nan_to_num dropout dropout1d dropout2d alpha_dropout feature_dropout
feature_alpha_dropout batch_norm layer_norm group_norm instance_norm rms_norm detach
"""
ACTIVATIONS = frozenset(POINTWISE.split())
# What puts values in order, or picks one by its rank, along one dimension; and the place of `dim` among its arguments.
RANKED = {"sort": 1, "median": 1, "nanmedian": 1, "topk": 2, "kthvalue": 2}
SIZED = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate"}  # told a size that follows the image's


class Seen(Exception):
    """Everything that was to be kept has been computed: the rest of the forward pass is not needed."""


class Passing(TorchFunctionMode):
    """While it is entered, activations, norms and maximum pools pass on every gradient that reaches them.

    Attributes:
        names: of the calls that returned tensors, in order. A call's number is its place among them.
        kept: by call in `keep`, its result.
        sizes: by call in `SIZED`, the sizes of its output and its input on the first run; later ones keep their ratio.
        within: by operation in the recorder, the call during which it ran.
        made: by operation in the recorder, the call that returned its result.

    Args:
        keep: calls whose results are wanted; once all are there, `Seen` is raised.
        cut: calls whose results are taken for constants.
        sizes: those of the first run; None: this is the first.
        recorder: entered too, it sees the operations of which the calls are made.
        convolutions: a list to which the results of all convolutions are added.
    """

    def __init__(
        self,
        keep: Sequence[int] = (),
        cut: set[int] = frozenset(),
        sizes: dict | None = None,
        recorder: Recorder | None = None,
        convolutions: list[Tensor] | None = None,
    ):
        super().__init__()
        self.keep, self.cut = set(keep), cut
        self.obey, self.sizes = sizes is not None, sizes or {}
        self.recorder, self.convolutions = recorder, convolutions
        self.names: list[str] = []
        self.kept: dict[int, Tensor] = {}
        self.within: dict[int, int] = {}
        self.made: dict[int, int] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in ("__get__", "__set__", "size", "dim") or name.startswith("_set_"):
            return function(*args, **kwargs)
        number = len(self.names)
        first = len(self.recorder.operations) if self.recorder is not None else 0
        with torch.set_grad_enabled(self.recorder is None):  # also where the network itself switches gradients off
            result = self.replaced(number, name.rstrip("_"), function, args, kwargs)
            if number in self.cut:
                result = tree_map(lambda r: r.detach() if isinstance(r, Tensor) else r, result)
        if self.convolutions is not None and name.startswith("conv") and result.requires_grad:
            self.convolutions.append(result)
        results = result if isinstance(result, (tuple, list)) else [result]
        if any(isinstance(r, Tensor) for r in results):
            self.names.append(name)
            if self.recorder is not None:
                self.note_operations(number, first, results)
            if number in self.keep:
                self.kept[number] = results[0]
                if len(self.kept) == len(self.keep):
                    raise Seen
        return result

    def note_operations(self, number: int, first: int, results: Sequence) -> None:
        """Notes that the operations from the `first` on ran during a call, and which of them made its results."""
        self.within |= dict.fromkeys(range(first, len(self.recorder.operations)), number)
        for tensor in results:
            source, _ = self.recorder.sources.get(id(tensor), (None, 0))
            if source is not None and source != IMAGE:
                self.made[source] = number

    def replaced(self, number: int, name: str, function, args: tuple, kwargs: dict) -> Any:
        """The result of the call, or of what stands for it here."""
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        if not (args and isinstance(args[0], Tensor) and args[0].is_floating_point()):
            return function(*args, **kwargs)  # whole numbers have no gradient to pass on
        if name in ACTIVATIONS:
            return activated(args[0], number)
        if name in SIZED:
            args, kwargs = self.resized(number, name, args, kwargs)
        if name in ("max_pool2d", "max_pool2d_with_indices"):
            return max_pool(function, *args, **kwargs)
        if name == "adaptive_max_pool2d":
            return F.adaptive_avg_pool2d(args[0], args[1] if len(args) > 1 else kwargs["output_size"])
        if name in ("maximum", "minimum", "max", "min") and len(args) > 1 and isinstance(args[1], Tensor):
            return (args[0] + args[1]) / 2
        if name in ("amax", "amin"):
            return torch.mean(*args, **kwargs)
        if name in ("max", "min"):
            result = function(*args, **kwargs)
            if isinstance(result, Tensor):
                return passed(args[0].mean(), result)
            return type(result)((passed(torch.mean(*args, **kwargs), result[0]), result[1]))
        if name in RANKED:
            result = function(*args, **kwargs)
            return result if isinstance(result, Tensor) else ranked(result, RANKED[name], args, kwargs)
        return function(*args, **kwargs)

    def resized(self, number: int, name: str, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments with the output size in the same proportion to the input as on the first run.

        What is spread from one position, as after a global average, has no proportion: its size is the one asked for.
        """
        key = "size" if name == "interpolate" else "output_size"
        size = args[1] if len(args) > 1 else kwargs.get(key)
        if size is None:
            return args, kwargs
        size = (size, size) if isinstance(size, int) else tuple(size)
        now = args[0].shape[-2:]
        size = tuple(n if s is None else s for s, n in zip(size, now, strict=True))
        if not self.obey:
            self.sizes[number] = tuple(zip(size, now, strict=True))
        elif number in self.sizes:
            before = zip(size, self.sizes[number], now, strict=True)
            size = tuple(1 if s == 1 else asked if o == 1 else n * s // o for asked, (s, o), n in before)
        return args[:1] + args[2:], kwargs | {key: size}


def passed(slope: Tensor, value: Tensor) -> Tensor:
    """`value` with the gradient of `slope`."""
    return slope - slope.detach() + value.detach()


def activated(x: Tensor, number: int) -> Tensor:
    """What stands for an activation: random values in 0.5..1.5, and of each call another slope, in 0.75..1.25.

    So nothing cancels, as a would in a + relu(b - a), and where values are compared no position always wins.
    """
    generator = torch.Generator().manual_seed(number)
    slope = 0.75 + torch.rand((), generator=generator).item() / 2
    return passed(x * slope, 0.5 + torch.rand(x.shape, generator=generator, dtype=x.dtype))


def ranked(result: Sequence[Tensor], place: int, args: tuple, kwargs: dict) -> Sequence[Tensor]:
    """Values and indices of sort, topk and their like. The gradient is that of the mean: any could have been chosen."""
    dim = kwargs.get("dim", args[place] if len(args) > place else -1)
    mean = args[0].mean(dim, keepdim=True)
    if result[0].dim() < mean.dim():
        mean = mean.squeeze(dim)
    return type(result)((passed(mean.expand_as(result[0]), result[0]), result[1]))


def max_pool(function, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum, with the gradient of the sum: every position of a window could have been the largest."""
    result = function(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    value = result[0] if isinstance(result, tuple) else result
    kernel, step, pad, dil = (
        (n, n) if isinstance(n, int) else tuple(n) for n in (kernel_size, stride or kernel_size, padding, dilation)
    )
    if value.shape[-2:] == (1, 1):  # no map is left of it, and a convolution would leave one
        slope = x.mean((-2, -1), keepdim=True)
    else:
        extra = [s if ceil_mode else 0 for s in step]
        padded = F.pad(x, (pad[1], pad[1] + extra[1], pad[0], pad[0] + extra[0]))
        ones = torch.ones(x.shape[-3], 1, *kernel, dtype=x.dtype)
        sums = F.conv2d(padded, ones, stride=step, dilation=dil, groups=x.shape[-3])
        slope = sums[..., : value.shape[-2], : value.shape[-1]]
    value = passed(slope, value)
    return (value, result[1]) if isinstance(result, tuple) else value
