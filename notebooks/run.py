"""Runs a notebook from top to bottom, showing what it prints as it prints it, and keeps it with all outputs.

    python notebooks/run.py notebooks/S7.ipynb --out out

Writes OUT/NAME.ipynb and OUT/NAME.html, and ends with the last line that the notebook printed. With --keep the
executed notebook also replaces the one it came from: that is how the outputs stored in the repository are made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbformat import NotebookNode


class LoudClient(NotebookClient):
    """Shows on the terminal what the cells print, progress bars included."""

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


def run(path: Path, out: Path) -> NotebookNode:
    """Executes the notebook at `path` in its own folder; writes it, as far as it came, and its page into `out`.

    Raises:
        CellExecutionError: a cell failed; what ran before it is in `out`.
    """
    notebook = nbformat.read(path, as_version=4)
    client = LoudClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,  # a progress bar leaves its last state, not all of them
        record_timing=False,
    )
    try:
        client.execute()
    finally:
        notebook.metadata["language_info"].pop("version", None)  # the notebook is the same on every Python
        out.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / path.name)
        page, _ = HTMLExporter().from_notebook_node(notebook)
        (out / path.name).with_suffix(".html").write_text(page, encoding="utf-8")
    return notebook


def last_line(notebook: NotebookNode) -> str:
    """The last line that any cell printed."""
    printed = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    return "".join(printed).strip().splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the notebook and its page")
    parser.add_argument("--keep", action="store_true", help="store the outputs in the notebook itself too")
    arguments = parser.parse_args()
    try:
        notebook = run(arguments.notebook, arguments.out)
    except CellExecutionError as error:
        print(f"\n{arguments.notebook} failed: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"As far as it came: {arguments.out / arguments.notebook.name}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.keep:
        nbformat.write(notebook, arguments.notebook)
    page = (arguments.out / arguments.notebook.name).with_suffix(".html")
    print(f"{last_line(notebook)} Look at {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
