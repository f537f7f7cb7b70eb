"""One file of known md5 from the first mirror that delivers it: how utils/data.py gets CIFAR-10's archive.

What arrives is written to `<name>.part` beside the destination and renamed once its md5 is right: a file
under its final name is always whole. A later call, or the next mirror, goes on where the `.part` ends.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from utils.errors import InputError

CONNECT_SECONDS = 10.0  # to reach one mirror
OFFLINE_SECONDS = 25.0  # to find that none can be reached, all mirrors together
SLOWEST = 20_000  # bytes per second: below this another mirror is tried, if one is left
ATTEMPTS = 3  # per mirror: it may cut the connection, or turn out not to continue what an earlier one began
CHUNK = 1 << 16  # bytes


class NoNetwork(InputError):
    """No mirror could be connected to."""


class _Failed(Exception):
    """One mirror did not deliver; the message says why, in a few words."""


class _Unreachable(_Failed):
    """No connection to the mirror."""


class _CutOff(_Failed):
    """The connection ended early: worth another attempt, from there on."""


def fetch(
    urls: Sequence[str],
    destination: str | Path,
    md5: str,
    size: int | None = None,
    timeout: float = 15.0,
    progress: bool = True,
) -> Path:
    """The path of the downloaded file: `destination`. One with the right md5 is not downloaded again.

    Args:
        urls: mirrors of one and the same file, the preferred one first.
        destination: where the file goes; folders are made.
        md5: of the whole file, in hexadecimal.
        size: in bytes, if known: tells a wrong file before it has been downloaded.
        timeout: seconds. A transfer is abandoned if nothing arrives for so long, or, while another mirror is
            left, less than `SLOWEST` bytes per second.
        progress: show a bar.

    Raises:
        NoNetwork: no mirror could be connected to; known after `OFFLINE_SECONDS` at most.
        InputError: the mirrors failed, and how each of them did; or the destination cannot be written.
    """
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    download = _Download(part, md5, size, timeout, progress)
    failures: list[tuple[str, _Failed]] = []  # (host, failure)
    try:
        if destination.is_file() and calculate_md5(destination) == md5:
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        for number, url in enumerate(urls, start=1):
            try:
                _check_reachable(url, min(CONNECT_SECONDS, OFFLINE_SECONDS / len(urls)))
                download.complete(url, patient=number == len(urls))
            except _Failed as failure:
                failures.append((urlsplit(url).netloc, failure))
                if progress and number < len(urls):
                    print(f"{urlsplit(url).netloc}: {failure}; trying the next mirror", file=sys.stderr)
            else:
                return part.replace(destination)
    except OSError as error:
        raise InputError(f"cannot write {part} ({error}); free some space, or choose another folder") from error

    reasons = "; ".join(f"{host}: {failure}" for host, failure in failures)
    if all(isinstance(failure, _Unreachable) for _, failure in failures):
        raise NoNetwork(f"no network to download {destination.name} ({reasons})")
    raise InputError(
        f"could not download {destination.name} ({reasons}); run again to go on from there, or download "
        f"{urls[0]} with a browser and put it into ./data or into the folder that $CIFAR10_DIR names"
    )


def _check_reachable(url: str, seconds: float) -> None:
    """Raises `_Unreachable` unless `url`, or the proxy on the way, accepts a connection within `seconds`.

    The attempt runs in a thread that may be left behind: a DNS look-up without a network can hang, and has no
    time limit of its own.
    """
    proxy = select_proxy(url, get_environ_proxies(url))
    target = urlsplit(prepend_scheme_if_needed(proxy, "http") if proxy else url)
    port = target.port or (443 if target.scheme == "https" else 80)
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((target.hostname, port), timeout=seconds).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise _Unreachable(f"could not connect within {seconds:g} s") from None
    if error:
        raise _Unreachable(f"could not connect: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Download:
    """What is the same for all mirrors; see `fetch`."""

    part: Path
    md5: str
    size: int | None
    timeout: float
    progress: bool

    def complete(self, url: str, patient: bool) -> None:
        """Completes the part from one mirror, or raises `_Failed`. A part with a wrong md5 is deleted.

        Args:
            patient: accept any speed, because no mirror is left after this one.
        """
        failure = None
        for _ in range(ATTEMPTS):
            try:
                continued = self._request(url, patient)
            except _CutOff as cut:
                failure = cut
                continue
            got = calculate_md5(self.part)
            if got == self.md5:
                return
            self.part.unlink()
            failure = _Failed(f"wrong md5 {got}, expected {self.md5}")
            if not continued:
                break  # all of it came from this mirror, so it would come again
        raise failure

    def _request(self, url: str, patient: bool) -> bool:
        """Writes the part to its end with one request. Returns whether it continued an earlier one.

        Raises:
            _CutOff: the connection ended early.
            _Failed: the mirror answers something else than the file, or too slowly.
        """
        offset = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, self.timeout)) as response:
                if response.status_code == 416:  # nothing comes after the part's end: it may be whole
                    return True
                if response.status_code not in (200, 206):
                    raise _Failed(f"HTTP status {response.status_code}")
                if "html" in response.headers.get("Content-Type", ""):
                    raise _Failed("an HTML page instead of the file")
                if response.status_code == 200:
                    offset = 0  # the server ignores Range and sends all of it
                length = response.headers.get("Content-Length")
                total = offset + int(length) if length else self.size
                if self.size not in (None, total):
                    raise _Failed(f"{total:,} bytes instead of {self.size:,}")
                self._write(response.raw, offset, total, patient)
                return offset > 0
        except requests.exceptions.ProxyError as error:
            raise _Unreachable("the proxy refuses to connect") from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise _Failed(f"nothing arrived for {self.timeout:g} s") from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            raise _CutOff(f"connection lost ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise _Failed(type(error).__name__) from error

    def _write(self, body: urllib3.BaseHTTPResponse, offset: int, total: int | None, patient: bool) -> None:
        """Copies `body` to the part from `offset` on, with an eye on its speed and its length."""
        bar = tqdm(
            desc=self.part.stem,
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
            file=sys.stdout,
            disable=not self.progress,
        )
        with self.part.open("ab" if offset else "wb") as file, bar:
            since, arrived = time.monotonic(), 0
            # read1 returns what has arrived and waits for no more, so that the speed of a trickle shows.
            while chunk := body.read1(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
                arrived += len(chunk)
                if total is not None and file.tell() > total:
                    raise _Failed(f"more than {total:,} bytes")
                elapsed = time.monotonic() - since
                if elapsed >= self.timeout:
                    if arrived / elapsed < SLOWEST and not patient:
                        raise _Failed(f"slower than {SLOWEST // 1000} kB/s")
                    since, arrived = time.monotonic(), 0
            if total is not None and file.tell() < total:
                raise _CutOff(f"cut off after {file.tell():,} of {total:,} bytes")
