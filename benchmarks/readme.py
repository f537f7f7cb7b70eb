"""Measured results in the README: tables between markers, put there by the programs that measured them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.data import ImageData
from utils.files import write

BEGIN, END = "<!-- results of {} -->", "<!-- end of results -->"


def put_into(readme: Path, name: str, text: str) -> None:
    """Exchanges what stands between the markers of these results, if the README has them."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN.format(name))
    _, end, after = rest.partition(END)
    if end:
        write(readme, f"{before}{begin}\n{text}\n{end}{after}".encode())


def of_data(data: ImageData) -> str:
    """What is added to the names of results, so that those of other pictures do not take CIFAR-10's place."""
    return "" if data.is_cifar10 else "-other-data"


def markdown(rows: Sequence[tuple]) -> str:
    """Rows of cells as a Markdown table; the first row is the heading.

    >>> print(markdown([("name", "size"), ("s7", 199_000)]))
    | name | size |
    |---|---|
    | s7 | 199000 |
    """
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
