"""Runs a notebook from top to bottom, showing what it prints as it prints it, and keeps it with all outputs.

    python notebooks/run.py notebooks/S7.ipynb --out out

Writes OUT/NAME.ipynb and OUT/NAME.html, and ends with the last line that the notebook printed. With --keep the
executed notebook also replaces the one it came from: that is how the outputs stored in the repository are made.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode


class LoudClient(NotebookClient):
    """Shows on the terminal what the cells print, progress bars included; Ctrl-C stops the cell, as the stop button."""

    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        # nbclient would end the kernel, and a training could not save where it is.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.interrupt)
        return client

    def interrupt(self) -> None:
        self.interruption = asyncio.ensure_future(self.km.interrupt_kernel())

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


def run(path: Path, out: Path) -> NotebookNode:
    """Executes the notebook at `path` in its own folder; writes it, as far as it came, and its page into `out`.

    Raises:
        CellExecutionError: a cell failed, or was stopped by Ctrl-C; what ran before it is in `out`.
        DeadKernelError: its process died, as where memory runs out; the same.
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
    """The last line that any cell printed; "" if none printed any."""
    printed = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    return "".join(printed).strip().rpartition("\n")[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the notebook and its page")
    parser.add_argument("--keep", action="store_true", help="store the outputs in the notebook itself too")
    arguments = parser.parse_args()
    try:
        notebook = run(arguments.notebook, arguments.out)
    except (CellExecutionError, DeadKernelError) as error:
        stopped = getattr(error, "ename", "") == "KeyboardInterrupt"
        reason = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else error
        print(f"\n{arguments.notebook} {'was stopped' if stopped else f'failed: {reason}'}", file=sys.stderr)
        print(f"As far as it came: {arguments.out / arguments.notebook.name}", file=sys.stderr)
        return 130 if stopped else 1
    except KeyboardInterrupt:
        return 130
    if arguments.keep:
        nbformat.write(notebook, arguments.notebook)
    page = (arguments.out / arguments.notebook.name).with_suffix(".html")
    print(f"{last_line(notebook)} Look at {page}".strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
