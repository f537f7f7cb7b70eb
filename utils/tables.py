"""Plain text tables: the same characters on every machine, so that a notebook's output can be compared."""

from __future__ import annotations


def as_table(rows: list[tuple]) -> str:
    """Rows of cells as aligned text, numbers to the right; the first row is the heading.

    >>> print(as_table([("name", "size"), ("s7", 199_000)]))
    name    size
    s7    199000
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*texts, strict=True)]
    numeric = [all(isinstance(cell, (int, float)) for cell in column) for column in zip(*rows[1:], strict=True)]
    lines = []
    for row in texts:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
