"""CUDA graphs: a GPU is shown the operations of a training step once, and then told to do them again as a whole.

A step of a small network is some hundred operations, each of which takes a GPU less time than Python to ask for it.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import one_line

EAGER = 5  # calls as they are, before a graph is worth its making: they also let libraries choose and allocate


class Graph(NamedTuple):
    """Operations between tensors that stay in their places: new values are copied into them."""

    cuda: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphed:
    """A function of tensors on a GPU, from its sixth call with tensors of the same shapes on as a CUDA graph.

    A function that cannot be one, because it looks at a result or draws random numbers on the CPU, stays as it is: a
    warning says why. What it changes, it must change in place; what is no tensor is as it was in the sixth call.

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
        """What the function returns; the same tensors, with other values, in every call that is a graph's."""
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
        """Records one call, in which nothing is computed, or finds that it cannot be recorded."""
        inputs = tuple(tensor.clone() for tensor in tensors)
        cuda, drawn = torch.cuda.CUDAGraph(), drawn_on_cpu()
        try:
            # A capture that fails leaves its own stream as the current one: the outer block puts ours back.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(cuda):
                outputs = self.function(*inputs, **keywords)
            if drawn_on_cpu() != drawn:
                raise RuntimeError("it draws random numbers on the CPU, which would be the same in every step")
            self.graphs[key] = Graph(cuda, inputs, outputs)
        except RuntimeError as error:
            self.possible = False
            self.graphs.clear()
            self.failed()
            warnings.warn(
                f"training goes on without CUDA graphs, slower: {one_line(error)} (cuda_graphs=False in the "
                "recipe spares it the attempt)",
                stacklevel=2,
            )


def drawn_on_cpu() -> tuple:
    """Where the CPU's generators of random numbers are."""
    numbers = np.random.get_state()  # noqa: NPY002 (networks draw from it)
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers[1].tobytes(), numbers[2:]
