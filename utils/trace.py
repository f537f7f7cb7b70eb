"""What a network really computes: every tensor operation of one forward pass, and which result went where.

The network runs once, so that any `forward` will do: functions, branches, loops, modules called twice. What the
audit says of a network, and the drawings of it, are read from here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

IMAGE = -1  # stands for the network's input where an operation's input is named


@dataclass(frozen=True)
class Operand:
    """A tensor that an operation took: its shape, and the operation that made it.

    `source` is an index into the trace, `IMAGE`, or None: a parameter, a buffer, or made of those alone.
    """

    shape: tuple[int, ...]
    source: int | None


@dataclass(frozen=True)
class Operation:
    """One operation as it ran: an ATen function such as "convolution", "native_batch_norm", "relu_", "mean".

    Only operations on what came from the image are noted.
    """

    index: int
    function: str
    module: str  # dotted name of the innermost module whose `forward` called it, "" for the network itself
    arguments: dict[str, Any]  # by ATen's names (weight, stride, padding, ...); each tensor an `Operand`
    inputs: tuple[int, ...]  # the operations, or `IMAGE`, whose results it took
    shape: tuple[int, ...]  # of its first result, batch axis included


def trace(model: nn.Module, input_shape: Sequence[int] = (3, 32, 32)) -> list[Operation]:
    """The operations of `model` on one image, in evaluation mode, in the order in which they ran.

    A copy runs: the model's weights, buffers, mode, hooks and the random state stay as they are. Whatever the model
    raises is passed on.

    Args:
        model: takes float32 (1, *input_shape), on any device, and returns a tensor.
        input_shape: channels, height, width.
    """
    model = copy.deepcopy(model).cpu().eval()
    image = torch.ones(1, *input_shape)
    recorder = Recorder(image)
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: recorder.modules.append(name))
        module.register_forward_hook(lambda module, inputs, output: recorder.modules.pop() and None)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), recorder:
        model(image)
    return recorder.operations


class Recorder(TorchDispatchMode):
    """While it is entered, notes every operation on tensors that came from `image`."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.operations: list[Operation] = []
        self.modules: list[str] = []  # those whose `forward` is running, outermost first
        self.sources = {id(image): IMAGE}
        self.alive = [image]  # an id is only good as long as its tensor lives

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        arguments = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
        operands = {
            name: self.describe(value) for name, value in arguments.items()
        }  # before it runs: it may be in place
        result = function(*args, **kwargs)
        inputs = tuple(source for value in operands.values() for source in sources(value))
        results = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(r, Tensor)]
        if inputs and results:
            index = len(self.operations)
            module = self.modules[-1] if self.modules else ""
            name = function._schema.name.removeprefix("aten::")
            shape = tuple(results[0].shape)
            self.operations.append(Operation(index, name, module, operands, inputs, shape))
            for tensor in results:
                self.sources[id(tensor)] = index
            self.alive += results
        return result

    def describe(self, value: Any) -> Any:
        """`value` with every tensor in it replaced by an `Operand`."""
        if isinstance(value, Tensor):
            return Operand(tuple(value.shape), self.sources.get(id(value)))
        if isinstance(value, (tuple, list)):
            return tuple(self.describe(v) for v in value)
        return value


def sources(value: Any) -> list[int]:
    """The operations that made the operands in an argument, those that came from the image."""
    if isinstance(value, Operand):
        return [] if value.source is None else [value.source]
    return [source for v in value for source in sources(v)] if isinstance(value, tuple) else []
