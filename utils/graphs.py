"""CUDA graphs: the operations of a training step are recorded once, and later steps replay the recording as a whole.

A step of a small network is some hundred operations, each of which takes the GPU less time than Python takes to ask for
it: replayed, they are asked for once.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import one_line

EAGER = 5  # ordinary calls before a graph is recorded: in them libraries choose their algorithms and allocate memory


class Graph(NamedTuple):
    """A recording: its operations read `inputs`, into which new values are copied, and write `outputs`."""

    cuda: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphed:
    """A function of tensors on a GPU that becomes a CUDA graph in its sixth call with the same shapes and keywords.

    A function of which no graph can be made, because it reads a result back to the CPU or draws random numbers there,
    is called as it is: a warning says why. Tensors that it changes, it must change in place; every other Python value
    that it reads keeps the value that it had when the graph was recorded.

    Args:
        function: takes tensors and hashable keywords, and returns tensors.
        failed: called if no graph can be made of it, to undo what the attempt has left half done.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], failed: Callable[[], None] = lambda: None):
        self.function, self.failed = function, failed
        self.possible = True
        self.calls: Counter[tuple] = Counter()
        self.graphs: dict[tuple, Graph] = {}

    def __call__(self, *tensors: Tensor, **keywords) -> tuple[Tensor, ...]:
        """What the function returns; a graph returns the same tensors in every call, with new values in them."""
        key = (*(tensor.shape for tensor in tensors), *keywords.items())
        self.calls[key] += 1
        if self.calls[key] > EAGER and self.possible and key not in self.graphs:
            self.make(key, tensors, keywords)
        if key not in self.graphs:
            return self.function(*tensors, **keywords)
        graph = self.graphs[key]
        for place, tensor in zip(graph.inputs, tensors, strict=True):
            place.copy_(tensor)
        graph.cuda.replay()
        return graph.outputs

    def make(self, key: tuple, tensors: tuple[Tensor, ...], keywords: dict) -> None:
        """Records one call as a graph, which computes nothing yet, or gives up graphs for good if that fails."""
        inputs = tuple(tensor.clone() for tensor in tensors)
        cuda, states = torch.cuda.CUDAGraph(), cpu_random_states()
        stream = capture_stream(tensors[0].device)
        try:
            # A capture that fails leaves its own stream as the current one: the outer block puts ours back.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(cuda, stream=stream):
                outputs = self.function(*inputs, **keywords)
            if cpu_random_states() != states:
                raise RuntimeError("it draws random numbers on the CPU, which would be the same in every step")
            self.graphs[key] = Graph(cuda, inputs, outputs)
        except RuntimeError as error:
            self.possible = False
            self.graphs.clear()
            renew_state(torch.cuda.default_generators[tensors[0].device.index])
            self.failed()
            warnings.warn(
                f"training goes on without CUDA graphs, slower: {one_line(error)} (cuda_graphs=False in the "
                "recipe spares it the attempt)",
                stacklevel=2,
            )


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which graphs are made. torch's own is on the GPU of a process's first graph, for those of all GPUs.

    On another GPU nothing would be recorded: the graph would be empty, and its replay would train nothing.
    """
    return torch.cuda.Stream(device)


def renew_state(generator: torch.Generator) -> None:
    """Gives a GPU's generator a copy of its state: a failed capture leaves that one in capture mode.

    So it is at least until torch 2.10. In capture mode it refuses to draw outside of a graph, for dropout for example.
    """
    generator.graphsafe_set_state(generator.clone_state())


def cpu_random_states() -> tuple:
    """The states of the random number generators on the CPU: torch's, Python's and NumPy's."""
    numbers = np.random.get_state()  # noqa: NPY002 (networks draw from it)
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers[1].tobytes(), numbers[2:]
