"""The rows of an audit that a network answers for: structure, pooling, kinds of convolution, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from utils.auditing.anatomy import Anatomy, takes_average
from utils.auditing.convolutions import Convolution, name_of, short, times
from utils.auditing.layouts import SIDES
from utils.auditing.maxima import may_take_maximum, nearly_equal
from utils.auditing.paths import made_of
from utils.auditing.requirement import MAX_PARAMETERS, Requirement, row, shortened, unjudged
from utils.auditing.window_rules import pool_window
from utils.trace import IMAGE, Operation, Recorder, forward_hooks, memory

NOT_RUN = "the network does not run"


def structure_row(anatomy: Anatomy) -> Requirement:
    """C1 C2 C3 C4 O. The reducing convolution may be a block's last layer or the next one's first."""
    smaller = [c for c in anatomy.body if anatomy.reduces(c)]
    strided = [c for c in smaller if c.is_strided]  # beside strides, dilation without enough padding only trims the map
    reducing, blocks = smaller, blocks_by(anatomy, smaller)
    if strided and len(blocks_by(anatomy, strided)) == 4:
        reducing, blocks = strided, blocks_by(anatomy, strided)
    faults = list(structure_faults(anatomy, len(blocks)))
    text = ", ".join(f"C{i} {block_sizes(anatomy, block)}" for i, block in enumerate(blocks, 1)) or "no convolution"
    measured = f"other: {'; '.join(faults)} ({text})" if faults else f"four blocks: {text}"
    return row("structure", measured, not faults, [c.name for c in reducing])


def structure_faults(anatomy: Anatomy, blocks: int) -> Iterator[str]:
    if blocks != 4:
        yield f"{blocks} {'block' if blocks == 1 else 'blocks'}"
    averages = [o for o in anatomy.average_pools if not anatomy.is_shortcut(o)]
    pools = [*anatomy.max_pools, *averages]
    between = [o for o in pools if o.index not in anatomy.after_last_maps]
    if between:
        yield f"pooling in {names(map(name_of, between))}"
    other = [o for o in anatomy.otherwise_reducing if o not in pools]
    if other:
        yield f"reduced without a convolution in {names(map(name_of, other))}"
    if any(anatomy.jump_changes(o) < 0 for o in anatomy.live_operations):
        yield "it enlarges its map again"
    if not anatomy.global_pools and not any(len(o.shape) == 2 for o in anatomy.recorder.outputs):
        yield "no output block"


def blocks_by(anatomy: Anatomy, reducing: Sequence[Convolution]) -> list[list[Convolution]]:
    """The convolutions in blocks that end in a reducing one, or begin with one if that alone makes four blocks."""
    stages = anatomy.stages_of(reducing)

    def blocks(ending: bool) -> list[list[Convolution]]:
        numbers = [stages[c.operation.index] - (ending and c in reducing) for c in anatomy.body]
        found = [[c for c, n in zip(anatomy.body, numbers, strict=True) if n == k] for k in sorted(set(numbers))]
        if len(found) == 5 and all(c.is_pointwise for c in found[-1]):  # of a depthwise convolution that strides
            found[-2:] = [found[-2] + found[-1]]
        return found

    ending, beginning = blocks(ending=True), blocks(ending=False)
    return beginning if len(beginning) == 4 != len(ending) else ending


def block_sizes(anatomy: Anatomy, block: Sequence[Convolution]) -> str:
    """The map's size in a block: "32 > 16", or "16" where it stays."""
    before = max(map(anatomy.size_before, block))
    after = min(tuple(c.operation.shape[2:]) for c in block)
    return short(before) if before == after else f"{short(before)} > {short(after)}"


def max_pooling_row(anatomy: Anatomy) -> Requirement:
    found = list(map(name_of, anatomy.max_pools))
    lost = [o for o in anatomy.live_operations if may_take_maximum(anatomy, o)]
    if lost and not found:
        where, why = names(f"{o.function} in {name_of(o)}" for o in lost), anatomy.why_unfollowed()
        return unjudged("max_pooling", f"{where} comes where the layer algebra stops: {why}")
    return row("max_pooling", "found" if found else "none", not found, found)


def bonus_row(anatomy: Anatomy) -> Requirement:
    strided = [c.name for c in anatomy.body if c.is_strided]
    dilated = [c.name for c in anatomy.body if c.is_dilated]
    pools = [name_of(o) for o in (*anatomy.max_pools, *anatomy.average_pools)]
    if strided:
        return row("bonus", "strided convolutions", False, strided)
    if pools:
        return row("bonus", "pooling", False, pools)
    if other := anatomy.otherwise_reducing:
        return row("bonus", "reduced without a convolution", False, map(name_of, other))
    return row("bonus", "dilated, no stride" if dilated else "nothing dilated", bool(dilated), dilated)


def depthwise_row(anatomy: Anatomy) -> Requirement:
    """groups == channels, more than one, and then a 1x1 that mixes; what only looks like it is named."""
    depthwise = [c for c in anatomy.body if c.is_depthwise]
    separable = [c.name for c in depthwise if anatomy.pointwise_after(c)]
    lonely = [c.name for c in depthwise if c.name not in separable]
    grouped = [c.name for c in anatomy.body if c.groups > 1 and not c.is_depthwise]
    said = [f"{len(separable)} depthwise separable" if separable else "none"]
    said += [f"depthwise without a pointwise after it: {names(lonely)}"] if lonely else []
    said += [f"grouped, not depthwise: {names(grouped)}"] if grouped else []
    return row("depthwise", "; ".join(said), bool(separable), separable)


def dilated_row(anatomy: Anatomy) -> Requirement:
    dilated = [c for c in anatomy.body if c.is_dilated]
    idle = [c.name for c in anatomy.body if max(c.dilation) > 1 and not c.is_dilated]  # its own, or those on the map
    said = ", ".join(dict.fromkeys(c.kind for c in dilated)) or "none"
    said += f"; dilated, but of one tap: {names(idle)}" if idle else ""
    return row("dilated", said, bool(dilated), [c.name for c in dilated])


def gap_row(anatomy: Anatomy) -> Requirement:
    """An average over the whole map, however it is written, on every way to the answer."""
    pools = anatomy.global_pools
    wrong = [o for o in pools if not averages(anatomy, o)]
    where = map(name_of, wrong or pools)
    if not wrong and (not pools or unpooled_maps(anatomy)) and (why := anatomy.why_unfollowed()):
        return unjudged("gap", f"the layer algebra stops where {why}")
    if not pools:
        return row("gap", "none: the answer is not made of a pooled map", False)
    if wrong and averages_by_numbers(anatomy):
        return row("gap", "global average pooling", True, where)
    if wrong:
        return row("gap", f"none: {names(map(described, wrong))} takes the place of the average", False, where)
    return row("gap", "global average pooling", True, where)


def unpooled_maps(anatomy: Anatomy) -> set[int]:
    """The last maps from which a way leads to the answer past all global pools; not those that are returned."""
    answers = {operand.source for operand in anatomy.recorder.outputs}
    past = made_of(anatomy.operations, answers, {o.index for o in anatomy.global_pools})
    return past.intersection(anatomy.last_maps) - answers


def averages(anatomy: Anatomy, operation: Operation) -> bool:
    """Whether it is a mean: also a sum that is divided by the number of positions next."""
    if takes_average(operation):
        return True
    if operation.function != "sum":
        return False
    shape = operation.arguments["self"].shape
    count = torch.Size(shape).numel() / torch.Size(operation.shape).numel()
    following = [anatomy.operations[i] for i in anatomy.consumers.get(operation.index, [])]
    factors = [(o.function.rstrip("_"), o.arguments.get("other")) for o in following]
    return any((f == "div" and n == count) or (f == "mul" and n == 1 / count) for f, n in factors)


def described(operation: Operation) -> str:
    """The function's name; of an average pool also how many of the positions it takes."""
    if operation.function != "avg_pool2d":
        return operation.function
    kernel, sizes = pool_window(operation)[0], operation.arguments["self"].shape[-2:]
    return f"avg_pool2d over {times(kernel)} of {times(sizes)} positions"


def averages_by_numbers(anatomy: Anatomy) -> bool:
    """Whether every way from the last maps to the answer goes through a result whose values are the maps' averages.

    So an average is found however it is written: as sums over rows and columns and a division, or as a product with a
    constant.
    """
    found: set[int] = set()
    for index in anatomy.last_maps:
        layout, (value, *_) = anatomy.layout(index), anatomy.recorder.values[index]
        if layout is None or not value.is_floating_point():
            return False
        average = value.mean([layout.axis(side) for side in SIDES], keepdim=True)
        if nearly_equal(value, average.expand_as(value)):  # one position, or all alike
            return False
        for operation in anatomy.operations:
            result = anatomy.recorder.values[operation.index][0]
            if (
                operation.index in anatomy.after_last_maps
                and result.is_floating_point()
                and result.numel() == average.numel()
                and nearly_equal(result.flatten(), average.flatten())
            ):
                found.add(operation.index)
    answers = [operand.source for operand in anatomy.recorder.outputs]
    past = made_of(anatomy.operations, answers, found)
    takes_image = any(IMAGE in anatomy.operations[index].inputs for index in past)
    return bool(found) and not past.intersection(anatomy.last_maps) and not takes_image


def params_row(model: nn.Module, recorder: Recorder | None = None, lazy: bool = False) -> Requirement:
    """Every parameter once. torchsummary's total, which many quote, is named where it differs.

    Args:
        recorder: of the run; None: the model does not run. It knows parameters that the model does not, of layers in a
            plain list, and weights that are no parameters at all: both count.
        lazy: whether the model had lazy layers, whose parameters are only there since the run.
    """
    total = sum(p.numel() for p in model.parameters())
    known = set(map(id, model.parameters()))
    used, fixed = (recorder.parameters, recorder.fixed) if recorder else ({}, {})
    strays = sum(p.numel() for key, p in used.items() if key not in known)
    memories = {memory(p) for p in [*model.parameters(), *used.values()] if not nn.parameter.is_lazy(p)}
    hidden = sum(t.numel() for key, t in fixed.items() if key not in memories)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    said = f"{total:,}"
    said += f", {trainable:,} of them trainable" if trainable != total else ""
    said += ", once its lazy layers have seen an image" if lazy else ""
    if strays:
        said += f"; besides {strays:,} in layers that it does not know, as in a plain list: no optimiser finds them"
    if hidden:
        said += f"; besides {hidden:,} weights that are no parameters: buffers or constants"
    where: list[str] = []
    other = torchsummary_total(model, recorder.image_shape[1:]) if recorder else total
    if other not in (None, total):
        said += f"; torchsummary says {other:,}"
        where = [n for n, p in model.named_parameters() if n.rpartition(".")[2] not in ("weight", "bias")]
    return row("params", said, total + strays + hidden < MAX_PARAMETERS, where)


def torchsummary_total(model: nn.Module, shape: Sequence[int]) -> int | None:
    """The total that torchsummary would print: weight and bias of each module, as often as it is called.

    None if the model does not run again, or has parts from torch.jit, which take no hooks.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return None
    counts: list[int] = []
    containers = (nn.Sequential, nn.ModuleList)  # which torchsummary passes over
    modules = [module for module in model.modules() if module is not model and not isinstance(module, containers)]

    def count(module: nn.Module, inputs, output) -> None:
        tensors = (getattr(module, name, None) for name in ("weight", "bias"))
        counts.append(sum(t.numel() for t in tensors if isinstance(t, torch.Tensor)))

    try:
        with forward_hooks(modules, count), torch.no_grad():
            model(torch.ones(1, *shape))
    except Exception:  # whatever a network may raise
        return None
    return sum(counts)


def names(found: Iterable[str]) -> str:
    """Names as a part of a sentence, each of them once."""
    return shortened(list(dict.fromkeys(found)))
