"""Architecture drawings: a network's layers, shapes, blocks and residual edges, from a trace of one forward pass.

Graphviz lays them out and draws them. `python -m utils draw` writes one; `make drawings` all of those in images/.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

import graphviz
from torch import nn

from utils.boxes import Blocks, Node, by, columns, read, residual_edges
from utils.errors import InputError
from utils.files import write
from utils.models import model_name, parameter_count

COLOURS = {  # fills; each is light enough for black text, and the page behind is white: good on dark pages too
    "convolution": "#dbe9f6",
    "depthwise": "#dff0d8",
    "pointwise": "#eef5dc",
    "dilated": "#e6dff2",
    "pooling": "#fdf0d0",
    "linear": "#f7dfd8",
    "end": "#eeeeee",
    "operation": "#ffffff",
}
COLOURS["dilated depthwise"] = f"{COLOURS['depthwise']}:{COLOURS['dilated']}"  # from left to right
LINE, FRAME, RESIDUAL, STRIDED = "#555555", "#bbbbbb", "#c2410c", "#1d5fa8"
FONT = "Helvetica,Arial,sans-serif"
PAGE = {"size": "8.4,20"}  # inches: what is wider is scaled down, to fit the column of a page
# Each column is one rank of a graph laid out from left to right. Within a rank dot goes upwards, so edges inside a
# column are given from the later to the earlier node, with their arrow at the back.
GRAPH = {"rankdir": "LR", "newrank": "true", "nodesep": "0.2", "ranksep": "0.3", "bgcolor": "white", "pad": "0.1"}
TITLE = {"labelloc": "t", "fontname": FONT, "fontsize": "13"}
BOX = {"shape": "box", "style": "filled,rounded", "color": LINE, "fontname": FONT, "fontsize": "10"}
SIZE = {"width": "1.55", "height": "0.3", "margin": "0.13,0.04"}  # of a box, at least; inches
LINE_LENGTH = 26  # characters, in a box
BLOCK = {"color": FRAME, "style": "rounded", "fontsize": "12", "labeljust": "l", "margin": "5"}
POINT = {"shape": "point", "width": "0.01", "height": "0.01", "label": ""}
FORK = POINT | {"width": "0.05", "height": "0.05"}
DASHED = {"color": RESIDUAL, "style": "dashed", "penwidth": "1.6"}
NO_BREAK = "\N{NO-BREAK SPACE}"


def draw(model: nn.Module, input_shape: Sequence[int] = (3, 32, 32)) -> graphviz.Digraph:
    """The network as a graph: a column for each block, its layers from top to bottom, residual edges dashed.

    A block is a child of the network that has layers of its own (c1, c2, ...); in a network without such children it
    is the layers whose maps have about the same size. A single block has no frame.

    Args:
        model: takes float32 (1, *input_shape) and returns a tensor; it is left as it was.
        input_shape: channels, height, width.

    Raises:
        InputError: the network does not run on such an image, or does nothing to it.
    """
    name = model_name(model)
    nodes = read(model, input_shape)
    blocks = columns(model, nodes)
    residual = residual_edges(nodes)
    parameters = parameter_count(model)
    title = f"<b>{escape(name)}: {parameters:,} parameters</b>"
    notes = [f'<font color="{STRIDED}">bold frame: strided</font>'] if any(node.strided for node in nodes) else []
    notes += [f'<font color="{RESIDUAL}">dashed: residual</font>'] if residual else []
    if notes:
        title += f'<br/><font point-size="11">{(NO_BREAK * 4).join(notes)}</font>'
    graph = graphviz.Digraph(name, graph_attr=GRAPH | PAGE | TITLE | {"label": f"<{title}>"}, node_attr=BOX | SIZE)
    graph.attr("edge", color=LINE, arrowsize="0.6")
    if len(blocks) > 1:
        lay_out(graph, nodes, blocks, residual)
    else:
        graph.attr(rankdir="TB")
        for node in nodes:
            box(graph, node)
            for source in node.inputs:
                graph.edge(source.name, node.name, **(DASHED if (source.name, node.name) in residual else {}))
    return graph


def save(model: nn.Module, path: str | Path, input_shape: Sequence[int] = (3, 32, 32)) -> None:
    """Writes the drawing as SVG, in one step; the same network on the same machine gives the same bytes.

    Args:
        path: of the file; its folder is made if missing.
        model, input_shape: as for `draw`.

    Raises:
        InputError: Graphviz's program `dot` is not installed, the file cannot be written or does not end in .svg, or as
            for `draw`.
    """
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise InputError(f"{path}: drawings are written as SVG; name a file that ends in .svg")
    graph = draw(model, input_shape)
    try:
        svg = graph.pipe(format="svg", encoding="utf-8", quiet=True)
    except graphviz.ExecutableNotFound as error:
        raise InputError(
            "Graphviz's program dot is needed and not here: apt-get install graphviz, or brew install graphviz"
        ) from error
    except graphviz.CalledProcessError as error:
        raise InputError(f"Graphviz's program dot failed: {(error.stderr or str(error)).splitlines()[0]}") from error
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)  # one of these comments holds dot's version
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, svg.encode())
    except OSError as error:
        raise InputError(f"{path}: the drawing cannot be written ({error.strerror})") from error


def lay_out(graph: graphviz.Digraph, nodes: list[Node], blocks: Blocks, residual: set[tuple[str, str]]) -> None:
    """Puts boxes and edges into the graph, in two or more columns.

    What comes from another column enters at a corner on the left of its frame, once, turns down above the first box,
    and parts at a fork where some of it goes around layers.
    """
    first, last = nodes[0], nodes[-1]
    box(graph, first)
    box(graph, last)
    column = {node.name: number for number, (_, block) in enumerate(blocks) for node in block}
    column |= {first.name: -1, last.name: len(blocks) - 1}
    way_in: dict[tuple[str, int], str] = {}  # where an edge from a box to a column starts in that column
    tops = []  # of each column: its first corner, and the turn beside it
    for number, (heading, block) in enumerate(blocks):
        arriving: dict[str, bool] = {}  # boxes of other columns; does a residual edge come from there?
        for node in [*block, last] if number == column[last.name] else block:
            for source in node.inputs:
                if column[source.name] != number:
                    arriving[source.name] = arriving.get(source.name, False) or (source.name, node.name) in residual
        with graph.subgraph(name=f"cluster_{number}") as frame, frame.subgraph() as stack:
            frame.attr(label=graphviz.escape(heading), **BLOCK)
            stack.attr(rank="same")
            for place, (source, parts) in enumerate(arriving.items()):
                corner, turn, fork = (f"{source}, {p} in column {number + 1}" for p in ("corner", "turn", "fork"))
                above = source == first.name and number == 0  # the input stands above the frame
                look = {"style": "invis"} if above else {}
                frame.node(corner, **POINT, **look)
                stack.node(turn, **POINT)
                frame.edge(corner, turn, dir="none", weight="100", **look)
                if above:
                    graph.edge(turn, source, dir="none", weight="10")
                else:
                    graph.edge(source, corner, dir="none", weight="0", tailport="e", headport="w")
                if parts:
                    stack.node(fork, **FORK)
                    stack.edge(fork, turn, dir="none", weight="10")
                way_in[source, number] = fork if parts else turn
                if place == 0:
                    tops.append((corner, turn))
            for node in block:
                box(stack, node)
    for node in nodes:
        for source in node.inputs:
            start = way_in.get((source.name, column[node.name]), source.name)
            connect(graph, start, source, node, residual)
    for (_, turn), (corner, _) in pairwise(tops):
        graph.edge(turn, corner, style="invis", weight="100")  # all columns begin at the same height
    # the input on top of the first column, the output below the last
    same_column(graph, first.name, tops[0][1])
    same_column(graph, last.name, blocks[-1][1][-1].name)
    graph.edge(first.name, tops[1][0], style="invis", weight="0")
    graph.edge(blocks[-2][1][-1].name, last.name, style="invis", weight="0")


def box(graph: graphviz.Digraph, node: Node) -> None:
    look = {"width": "0.3", "height": "0.25"} if node.kind == "operation" else {}
    if node.strided:
        look |= {"color": STRIDED, "penwidth": "2"}
    graph.node(node.name, label(node), fillcolor=COLOURS[node.kind], **look)


def label(node: Node) -> str:
    """The text of its box, as Graphviz takes it."""
    if node.kind == "operation":
        return graphviz.escape(" ".join([node.text, *node.then]))
    lines = [f"<b>{escape(node.text)}</b>"]
    for separator, words in ((", ", node.details), (" ", node.then)):
        whole = separator.join(word.replace(" ", NO_BREAK) for word in words)
        lines += [escape(line) for line in textwrap.wrap(whole, LINE_LENGTH)]
    lines += [f"<i>{by(node.shape, ' × ')}</i>"] if node.shape else []
    return f"<{'<br/>'.join(lines)}>"


def connect(graph: graphviz.Digraph, start: str, source: Node, node: Node, residual: set[tuple[str, str]]) -> None:
    """The arrow from `source`, or what stands for it in this column, to a box; layers on a way around go upwards."""
    if (source.name, node.name) not in residual:
        graph.edge(node.name, start, dir="back", weight="10")
    elif source.text != "+" and any(target == source.name for _, target in residual):
        graph.edge(start, node.name, weight="10", **DASHED)
    else:
        graph.edge(node.name, start, dir="back", weight="0", **DASHED)  # no say in what stands above what


def same_column(graph: graphviz.Digraph, *names: str) -> None:
    with graph.subgraph() as stack:
        stack.attr(rank="same")
        for name in names:
            stack.node(name)
