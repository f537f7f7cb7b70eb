"""A GPU that is not there: tensors that say they are on it, compute on the CPU, and refuse to meet the CPU's.

Also CUDA graphs of their operations, which forget what a real graph forgets: everything but the tensors' places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
LOOKS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero")  # for which a program waits until the GPU is done


class OnGPU(Tensor):
    """A tensor on it; `inner` has the values."""

    gpu: PretendedGPU  # of the test that runs

    @staticmethod
    def __new__(cls, inner: Tensor):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return Tensor._make_wrapper_subclass(cls, inner.size(), **layout)

    def __init__(self, inner: Tensor):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return cls.gpu.run(function, args, kwargs or {})

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)  # as torch.load(map_location="cpu") finds it

    def __deepcopy__(self, memo):
        copy = OnGPU(self.inner.clone())
        return torch.nn.Parameter(copy, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copy

    def __repr__(self, **_):
        return f"OnGPU({self.inner})"


class PretendedGPU(TorchFunctionMode):
    """What torch's Python functions do while there is such a GPU.

    Attributes:
        operations: how often each was called on its tensors, by its ATen name.
        looks: how often a value was read off it.
        graph: the one being made.
        replayed: how often a graph ran.
        generator: torch's own, from which dropout draws.
    """

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.generators: list[torch.Generator] = []
        self.graph: PretendedGraph | None = None
        self.replayed = 0
        self.generator = PretendedGenerator()

    @property
    def looks(self) -> int:
        return sum(self.operations[name] for name in LOOKS)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        on_gpu = isinstance(first, OnGPU)
        if on_gpu and function == Tensor.device.__get__:
            return GPU
        if on_gpu and function in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if on_gpu and function is Tensor.tolist:
            return first.inner.tolist()
        if function is Tensor.cpu:
            return self.moved(first, CPU)
        if function is Tensor.to:
            target = args[1:]
            if isinstance(target[0] if target else None, Tensor):
                target = (target[0].device, target[0].dtype)
            copy = kwargs.pop("copy", False)
            device, dtype, _, memory = torch._C._nn._parse_to(*target, **kwargs)
            layout = {"memory_format": memory} if memory else {}
            return function(self.moved(first, device), dtype or first.dtype, copy=copy, **layout)
        device = kwargs.get("device") and torch.device(kwargs["device"])
        to_gpu = device.type == "cuda" if device else on_gpu
        if kwargs.get("generator") is not None:
            assert any(kwargs["generator"] is one for one in self.generators) == to_gpu, "a generator elsewhere"
        if device is None or device.type == "cpu":
            return function(*args, **kwargs)
        made = function(*args, **kwargs | {"device": CPU})
        return made if isinstance(made, OnGPU) else OnGPU(made)

    def moved(self, tensor: Tensor, device: torch.device | None) -> Tensor:
        """The tensor on that device: itself, if it is there. Gradients do not follow it."""
        if device is None or (device.type == "cuda") == isinstance(tensor, OnGPU):
            return tensor
        if device.type == "cuda":
            return OnGPU(tensor.detach().clone())
        assert not (self.graph and tensor.dim()), "operation not permitted when stream is capturing"
        return tensor.inner if tensor.dim() == 0 else tensor.inner.clone()

    def run(self, function, args: tuple, kwargs: dict):
        """An ATen operation with tensors of the GPU among its arguments."""
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        self.operations[name] += 1
        leaves = tree_leaves((args, kwargs))
        if name != "copy_" and any(isinstance(x, Tensor) and not isinstance(x, OnGPU) and x.dim() for x in leaves):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found cuda:0 and cpu!")
        if name.startswith("_fused_"):
            check_strides([x for x in args if isinstance(x, list | tuple) and x])
        if torch.Tag.nondeterministic_seeded in function.tags and not kwargs.get("generator"):
            self.generator.check(self.graph)
        ours = {id(x.inner): x for x in leaves if isinstance(x, OnGPU)}
        args, kwargs = tree_map(lambda x: x.inner if isinstance(x, OnGPU) else x, (args, kwargs))
        result = self.graph.record(function, args, kwargs) if self.graph else function(*args, **kwargs)
        return tree_map(lambda x: ours.get(id(x), OnGPU(x)) if isinstance(x, Tensor) else x, result)


class PretendedGenerator:
    """As a GPU's own generator, which knows whether a graph is being made. A copy of its state does not."""

    capturing = False

    def check(self, graph: PretendedGraph | None) -> None:
        if self.capturing and graph is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def clone_state(self) -> PretendedGenerator:
        return PretendedGenerator()

    def graphsafe_set_state(self, other: PretendedGenerator) -> None:
        self.capturing = other.capturing


def check_strides(lists: list[list[Tensor]]) -> None:
    """As the fused optimisers' own check: weight, gradient and state have to lie alike in memory."""
    for same in zip(*(tensors for tensors in lists if tensors[0].dim()), strict=True):
        strides = {tuple(s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1) for x in same}
        assert len(strides) == 1, f"fused: params, grads and states must have the same strides, not {strides}"


@dataclass
class Recorded:
    function: Callable
    args: tuple
    kwargs: dict
    results: list[Tensor]


class PretendedGraph:
    """As torch.cuda.CUDAGraph. What is recorded is computed too, to know the shapes; then it is undone."""

    def __init__(self):
        self.recorded: list[Recorded] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # what is written into, and its value at first
        self.made: set[int] = set()  # storages that were allocated within
        self.broken = False

    def record(self, function, args: tuple, kwargs: dict):
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        if name in LOOKS:
            self.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        for tensor in written(function, args, kwargs):
            place = tensor.untyped_storage().data_ptr()
            if place not in self.made and place not in self.before:
                flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.before[place] = flat, flat.clone()
        with torch.random.fork_rng(devices=[]):
            result = function(*args, **kwargs)
        places = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        new = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        new = [x for x in new if x.untyped_storage().data_ptr() not in places]
        self.made |= {x.untyped_storage().data_ptr() for x in new}
        self.recorded.append(Recorded(function, args, kwargs, new))
        return result

    def undo(self) -> None:
        for place, value in self.before.values():
            place.copy_(value)
        for one in self.recorded:
            for result in one.results:
                result.fill_(float("nan") if result.is_floating_point() else 0)

    def replay(self) -> None:
        OnGPU.gpu.replayed += 1
        for one in self.recorded:
            results = one.function(*one.args, **one.kwargs)
            results = [x for x in tree_leaves(results) if isinstance(x, Tensor)][-len(one.results) :]
            for place, value in zip(one.results, results, strict=bool(one.results)):
                place.copy_(value)


def written(function, args: tuple, kwargs: dict) -> Iterator[Tensor]:
    """The tensors that an operation changes in place."""
    if function is torch.ops.aten.native_batch_norm.default:
        yield from (x for x in args[3:5] if x is not None)  # running means and variances: its schema does not say so
    for number, argument in enumerate(function._schema.arguments):
        if argument.alias_info and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from (x for x in tree_leaves(value) if isinstance(x, Tensor))


class PretendedStream:
    """As torch.cuda.Stream."""

    def __init__(self, device: torch.device):
        self.device = device


@contextmanager
def capture(graph: PretendedGraph, stream: PretendedStream | None = None) -> Iterator[None]:
    """As torch.cuda.graph, which in older versions tidies nothing up if the end of a capture fails."""
    assert stream is not None and stream.device == GPU, "torch's own stream may be on another GPU: an empty graph"
    OnGPU.gpu.graph, OnGPU.gpu.generator.capturing = graph, True
    try:
        yield
    finally:
        OnGPU.gpu.graph = None
        with torch.no_grad():
            graph.undo()
        if graph.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        OnGPU.gpu.generator.capturing = False


def check_capturable(optimizer: torch.optim.Optimizer) -> None:
    """As torch's, for those of its optimisers that ask."""
    capturable = all(group["capturable"] for group in optimizer.param_groups)
    assert capturable or OnGPU.gpu.graph is None, "attempting CUDA graph capture of step(), but capturable is False"


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Within the block torch says that there is a GPU like a T4, which trains in fp16."""
    gpu = OnGPU.gpu = PretendedGPU()
    generator, autocast = torch.Generator, torch.autocast

    def new_generator(device="cpu") -> torch.Generator:
        made = generator()
        if torch.device(device).type == "cuda":
            gpu.generators.append(made)
        return made

    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, gpu:
            patch.setattr(torch, "Generator", new_generator)
            patch.setattr(torch, "autocast", lambda kind, *args, **kwargs: autocast("cpu", *args, **kwargs))
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
            patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU that is not there")
            patch.setattr(torch.cuda, "default_generators", (gpu.generator,))
            patch.setattr(torch.cuda, "Stream", PretendedStream)
            patch.setattr(torch.cuda, "CUDAGraph", PretendedGraph)
            patch.setattr(torch.cuda, "graph", capture)
            patch.setattr(torch.cuda, "current_stream", lambda: None)
            patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
            for name in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):  # older, newer
                patch.setattr(torch.optim.Optimizer, name, check_capturable, raising=False)
            yield gpu
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
