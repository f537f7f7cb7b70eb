"""Opens files that are traps: is each of them refused, before it runs code, writes anywhere or eats the memory?

    python benchmarks/hostile_files.py                  # a few minutes
    python benchmarks/hostile_files.py Parquet pipe     # only rows with one of these words

Every file is opened in a process of its own, which gets 60 seconds and, on top of the imported packages, 6 GB of
memory; "peak MB" is what it took of that. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from benchmarks import traps
from benchmarks.traps import Trap
from utils.auditing.result_rows import Record
from utils.checkpoint import load_model
from utils.data import load_cifar10
from utils.errors import InputError
from utils.predict import load_picture
from utils.tables import as_table

MEMORY = 6 << 30  # bytes of addresses, besides those of the packages
SECONDS = 60
REFUSED = "refused"


class Row(NamedTuple):
    """One trap: its maker, the name it is opened by, and what opens it."""

    name: str
    file: str
    make: Trap
    open: Callable[[Path], object]


class Outcome(NamedTuple):
    what: str  # REFUSED, or what happened instead
    detail: str
    seconds: float
    megabytes: float


def open_data(path: Path) -> None:
    load_cifar10(path, cache=path.parent.parent / "cache", verbose=False)


def open_forged(path: Path) -> None:
    with mock.patch.object(CIFAR10, "tgz_md5", calculate_md5(path)):
        open_data(path)


def rows() -> list[Row]:
    kinds = (
        ("checkpoint", traps.CHECKPOINTS, load_model),
        ("data", traps.DATA, open_data),
        ("data", traps.FORGED, open_forged),
        ("picture", traps.PICTURES, load_picture),
        ("record", traps.RECORDS, Record),
    )
    return [Row(f"{kind}: {name}", file, make, opens) for kind, table, opens in kinds for name, file, make in table]


def outcome_of(row: Row) -> Outcome:
    """Makes the file in a folder of its own, opens it, and looks around for what has changed."""
    around = Path(tempfile.mkdtemp())
    path = around / "given" / row.file
    path.parent.mkdir()
    (around / "cache").mkdir()
    try:
        made = in_child(lambda: row.make(path), around, limited=False)
        if made.what != "opened":
            return made._replace(what="NOT MADE")
        before = contents(around)
        outcome = in_child(lambda: row.open(path), around, limited=True)
        changed = sorted(before ^ contents(around))
        if traps.canary_of(path).exists():
            return outcome._replace(what="RAN CODE")
        return outcome._replace(what="WROTE", detail=str(changed[0])) if changed else outcome
    finally:
        shutil.rmtree(around)


def contents(folder: Path) -> set[tuple]:
    """Everything in the folder, but for the cache, whose entries may come and go."""
    found = (path for path in folder.rglob("*") if "cache" not in path.parts)
    return {(str(path), path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_mode) for path in found}


def in_child(action: Callable[[], object], folder: Path, limited: bool) -> Outcome:
    """How `action` ends in a process of its own: a fork, since to import torch anew takes seconds."""
    read, write = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.chdir(folder)
        os.write(write, f"{peak_kilobytes()}\n".encode())
        os.write(write, json.dumps(run(action, limited)).encode())
        os._exit(0)
    os.close(write)
    done, seconds = 0, 0.0
    while not done:
        time.sleep(0.005)
        done, status, usage = os.wait4(child, os.WNOHANG)
        seconds = time.monotonic() - started
        if limited and not done and seconds > SECONDS:
            os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as pipe:
        before, report = int(pipe.readline()), pipe.read()
    if not report:
        what = "TOOK TOO LONG" if seconds > SECONDS else f"ENDED BY SIGNAL {-os.waitstatus_to_exitcode(status)}"
        report = json.dumps((what, ""))
    return Outcome(*json.loads(report), seconds, (usage.ru_maxrss - before) / 1000)


def peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(action: Callable[[], object], limited: bool) -> tuple[str, str]:
    """What happened, and the error."""
    if limited:
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY,) * 2)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            action()
    except InputError as error:
        return (REFUSED if "\n" not in str(error) else "REFUSED IN SEVERAL LINES"), str(error)[:1000]
    except BaseException as error:
        return "CRASHED", f"{type(error).__name__}: {error}"[:1000]
    return "opened", ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only rows whose name has one of these words")
    words = parser.parse_args(arguments).words
    torch.set_num_threads(1)  # more threads do not survive a fork
    table = [("file", "expected", "what happened", "right", "seconds", "peak MB", "detail")]
    outcomes = []
    chosen = [row for row in rows() if not words or any(word in row.name for word in words)]
    if not chosen:
        parser.error(f"no row has {' or '.join(words)} in its name")
    for row in chosen:
        outcome = outcome_of(row)
        outcomes.append(outcome)
        right = "yes" if outcome.what == REFUSED else "NO"
        numbers = f"{outcome.seconds:.1f}", f"{outcome.megabytes:.0f}"
        place = outcome.detail.replace(f"{tempfile.gettempdir()}/", "")
        table.append((row.name, REFUSED, outcome.what, right, *numbers, place[:100]))
    print(as_table(table))
    refused = sum(outcome.what == REFUSED for outcome in outcomes)
    harmful = sum(outcome.what in ("RAN CODE", "WROTE") for outcome in outcomes)
    largest, slowest = (max(getattr(outcome, field) for outcome in outcomes) for field in ("megabytes", "seconds"))
    print(f"at most {largest:.0f} MB and {slowest:.1f} s")
    print(f"{refused} of {len(outcomes)} refused, {harmful or 'none'} ran code or wrote outside")
    return 0 if refused == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
