"""The optimisers of a run. Among them Muon, for convolution kernels: torch has one too, but for matrices only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import InputError
from utils.models.mirrored import MirroredConv2d
from utils.recipes import Recipe
from utils.symmetry import with_mirror_images

# A dead channel (its ReLU is always 0) has no gradient, so its momentum decays towards 0 for ever. The products of such
# small numbers are denormal, which some CPUs compute many times slower: a momentum below this is set to 0.
SMALLEST = 1e-15


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose every update is orthogonalised: all directions learn at the same speed.

    Args:
        kernels: convolution weights (out, in, height, width), each taken as a matrix (out, in * height * width); or
            groups of them: in one with "mirrored": True, kernels stand for their mirror images too, which are rows of
            the matrix as well (utils/models/mirrored.py).
        lr: a step changes a kernel by a matrix with all singular values near `lr` (times sqrt(rows / columns) where
            there are more rows than columns). That of a group may be a tensor (), to be filled anew before each step.
        momentum: 0..1.
        weight_decay: decoupled; a step takes lr * weight_decay of the kernel away.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon
    """

    def __init__(self, kernels: Iterable[nn.Parameter | dict], lr: float, momentum: float, weight_decay: float):
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "mirrored": False})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            directions = [self.direction(kernel, group["momentum"]) for kernel in kernels]
            if group["mirrored"]:
                directions = [with_mirror_images(direction) for direction in directions]
            updates = orthogonalize([direction.flatten(1) for direction in directions])
            kept = 1 - group["lr"] * group["weight_decay"]
            for kernel, update in zip(kernels, updates, strict=True):
                rows, columns = update.shape
                step = update[:: rows // len(kernel)].view_as(kernel)  # of a mirrored one, each second row
                kernel.mul_(kept).sub_(step * (group["lr"] * max(1, rows / columns) ** 0.5))

    def direction(self, kernel: nn.Parameter, beta: float) -> Tensor:
        """Updates the kernel's momentum by its gradient; returns Nesterov's direction, a mix of the two."""
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        momentum = state["momentum"].lerp_(kernel.grad, 1 - beta)
        momentum.copy_(F.hardshrink(momentum, SMALLEST))
        return kernel.grad.lerp(momentum, beta)


def orthogonalize(matrices: list[Tensor], steps: int = 5) -> list[Tensor]:
    """Roughly U V' of each singular value decomposition U S V': singular values between about 0.7 and 1.2.

    The iteration is x -> (a + b x x' + c (x x')^2) x. Its polynomials need the small square matrix x x' alone, so they
    are multiplied with one another first, and with x once, at the end. Matrices with the same number of rows are
    stacked and go through it together, because a GPU takes longer to start so many small operations than to do them.

    Args:
        matrices: (rows, columns) each, float32.
        steps: Newton-Schulz iterations.

    Source: the quintic iteration and its coefficients are Muon's (see there).
    """
    wide = [matrix.T if matrix.size(0) > matrix.size(1) else matrix for matrix in matrices]
    wide = [x / (x.norm() + 1e-7) for x in wide]  # singular values of at most 1
    results = list(wide)
    for size in {x.size(0) for x in wide}:
        members = [number for number, x in enumerate(wide) if x.size(0) == size]
        products = newton_schulz(torch.stack([wide[number] @ wide[number].T for number in members]), steps)
        for number, product in zip(members, products, strict=True):
            results[number] = product @ wide[number]
    return [x.T if x.shape != matrix.shape else x for x, matrix in zip(results, matrices, strict=True)]


def newton_schulz(gram: Tensor, steps: int) -> Tensor:
    """The product of the iteration's polynomials, by which x is multiplied from the left; `gram` is x x'.

    Both are (N, rows, rows).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    product = None
    for step in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    return product


def build_optimizers(model: nn.Module, recipe: Recipe, graphed: bool = False) -> list[torch.optim.Optimizer]:
    """The optimisers that the recipe names; every trainable parameter is in exactly one of them.

    "muon" is Muon for the kernels that mix channels and SGD for all other parameters, depthwise kernels among them.

    Args:
        graphed: whether their steps will be part of a CUDA graph, which reads learning rates from tensors on the GPU.

    Raises:
        InputError: no parameter requires a gradient.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train")
    fused = graphed or None  # None: as torch finds best
    by_muon = [p for p in parameters if recipe.optimizer == "muon" and mixes_channels(p)]
    rest = groups([p for p in parameters if recipe.optimizer != "muon" or not mixes_channels(p)], recipe)
    if recipe.optimizer == "adam":
        decay = recipe.weight_decay
        first = torch.optim.AdamW(rest, recipe.learning_rate, weight_decay=decay, capturable=graphed, fused=fused)
    else:
        first = torch.optim.SGD(
            rest,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov and recipe.momentum > 0,
            fused=fused,
        )
    optimizers = [first]
    if by_muon:
        paired = {id(module.weight) for module in model.modules() if isinstance(module, MirroredConv2d)}
        ordinary = {"params": [p for p in by_muon if id(p) not in paired], "mirrored": False}
        mirrored = {"params": [p for p in by_muon if id(p) in paired], "mirrored": True}
        kernels = [group for group in (ordinary, mirrored) if group["params"]]
        optimizers.append(Muon(kernels, recipe.muon_learning_rate, recipe.momentum, recipe.muon_weight_decay))
    if graphed:
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = torch.tensor(group["lr"], device=parameters[0].device)
    return optimizers


def mixes_channels(parameter: nn.Parameter) -> bool:
    """Whether it is the kernel of a convolution that reads several channels: not of a depthwise one."""
    return parameter.ndim == 4 and parameter.size(1) > 1


def groups(parameters: list[nn.Parameter], recipe: Recipe) -> list[dict]:
    """The parameters as an optimiser's groups: a second one for batch norms and biases if they are not to decay."""
    if recipe.decay_norms:
        return [{"params": parameters}]
    kernels = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]


def set_rate(group: dict, rate: float) -> None:
    """Gives an optimiser's group its rate: in the tensor that a CUDA graph reads, if there is one."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
