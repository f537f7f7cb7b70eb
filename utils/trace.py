"""What a network really computes: every tensor operation of one forward pass, and which result went where.

The network runs once, so that any `forward` will do: functions, branches, loops, modules called twice. What the
audit says of a network, and the drawings of it, are read from here.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, is_dataclass
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Functions that take a tensor for its shape alone: their results do not depend on its values.
MAKERS = (
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full"),
)
IMAGE = -1  # stands for the network's input where an operation's input is named


@dataclass(frozen=True)
class Operand:
    """A tensor that an operation took: its shape, and the operation that made it.

    `source` is an index into the trace, `IMAGE`, or None: a parameter, a buffer, or made of those alone. Where that
    operation has several results, `result` says which of them.
    """

    shape: tuple[int, ...]
    source: int | None
    result: int = 0


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
    shapes: tuple[tuple[int, ...], ...]  # of its results, batch axis included

    @property
    def shape(self) -> tuple[int, ...]:
        """That of its first result, for most operations the only one."""
        return self.shapes[0]


def trace(model: nn.Module, input_shape: Sequence[int]) -> Recorder:
    """What `model` does with one image, in evaluation mode: its operations in the order in which they ran.

    A copy runs: the model's weights, buffers, mode, hooks and the random state stay as they are. Whatever the model
    raises is passed on.

    Args:
        model: takes float32 (1, *input_shape), on any device, and returns a tensor.
        input_shape: channels, height, width.
    """
    with random_states_kept(), uncompiled(), torch.no_grad():
        return record(copied(model).cpu().eval(), torch.ones(1, *input_shape))


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Within the block gradients are on; after it the random states of torch, numpy and Python are what they were."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (a network may draw from it)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def uncompiled() -> AbstractContextManager:
    """Within the block, networks that `torch.compile` has taken run as they were written: it would compile us too."""
    compiles = "torch._dynamo" in sys.modules  # which takes seconds to import
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


def has_lazy(model: nn.Module) -> bool:
    """Whether it has layers that take their sizes from the first image, and have seen none."""
    return any(nn.parameter.is_lazy(p) for p in [*model.parameters(), *model.buffers()])


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of `model`; `memo` maps ids of its parameters to what the copy is to have instead.

    Three things deepcopy cannot do: it refuses weights that a hook computes from others (weight norm), which are no
    leaves of autograd, and buffers of lazy modules that have not seen an image; and it does not copy functions, see
    `rebound`.
    """
    memo = dict(memo or {})
    for buffer in model.buffers():
        if nn.parameter.is_lazy(buffer):
            memo[id(buffer)] = nn.parameter.UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)
    own, later = set(map(id, model.modules())), []
    for module in model.modules():
        for value in tree_leaves(vars(module)):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            else:
                rebound(value, own, memo, later)
    result = copy.deepcopy(model, memo)
    for put, held in later:
        put(copy.deepcopy(held, memo))
    return result


def rebound(value: Any, own: set[int], memo: dict[int, Any], later: list[tuple[Callable, Any]]) -> bool:
    """Whether `value` is one of the model's `own` modules, or a function that uses some: self.f = lambda: self.a().

    deepcopy does not copy functions, so that the copy's `f` would still run the model's own `a`. For such a function
    `memo` gets a new one, and `later` pairs (put, held): `put(copy)` makes the new function use the copy of `held`.

    Args:
        own: the ids of the model's modules.
    """
    if isinstance(value, MethodType):
        if rebound(value.__func__, own, memo, later) and id(value) not in memo:
            function, owner = memo[id(value.__func__)], []
            later.append((owner.append, value.__self__))
            memo[id(value)] = lambda *args, **kwargs: function(owner[0], *args, **kwargs)
        return id(value) in memo or id(value.__self__) in own
    if not isinstance(value, FunctionType):
        return id(value) in own
    if id(value) in memo:
        return memo[id(value)] is not value
    memo[id(value)] = value  # it may know itself
    space, cells = dict(value.__globals__), list(value.__closure__ or ())
    puts = [(partial(space.__setitem__, name), space[name]) for name in value.__code__.co_names if name in space]
    puts = [(put, held) for put, held in puts if rebound(held, own, memo, later)]
    for place, cell in enumerate(cells):
        with suppress(ValueError):  # an empty cell
            if rebound(cell.cell_contents, own, memo, later):
                cells[place] = CellType()
                puts.append((partial(setattr, cells[place], "cell_contents"), cell.cell_contents))
    if puts:
        memo[id(value)] = FunctionType(value.__code__, space, value.__name__, value.__defaults__, tuple(cells))
        memo[id(value)].__kwdefaults__ = value.__kwdefaults__
        later += puts
    return bool(puts)


@contextmanager
def forward_hooks(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Within the block, `hook(module, inputs, output)` is called after every forward pass of one of the modules."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(model: nn.Module, image: Tensor, keep_values: bool = False) -> Recorder:
    """Runs `model` itself, not a copy, on `image`, and returns the recorder. The hooks for it are taken off again."""
    recorder = Recorder(image, keep_values)
    names: dict[nn.Module, list[str]] = {}  # several of one that is used in several places
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    handles = []
    for module in names:
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no such hooks
        enter = module.register_forward_pre_hook(lambda module, _: recorder.enter(names[module]))
        leave = module.register_forward_hook(lambda *_: recorder.leave(), always_call=True)
        handles += [enter, leave]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which makes one operation of an attention in evaluation mode
    try:
        with recorder:
            recorder.answer = model(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
    recorder.outputs = operands(recorder.describe(recorder.answer))
    return recorder


class Recorder(TorchDispatchMode):
    """While it is entered, notes every operation on tensors that came from `image`.

    Attributes:
        operations: the trace.
        image_shape: of the image, batch axis included.
        answer, outputs: what the model returned, and the operands of the tensors in it.
        values: if `keep_values`, copies of the results of each operation.
        parameters: by id, those that operations took, also those that are not among `model.parameters()`.
        fixed: by their memory, the tensors by which convolutions and matrix products multiply and that depend on no
            parameter and not on the image: buffers and constants.
        reads_image_values: whether `forward` read a number that depends on the image, as in `if x.mean() > 0`: another
            image may take another path.
        reads_values: whether it read any number of a tensor, of its weights for example.
    """

    def __init__(self, image: Tensor, keep_values: bool = False):
        super().__init__()
        self.image = image
        self.keep_values = keep_values
        self.values: list[list[Tensor]] = []
        self.operations: list[Operation] = []
        self.outputs: list[Operand] = []
        self.reads_image_values = self.reads_values = False
        self.answer: Any = None
        self.parameters: dict[int, nn.Parameter] = {}
        self.fixed: dict[int, Tensor] = {}
        self.learned: dict[int, bool] = {}  # by id of results that do not depend on the image: do they on a parameter?
        self.modules: list[str] = []  # those whose `forward` is running, outermost first
        self.image_shape = tuple(image.shape)
        self.sources = {id(image): (IMAGE, 0)}
        self.written: dict[int, int] = {}  # memory: the last operation that wrote into it, perhaps into a part
        self.alive = [image]  # an id is only good as long as its tensor lives

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        schema = function._schema.arguments
        arguments = dict(zip((a.name for a in schema), args, strict=False)) | (kwargs or {})
        # before it runs: it may be in place
        described = {name: self.describe(value) for name, value in arguments.items()}
        result = function(*args, **(kwargs or {}))
        inputs = tuple(o.source for o in operands(described) if o.source is not None)
        results = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(r, Tensor)]
        name = function._schema.name.removeprefix("aten::")
        if results and not inputs:
            self.learned |= dict.fromkeys(map(id, results), any(map(self.is_learned, tree_leaves([args, kwargs]))))
            self.alive += results
        name = "convolution" if name == "_convolution" else name  # as torch.jit.trace writes it
        if inputs and results and name not in MAKERS:
            index = len(self.operations)
            if name in ("convolution", "mm", "addmm", "bmm", "baddbmm"):
                for value in tree_leaves([args, kwargs]):
                    if isinstance(value, Tensor) and value.dim() > 1 and not self.is_learned(value):
                        self.fixed[memory(value)] = value
            module = self.modules[-1] if self.modules else ""
            shapes = tuple(tuple(r.shape) for r in results)
            if self.keep_values:  # before anything is written into them
                self.values.append([r.detach().clone() for r in results])
            self.operations.append(Operation(index, name, module, described, inputs, shapes))
            for which, tensor in enumerate(results):
                self.sources[id(tensor)] = (index, which)
            for argument in schema:
                writes = argument.alias_info is not None and argument.alias_info.is_write
                if writes and isinstance(arguments.get(argument.name), Tensor):
                    self.written[memory(arguments[argument.name])] = index
            self.alive += results
        elif name in ("_local_scalar_dense", "equal"):
            self.reads_values = True
            self.reads_image_values |= bool(inputs)
        return result

    def is_learned(self, value: Any) -> bool:
        """Whether it is a parameter, or depends on one or on the image."""
        if isinstance(value, Tensor) and memory(value) in self.written:
            return True
        return isinstance(value, nn.Parameter) or id(value) in self.sources or self.learned.get(id(value), False)

    def enter(self, names: Sequence[str]) -> None:
        """A module begins to run: under that of its names which lies in the module that runs already."""
        running = self.modules[-1] if self.modules else ""
        self.modules.append(next((name for name in names if name.startswith(f"{running}.")), names[0]))

    def leave(self) -> None:
        self.modules.pop()

    def value(self, operand: Operand) -> Tensor | None:
        """The values of an operand, if they are kept; None if those are known of a part of it only."""
        value = self.image if operand.source == IMAGE else self.values[operand.source][operand.result]
        return value if value.shape == operand.shape else None

    def describe(self, value: Any) -> Any:
        """`value` with every tensor in it replaced by an `Operand`."""
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter):
                self.parameters[id(value)] = value
            source, result = self.sources.get(id(value), (None, 0))
            written = self.written.get(memory(value))
            if written is not None and (source is None or written > source):
                source, result = written, 0
            return Operand(tuple(value.shape), source, result)
        if is_dataclass(value) and not isinstance(value, type):
            value = vars(value)
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            return tuple(self.describe(v) for v in value)
        return value


def memory(tensor: Tensor) -> int:
    """The same number for all views of one piece of memory."""
    return tensor.untyped_storage()._cdata


def operands(value: Any) -> list[Operand]:
    """Every operand in an argument, or in all of them."""
    if isinstance(value, Operand):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [operand for v in value for operand in operands(v)] if isinstance(value, tuple) else []
