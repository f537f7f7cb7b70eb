"""Downloads from servers that misbehave: is the file whole, the next mirror taken, or one clear error given, in time?

    python benchmarks/bad_mirrors.py                # about two minutes; no network is needed
    python benchmarks/bad_mirrors.py redirect cut   # only rows with one of these words

Prints a row for each misbehaviour, met alone and with a good mirror behind it. After every error the same download is
tried once more from a good mirror: it must then be whole, whatever the first one left.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from filelock import FileLock
from tqdm import tqdm

from benchmarks import misbehaving as server
from benchmarks.misbehaving import BODY, MD5, OTHER, Behaviour, refusing_url, serving
from utils import download_mirror
from utils.download import fetch
from utils.errors import InputError
from utils.tables import as_table

TIMEOUT = 1.5  # seconds, of every download here
MORE = 5  # seconds that a download may take besides
WHOLE, NEXT, ERROR = "file whole", "next mirror", "clear error"


class Outcome(NamedTuple):
    what: str  # WHOLE, NEXT, ERROR, or what else happened
    detail: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """One download: `run`, given an empty folder, says how it went."""

    name: str
    expected: str
    run: Callable[[Path], Outcome]
    timeouts: int = 1  # that it may wait for

    @property
    def allowed(self) -> float:
        """Seconds."""
        return self.timeouts * TIMEOUT + MORE


def attempt(folder: Path, urls: list[str]) -> Outcome:
    """How a download into `folder` goes. It runs in a thread, that one which never ends does not stop the program."""
    outcome: list[Outcome] = []
    started = time.monotonic()

    def download() -> None:
        try:
            path = fetch(urls, folder / "file.bin", MD5, len(BODY), timeout=TIMEOUT, progress=False)
            what, detail = (WHOLE, "") if path.read_bytes() == BODY else ("WRONG FILE", "")
        except InputError as error:
            what, detail = judged(str(error), folder)
        except BaseException as error:
            what, detail = "CRASH", repr(error)
        outcome.append(Outcome(what, detail, time.monotonic() - started))

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(4 * TIMEOUT + MORE)
    return outcome[0] if outcome else Outcome("HANGS", "", time.monotonic() - started)


def judged(message: str, folder: Path) -> tuple[str, str]:
    """Whether an error is clear (one line that says what to do), and the reason in it."""
    if (folder / "file.bin").is_file():
        return "ERROR, BUT LEFT A FILE", message
    if "\n" in message or not re.search(r"with a browser|no network|free some space|remove it|run again", message):
        return "UNCLEAR ERROR", message
    reason = re.search(r"\(([^()]*(?:\([^()]*\))?[^()]*)\)", message)
    return ERROR, re.sub(r"127\.0\.0\.1:\d+: ", "", reason[1] if reason else message)


def tried_again(folder: Path, outcome: Outcome) -> Outcome:
    """The same outcome, if a good mirror then completes the download."""
    if outcome.what != ERROR:
        return outcome
    with serving(server.ranged) as good:
        later = attempt(folder, [good.url])
    return outcome if later.what == WHOLE else Outcome("BLOCKED FOR GOOD", later.detail, outcome.seconds)


def met(*behaviours: Behaviour, part: bytes = b"", then_good: bool = False) -> Callable[[Path], Outcome]:
    """A download from a server with these behaviours; `part` lies there from before."""

    def run(folder: Path) -> Outcome:
        if part:
            (folder / "file.bin.part").write_bytes(part)
        with serving(*behaviours) as bad, serving(server.ranged) as good:
            outcome = attempt(folder, [bad.url, good.url] if then_good else [bad.url])
            if outcome.what == WHOLE and good.ranges:
                outcome = outcome._replace(what=NEXT, detail=f"asked for {good.ranges[0] or 'all of it'}")
            return tried_again(folder, outcome)

    return run


# Misbehaviours of one server: name, its behaviours, what is expected if there is no other mirror.

REST = {"part": BODY[:100_000]}  # of an earlier download
MIRRORS: list[tuple[str, tuple[Behaviour, ...], str, dict]] = [
    ("well-behaved", (server.ranged,), WHOLE, {}),
    ("well-behaved, its length not said", (server.chunked,), WHOLE, {}),
    ("cut after 1 byte, then well", (server.cut_after(1), server.ranged), WHOLE, {}),
    ("cut after 65,536 bytes, then well", (server.cut_after(65_536), server.ranged), WHOLE, {}),
    ("cut before the last byte, then well", (server.cut_after(299_999), server.ranged), WHOLE, {}),
    ("cut every 40,000 bytes", (server.cut_after(40_000),), WHOLE, {}),
    ("cut every 1,000 bytes", (server.cut_after(1000),), ERROR, {}),
    ("cut after 100,000 bytes, always from the start", (server.cut_without_a_length,), ERROR, {}),
    ("cut within a chunk", (server.cut_chunk,), ERROR, {}),
    ("closes without a word", (server.close_at_once,), ERROR, {}),
    ("resets the connection", (server.reset,), ERROR, {}),
    ("resets it twice, then well", (server.reset, server.reset, server.ranged), WHOLE, {}),
    ("resets it in the middle", (server.reset_in_the_middle, server.ranged), WHOLE, {}),
    ("never answers", (server.silence,), ERROR, {}),
    ("stalls in the middle", (server.stall,), ERROR, {}),
    ("1 kB/s", (server.trickle,), ERROR, {}),
    ("headers come byte by byte", (server.slow_headers,), ERROR, {}),
    ("headers never end", (server.endless_headers,), ERROR, {}),
    ("a header never ends", (server.gigantic_header,), ERROR, {}),
    ("'100 Continue' for ever", (server.endless_continue,), ERROR, {}),
    ("body never ends", (server.endless_body,), ERROR, {}),
    ("chunks never end", (server.endless_chunks,), ERROR, {}),
    ("a chunk's length comes byte by byte", (server.slow_chunk_size,), ERROR, {}),
    ("trailers never end", (server.endless_trailers,), ERROR, {}),
    ("404", (server.missing,), ERROR, {}),
    ("403", (server.status(403),), ERROR, {}),
    ("500", (server.status(500),), ERROR, {}),
    ("204, no content", (server.status(204),), ERROR, {}),
    ("429 with Retry-After", (server.status(429, Retry_After=3600),), ERROR, {}),
    ("503 with Retry-After", (server.status(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),), ERROR, {}),
    ("an HTML page", (server.html,), ERROR, {}),
    ("an HTML page that says it is the archive", (server.html_in_disguise,), ERROR, {}),
    ("another file of the same length", (server.wrong,), ERROR, {}),
    ("an empty file", (server.empty,), ERROR, {}),
    ("one byte too few", (server.too_short,), ERROR, {}),
    ("one byte too many", (server.too_long,), ERROR, {}),
    ("says less than it sends", (server.says_less,), ERROR, {}),
    ("says more than it sends", (server.says_more,), ERROR, {}),
    ("Content-Length: many", (server.said_length("many"),), WHOLE, {}),
    ("Content-Length: -1", (server.said_length("-1"),), WHOLE, {}),
    ("Content-Length of 5,000 digits", (server.said_length("9" * 5000),), WHOLE, {}),
    ("two lengths", (server.two_lengths,), ERROR, {}),
    ("compresses it", (server.zipped,), ERROR, {}),
    ("10 GB in 10 MB of gzip", (server.zip_bomb,), ERROR, {}),
    ("garbage instead of HTTP", (server.garbage,), ERROR, {}),
    ("ignores Range", (server.whole,), WHOLE, REST),
    ("continues from another place", (server.wrong_range,), WHOLE, REST),
    ("416 to a Range that it has", (server.nothing_more_for_a_range,), WHOLE, REST),
    ("416 to everything", (server.nothing_more,), ERROR, REST),
    ("416 to a request without Range", (server.nothing_more,), ERROR, {}),
    ("less than the Range", (server.less_than_the_range,), ERROR, REST),
    ("all of it, called the rest", (server.whole_as_a_range,), WHOLE, REST),
    ("a part of another file lies there", (server.ranged,), WHOLE, {"part": OTHER[:100_000]}),
    ("a part of the right length, but wrong", (server.ranged,), WHOLE, {"part": OTHER}),
    ("a part longer than the file", (server.ranged,), WHOLE, {"part": BODY + b"z"}),
    ("a part that is whole, nothing else can be had", (server.missing,), WHOLE, {"part": BODY}),
    ("moved", (server.redirect_once,), WHOLE, {}),
    ("redirects to itself", (server.redirect("/file.bin"),), ERROR, {}),
    ("redirects in a circle", (server.redirect_in_a_circle,), ERROR, {}),
    ("redirects to file:///etc/passwd", (server.redirect("file:///etc/passwd"),), ERROR, {}),
    ("redirects to ftp://", (server.redirect("ftp://127.0.0.1/file.bin"),), ERROR, {}),
    ("redirects to no address", (server.redirect("http://[::1:z/"),), ERROR, {}),
    ("redirects to a dead host", (server.redirect(refusing_url()),), ERROR, {}),
    ("redirects, with a body that never ends", (server.redirect_with_an_endless_body,), ERROR, {}),
]


# What goes wrong elsewhere: with the network, the proxy, the folder, or other processes.


def no_mirror_answers(folder: Path) -> Outcome:
    return tried_again(folder, attempt(folder, [refusing_url(), refusing_url()]))


def packets_are_lost(folder: Path) -> Outcome:
    """A host whose queue of connections is full drops packets, as a firewall does."""
    with socket.socket() as host, ExitStack() as stack, mock.patch.object(download_mirror, "CONNECT_SECONDS", TIMEOUT):
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(host.getsockname())
        return tried_again(folder, attempt(folder, [f"http://127.0.0.1:{host.getsockname()[1]}/file.bin"]))


def plain_http_at_https(folder: Path) -> Outcome:
    with serving(server.whole) as bad:
        return tried_again(folder, attempt(folder, [bad.url.replace("http:", "https:")]))


def self_signed(folder: Path) -> Outcome:
    certificate = folder / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout {0} -out {0}.crt"
    subprocess.run(command.format(certificate).split(), check=True, capture_output=True)
    with certificate.open("a") as file:
        file.write(Path(f"{certificate}.crt").read_text())
    with serving(server.whole, certificate=certificate) as bad:
        return tried_again(folder, attempt(folder, [bad.url]))


@contextmanager
def proxy(address: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, dict.fromkeys(("https_proxy", "HTTPS_PROXY"), address)):
        os.environ.pop("NO_PROXY", None)
        yield


def proxied(*behaviours: Behaviour, address: str = "") -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        with serving(*behaviours) as bad, proxy(address or bad.url.partition("/file")[0]):
            outcome = attempt(folder, ["https://cifar.invalid/file.bin"])
        return tried_again(folder, outcome)

    return run


def disk_full(folder: Path) -> Outcome:
    """Room for a third of the file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with serving(server.ranged) as good:
            outcome = attempt(folder, [good.url])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return tried_again(folder, outcome)


def in_the_way(make: Callable[[Path], None], name: str) -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        make(folder / name)
        with serving(server.ranged) as good:
            return attempt(folder, [good.url])

    return run


def another_stands_still(folder: Path) -> Outcome:
    with serving(server.ranged) as good, FileLock(folder / "file.bin.lock"):
        outcome = attempt(folder, [good.url])
    return tried_again(folder, outcome)


def in_a_process(parent, url: str, folder: Path) -> None:
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed leaves behind
    parent.send("ready")
    parent.recv()
    parent.send(attempt(folder, [url]))


@contextmanager
def processes(count: int, url: str, folder: Path) -> Iterator[list[tuple]]:
    """(process, the connection that its outcome comes from) of each; held back until all of them are ready."""
    fresh = multiprocessing.get_context("spawn")  # a fork would copy the server's threads half-way
    started = []
    for _ in range(count):
        here, there = fresh.Pipe()
        process = fresh.Process(target=in_a_process, args=(there, url, folder), daemon=True)
        process.start()
        started.append((process, here))
    for _, connection in started:
        connection.recv()
    for _, connection in started:
        connection.send("go")
    yield started
    for process, _ in started:
        process.join(MORE)


def at_10_pieces_a_second(request) -> None:
    server.head(request, Content_Length=len(BODY))
    server.drip(request, BODY, size=15_000)


def three_processes(folder: Path) -> Outcome:
    with serving(at_10_pieces_a_second) as slow, processes(3, slow.url, folder) as started:
        found = [connection.recv() for _, connection in started]
    worst = max(found, key=lambda outcome: (outcome.what != WHOLE, outcome.seconds))
    if worst.what == WHOLE and slow.ranges != [None]:
        return worst._replace(what="FETCHED MORE THAN ONCE", detail=str(slow.ranges))
    return worst._replace(detail="one of them fetched it, the others waited")


def killed(folder: Path) -> Outcome:
    """SIGKILL in the middle; a later call goes on from there."""
    with serving(at_10_pieces_a_second, server.ranged) as mirror_, processes(1, mirror_.url, folder) as [(process, _)]:
        part, patience = folder / "file.bin.part", time.monotonic() + MORE
        while not (part.exists() and part.stat().st_size) and time.monotonic() < patience:
            time.sleep(0.01)
        process.kill()
        process.join()
        outcome = attempt(folder, [mirror_.url])
    return outcome if mirror_.ranges[1:] != [None] else outcome._replace(what="STARTED ANEW")


ELSEWHERE = [
    Row("no mirror can be connected to", ERROR, no_mirror_answers),
    Row("packets are lost", ERROR, packets_are_lost),
    Row("plain HTTP where TLS is expected", ERROR, plain_http_at_https),
    Row("a certificate that nobody signed", ERROR, self_signed),
    Row("the proxy is closed", ERROR, proxied(server.missing, address=refusing_url().partition("/file")[0])),
    Row("the proxy says 407", ERROR, proxied(server.status(407))),
    Row("the proxy says nothing", ERROR, proxied(server.silence)),
    Row("the proxy's address is none", ERROR, proxied(server.missing, address="http://localhost:port")),
    Row("the disk is full", ERROR, disk_full),
    Row("a folder has the name of the part", ERROR, in_the_way(Path.mkdir, "file.bin.part")),
    Row("a pipe has the name of the part", ERROR, in_the_way(os.mkfifo, "file.bin.part")),
    Row("a folder has the name of the file", ERROR, in_the_way(Path.mkdir, "file.bin")),
    Row("another process has the lock, and stands still", ERROR, another_stands_still, timeouts=4),
    Row("three processes fetch it at the same time", WHOLE, three_processes),
    Row("the process is killed in the middle", WHOLE, killed),
]


def rows() -> list[Row]:
    found = []
    for name, behaviours, expected, options in MIRRORS:
        found.append(Row(name, expected, met(*behaviours, **options)))
        if expected == ERROR:
            found.append(Row(f"{name}, then a good mirror", NEXT, met(*behaviours, **options, then_good=True)))
    return found + ELSEWHERE


def outcome_of(row: Row) -> Outcome:
    """Runs one row in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    try:
        with mock.patch.dict(os.environ, {"NO_PROXY": "127.0.0.1"}):
            return row.run(folder)
    finally:
        shutil.rmtree(folder)


def is_right(row: Row, outcome: Outcome) -> bool:
    return outcome.what == row.expected and outcome.seconds <= row.allowed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only rows whose name has one of these words")
    words = parser.parse_args(arguments).words
    table = [("misbehaviour", "expected", "what happened", "right", "seconds", "allowed", "detail")]
    slowest, right = 0.0, 0
    chosen = [row for row in rows() if not words or any(word in row.name for word in words)]
    if not chosen:
        parser.error(f"no row has {' or '.join(words)} in its name")
    for row in chosen:
        outcome = outcome_of(row)
        good = is_right(row, outcome)
        right += good
        slowest = max(slowest, outcome.seconds)
        seconds = f"{outcome.seconds:.1f}"
        table.append(
            (
                row.name,
                row.expected,
                outcome.what,
                "yes" if good else "NO",
                seconds,
                f"{row.allowed:g}",
                outcome.detail[:70],
            )
        )
    print(as_table(table))
    print(f"{right} of {len(chosen)} right, slowest {slowest:.1f} s")
    return 0 if right == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
