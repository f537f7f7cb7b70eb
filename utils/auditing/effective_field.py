"""The effective receptive field: how much each pixel matters to the middle of a map, by the model's own gradients.

The theoretical field says which pixels can matter at all; most of those at its border hardly do.

Source: W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks", NeurIPS 2016, arXiv:1701.04128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.auditing.anatomy import Anatomy
from utils.auditing.layouts import SIDES
from utils.data import Split
from utils.errors import InputError
from utils.evaluation import normalize
from utils.trace import copied, has_lazy, random_states_kept, record, uncompiled

BATCH = 50  # images at a time
MOST = 8  # modules that are shown unless they are named
LISTS = (nn.ModuleList, nn.ModuleDict)  # which are not run themselves


@dataclass(frozen=True)
class EffectiveField:
    """What the middle position of a module's output sees of the image.

    Attributes:
        name: of the module.
        spans: for height and width, the first and the last pixel of the theoretical field, which may lie outside of the
            image; None if it could not be worked out.
        gradient: float (H, W): the magnitude of the gradient at each pixel, its colours summed, mean over the images.
    """

    name: str
    spans: tuple[tuple[int, int], tuple[int, int]] | None
    gradient: Tensor

    @property
    def field(self) -> tuple[int, int] | None:
        """Height and width of the theoretical field, in pixels."""
        return None if self.spans is None else tuple(int(last - first + 1) for first, last in self.spans)

    def within(self, share: float) -> int:
        """Side, in pixels, of the smallest square around the gradient's peak that holds this share of it (0..1)."""
        height, width = self.gradient.shape
        row, column = divmod(int(self.gradient.argmax()), width)
        for reach in range(max(height, width)):
            top, left = max(0, row - reach), max(0, column - reach)
            if self.gradient[top : row + reach + 1, left : column + reach + 1].sum() >= share * self.gradient.sum():
                break
        return min(2 * reach + 1, max(height, width))


def effective_fields(
    model: nn.Module, split: Split, names: Sequence[str] | None = None, images: int = 200
) -> list[EffectiveField]:
    """The fields of some modules of a network, in the order given. The model stays as it is: a copy runs.

    Args:
        model: takes float32 (N, 3, H, W) like the split's images.
        split: the first `images` of it are used, normalised, not augmented.
        names: dotted names of modules; by default as in `modules_to_show`.

    Raises:
        InputError: the network has no such module, or the module leaves no map.
    """
    shape = tuple(split.images.shape[1:])
    with random_states_kept(), uncompiled():
        network = copied(model).cpu().float().eval()
        with torch.no_grad():
            if has_lazy(network):
                network(torch.ones(1, *shape))  # its lazy layers take their sizes from the first image
            anatomy = Anatomy(record(network.requires_grad_(False), torch.ones(1, *shape)))
        names = names or modules_to_show(network, shape, {operation.module for operation in anatomy.operations})
        outputs = outputs_of(network, names)
        gradients: dict[str, Tensor] = {}
        chosen = split.images[:images].cpu()
        for batch in chosen.split(BATCH):
            pixels = normalize(batch, split.mean, split.std).contiguous().requires_grad_()  # as `view` may want them
            network(pixels)
            maps = {name: output for name, output in outputs.items() if is_map(output)}
            if len(maps) < len(names):
                raise InputError(f"{', '.join(n for n in names if n not in maps)}: no map of positions comes out")
            for name, output in maps.items():
                middle = output[..., output.shape[2] // 2, output.shape[3] // 2].sum()
                (gradient,) = torch.autograd.grad(middle, pixels, retain_graph=True)
                gradients[name] = gradients.get(name, 0) + gradient.abs().sum((0, 1)) / len(chosen)
    return [EffectiveField(name, spans(anatomy, name), gradients[name]) for name in names]


def outputs_of(network: nn.Module, names: Sequence[str]) -> dict[str, object]:
    """A dictionary in which the network, whenever it runs, leaves the outputs of the modules of these names.

    Raises:
        InputError: the network has no such module.
    """
    modules, outputs = dict(network.named_modules()), {}
    for name in names:
        if name not in modules:
            raise InputError(f"the network has no module {name!r}; it has {', '.join(filter(None, modules))}")
        modules[name].register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
    return outputs


def modules_to_show(network: nn.Module, shape: tuple[int, ...], ran: set[str]) -> list[str]:
    """The names of the network's children whose output is a map, but for those that do nothing, such as dropout.

    Instead of a list of modules, what is in it counts. If there is one child only, or none returns a map, its or their
    children are looked at instead, and so on. Of more than 8, the last one at each size of the map is taken.

    Args:
        network: a copy, which gets hooks.
        shape: channels, height, width of an image.
        ran: the names of the modules that operations ran in.

    Raises:
        InputError: there are none.
    """
    modules = dict(network.named_modules())
    names = [name for name, module in modules.items() if name and type(module) not in LISTS]
    names = [name for name in names if any(f"{other}.".startswith(f"{name}.") for other in ran)]
    outputs = outputs_of(network, names)
    with torch.no_grad():
        network(torch.ones(1, *shape))
    level, maps = [""], {}  # modules at one depth, and the sizes of what they leave
    while level and (len(level) == 1 or not maps):
        level = [name for name in names if parent(name, modules) in level]
        maps = {name: tuple(outputs[name].shape[2:]) for name in level if is_map(outputs.get(name))} or maps
    if len(maps) > MOST:
        maps = {name: size for size, name in {size: name for name, size in maps.items()}.items()}
    if not maps:
        raise InputError(f"no module of {type(network).__name__} leaves a map of positions that could be shown")
    return list(maps)


def parent(name: str, modules: dict[str, nn.Module]) -> str:
    name = name.rpartition(".")[0]
    return parent(name, modules) if type(modules[name]) in LISTS else name


def is_map(output) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1


def spans(anatomy: Anatomy, name: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The pixels that the middle of a module's output can depend on."""
    inside = [o for o in anatomy.live_operations if f"{o.module}.".startswith(f"{name}.")]
    layout = anatomy.layout(inside[-1].index) if inside else None
    if layout is None or not layout.is_map:
        return None
    return tuple(layout.line(side).at(inside[-1].shape[2 + side] // 2) for side in SIDES)
