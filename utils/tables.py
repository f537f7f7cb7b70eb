"""Plain text tables: the same characters on every machine, so that a notebook's output can be compared. HTML, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape


def as_table(rows: list[tuple]) -> str:
    """Rows of cells as aligned text, numbers to the right; the first row is the heading.

    >>> print(as_table([("name", "size"), ("s7", 199_000)]))
    name    size
    s7    199000
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*texts, strict=True)]
    body = rows[1:] or [[""] * len(widths)]
    numeric = [all(isinstance(cell, (int, float)) for cell in column) for column in zip(*body, strict=True)]
    lines = []
    for row in texts:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_html(rows: Sequence[tuple]) -> str:
    """The same rows as an HTML table, everything to the left."""

    def line(cells: tuple, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag} style='text-align:left'>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line(rows[0], "th") + "".join(line(row, "td") for row in rows[1:]) + "</table>"


def as_csv(columns: Sequence[str], records: Iterable[Mapping]) -> str:
    """Records as CSV text, the columns' names first, every digit kept."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
