"""What a drawing shows: a network's boxes, their blocks, and which edges are residual. Used by utils/drawing.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from utils.auditing.convolutions import convolution_of, short
from utils.errors import InputError, one_line
from utils.models import model_name
from utils.trace import IMAGE, Operation, has_lazy, trace

MOST_ROWS = 14  # of a block: a longer column would not fit a page

# How the operations are called that are written into the box of the layer before; others keep torch's name
SHORT = {"relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "leaky_relu": "leaky ReLU"}
SMALL = {"add": "+", "sub": "−", "mul": "×", "cat": "concat"}  # those that take several results
SILENT = {"view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "clone", "alias", "detach", "_to_copy", "t"}
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


@dataclass(eq=False)
class Node:
    """One box of a drawing: a layer, an operation on several results, the input or the output.

    Attributes:
        name: unique; the module's dotted name, with a number from its second run on.
        kind: a key of `drawing.COLOURS`.
        module: in which it ran, "" for the network itself.
        text: what it is: "conv 3x3, 16 → 48".
        details: what is not the default: "stride 2".
        shape: of its result, without the batch axis.
        inputs: the boxes whose results it took.
        then: what ran on its result and has no box of its own, in that order: "BN", "ReLU".
    """

    name: str
    kind: str
    module: str
    text: str
    details: list[str]
    shape: tuple[int, ...]
    inputs: list[Node] = field(default_factory=list)
    then: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.depth: int = 1 + max((node.depth for node in self.inputs), default=0)  # boxes on the longest way here

    @property
    def strided(self) -> bool:
        return any(detail.startswith("stride ") for detail in self.details)


Blocks = list[tuple[str, list[Node]]]  # the heading of each column, and its boxes from top to bottom


class ShowDropout(TorchFunctionMode):
    """While it is entered, a dropout in evaluation mode is an operation that changes nothing, instead of nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in DROPOUTS:
            return torch.native_dropout(args[0], kwargs["p"], False)[0]
        return function(*args, **kwargs)


def read(model: nn.Module, input_shape: Sequence[int]) -> list[Node]:
    """The boxes of the drawing in the order in which they ran, the input first and the output last.

    An operation without a box of its own is written into the box whose result it took, unless that result went
    elsewhere too.
    """
    if has_lazy(model):
        first = f"run it once, as in model(torch.zeros(1, {by(input_shape, ', ')}))"
        raise InputError(f"{model_name(model)} has lazy layers that do not know their sizes yet: {first}")
    try:
        with ShowDropout():
            ran = trace(model, input_shape)
    except Exception as error:  # whatever its forward raises
        reason = one_line(error)
        raise InputError(f"{model_name(model)} does not run on an image of {by(input_shape)}: {reason}") from error
    operations = ran.operations
    outputs = {operand.source: operand.shape for operand in ran.outputs if operand.source is not None}
    if not operations or not outputs:
        raise InputError(f"{model_name(model)} does nothing to the image: there is nothing to draw")
    users = Counter(outputs.keys())  # how many took each operation's result
    for operation in operations:
        users.update(set(operation.inputs))
    nodes = [Node("input", "end", "", "input", [], tuple(input_shape))]
    box = {IMAGE: nodes[0]}  # of each operation
    taken = {"input", "output"}
    shared = set()  # operations, such as a view, whose result is one that others take too
    instance_norms = {name for name, module in model.named_modules() if isinstance(module, _InstanceNorm)}
    for operation in operations:
        inputs = [box[source] for source in operation.inputs]
        kind, text, details = describe(operation)
        if text == "BN" and operation.module in instance_norms:  # torch computes it as a batch norm of each image
            text = "instance norm"
        alone = len(inputs) == 1 and users[operation.inputs[0]] == 1 and operation.inputs[0] not in shared
        if kind == "operation" and len(inputs) == 1 and (not text or alone):
            if not alone:
                shared.add(operation.index)
            if inputs[0].kind == "linear" and is_rows_of(operation, inputs[0]):
                inputs[0].shape = operation.shape[1:]
            inputs[0].then += [text] if text else []
            box[operation.index] = inputs[0]
            continue
        name = unique((operation.module or operation.function).replace(":", "."), taken)  # Graphviz: a:b is a port
        shown = [detail for detail in details if detail]
        nodes.append(Node(name, kind, operation.module, text, shown, operation.shape[1:], inputs))
        box[operation.index] = nodes[-1]
    shape = next(iter(outputs.values()))  # the first of several
    results = list(dict.fromkeys(box[source] for source in outputs))
    return [*nodes, Node("output", "end", "", "output", [], shape[1:], results)]


def is_rows_of(operation: Operation, linear: Node) -> bool:
    """Whether it ends a linear layer over the last of many axes, which torch computes with the others in one."""
    return operation.function in ("view", "_unsafe_view") and operation.shape[-1:] == linear.shape and not linear.then


def unique(name: str, taken: set[str]) -> str:
    """`name`, or "name (2)" where it is taken; it is taken afterwards."""
    result, count = name, 1
    while result in taken:
        count += 1
        result = f"{name} ({count})"
    taken.add(result)
    return result


def describe(operation: Operation) -> tuple[str, str, list[str]]:
    """Kind, text and details of an operation, as a `Node` has them; some details may be "".

    The kind "operation" has no box of its own while it takes one result; with no text it is not even mentioned.
    """
    function, given = operation.function.rstrip("_"), operation.arguments
    if function == "convolution":
        return describe_convolution(operation)
    if function in ("addmm", "mm") and given["mat2"].source is None:
        return "linear", "linear, {} → {}".format(*given["mat2"].shape), []
    if function in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel = given["kernel_size"]
        stride = unless("stride", given.get("stride") or kernel, default=kernel)
        text = f"{'max' if 'max' in function else 'average'} pool {by(kernel)}"
        return "pooling", text, [stride, unless("dilation", given.get("dilation", (1,)))]
    if function in ("mean", "amax"):
        shape = given["self"].shape
        if {dimension % len(shape) for dimension in given.get("dim") or ()} == {2, 3}:  # height and width
            return "pooling", f"global {'max' if function == 'amax' else 'average'} pool", []
    if function in ("_adaptive_avg_pool2d", "adaptive_max_pool2d"):
        word = "global" if operation.shape[2:] == (1, 1) else "adaptive"
        return "pooling", f"{word} {'max' if 'max' in function else 'average'} pool", []
    if "batch_norm" in function:
        return "operation", "BN", []
    if function == "native_dropout":
        return "operation", f"dropout {given['p']:g}" if given["p"] else "", []
    if function == "hardtanh" and (given.get("min_val"), given.get("max_val")) == (0, 6):
        return "operation", "ReLU6", []
    if len(operation.inputs) > 1:
        return "operation", SMALL.get(function, function), []
    if function in SILENT:
        return "operation", "", []
    return "operation", SHORT.get(function, function.strip("_").replace("_", " ")), []


def describe_convolution(operation: Operation) -> tuple[str, str, list[str]]:
    """Kind, text and details of a convolution, as in `describe`."""
    c = convolution_of(operation)
    word = "depthwise" if c.is_depthwise else "pointwise" if c.is_pointwise else "conv"
    kind = "convolution" if word == "conv" else word
    if c.is_dilated:
        kind = "dilated depthwise" if c.is_depthwise else "dilated"
    channels = f"{c.inputs}" if c.is_depthwise and c.inputs == c.outputs else f"{c.inputs} → {c.outputs}"
    unpadded = max(c.kernel) > 1 and not any(operation.arguments["padding"])
    details = [
        "transposed" if c.transposed else "",
        unless("stride", c.stride),
        unless("dilation", c.dilation),
        f"{c.groups} groups" if c.groups > 1 else "",
        "no padding" if unpadded and not c.transposed else "",
    ]
    return kind, f"{word} {by(c.kernel)}, {channels}", details


def by(sizes: Sequence[int], sign: str = "x") -> str:
    """(3, 3) as "3x3"."""
    return sign.join(map(str, sizes))


def unless(word: str, sizes: Sequence[int], default: Sequence[int] = (1,)) -> str:
    """Such as "stride 2", or "stride 2x1" where height and width differ; "" where it is the default."""
    return "" if set(sizes) == set(default) else f"{word} {short(sizes)}"


def residual_edges(nodes: list[Node]) -> set[tuple[str, str]]:
    """The edges (from, to) of residual connections.

    Of the ways that lead to an addition, these are all but the longest, each from where it leaves that one.
    """
    edges = set()
    for node in nodes:
        if node.text != "+":
            continue
        longest = max(node.inputs, key=lambda source: source.depth)
        trunk = ancestors(longest)
        ways = [(source, node) for source in node.inputs if source.depth < longest.depth]
        while ways:
            source, target = ways.pop()
            edges.add((source.name, target.name))
            if source.name not in trunk:
                ways += [(earlier, source) for earlier in source.inputs]
    return edges


def ancestors(node: Node) -> set[str]:
    """The names of all boxes that lead to this one, and its own."""
    found, ahead = set(), [node]
    while ahead:
        node = ahead.pop()
        if node.name not in found:
            found.add(node.name)
            ahead += node.inputs
    return found


def columns(model: nn.Module, nodes: list[Node]) -> Blocks:
    """The boxes between input and output: a column for each child with layers of its own, else `sections`."""
    layers = nodes[1:-1]
    children = dict(model.named_children())
    blocks: Blocks = []
    single = 0  # layers that are children themselves, between the blocks
    for node in layers:
        child = node.module.split(".")[0]
        nested = child in children and any(True for _ in children[child].children())
        single += not nested
        heading = child if nested else ""
        if blocks and (heading == blocks[-1][0] or not child):  # no child: called in the network's own forward
            blocks[-1][1].append(node)
        else:
            blocks.append((heading, [node]))
    headings = [heading for heading, _ in blocks if heading]
    longest = max((len(block) for _, block in blocks), default=0)
    if len(set(headings)) < len(headings) or 2 * single > len(layers) or longest > MOST_ROWS:
        return sections(layers, nodes[0].shape[-1])
    return [
        (heading or ", ".join(dict.fromkeys(n.module for n in block if n.module)), block) for heading, block in blocks
    ]


def has_map(node: Node) -> bool:
    """Whether its result has channels, height and width; that of a linear layer has its channels last."""
    return len(node.shape) == 3 and node.kind != "linear"


def sections(layers: list[Node], side: int) -> Blocks:
    """The boxes in columns by how often the map's side, at first `side`, has halved; headed by the sizes in them."""
    halvings = [0]
    for node in layers:
        halvings.append(int(math.log2(side / node.shape[-1])) if has_map(node) else halvings[-1])
    blocks = []
    for _, pairs in groupby(zip(halvings[1:], layers, strict=True), key=lambda pair: pair[0]):
        block = [node for _, node in pairs]
        sizes = list(dict.fromkeys(by(node.shape[1:], " × ") for node in block if has_map(node)))
        blocks.append((" to ".join(sizes if len(sizes) < 3 else (sizes[0], sizes[-1])), block))
    return blocks
