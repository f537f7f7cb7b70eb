"""One mirror of utils/download.py, asked for one file: what it answers, or in a few words how it fails, in time.

Every request is made in a thread, so that nothing a server does can hold up the caller. A socket's own time limit
starts anew with every byte: a server that sends its headers byte by byte keeps to it.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy

CONNECT_SECONDS = 10.0  # to reach one mirror
REDIRECTS = 10
CHUNK = 1 << 16  # bytes


class Failed(Exception):
    """One mirror did not deliver; the message says why, in a few words."""


class Unreachable(Failed):
    """No connection to the mirror."""


class TooSlow(Failed):
    """It delivers, and may be taken if no other does."""


class CutOff(Failed):
    """The connection ended early: worth another attempt, from there on."""


class NotContinued(Failed):
    """The mirror is no good for what comes after the part: worth another attempt, from the start."""


def check_reachable(url: str, seconds: float) -> None:
    """Raises `Unreachable` unless `url`, or the proxy on the way, accepts a connection within `seconds`.

    The attempt runs in a thread that may be left behind: a DNS look-up without a network can hang, and has no
    time limit of its own.
    """
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            proxy = select_proxy(url, get_environ_proxies(url))
            target = urlsplit(prepend_scheme_if_needed(proxy, "http") if proxy else url)
            port = target.port or (443 if target.scheme == "https" else 80)
            socket.create_connection((target.hostname, port), timeout=seconds).close()
            outcome.put(None)
        except Exception as error:  # ValueError and requests' own: what $https_proxy holds is no address
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise Unreachable(f"could not connect within {seconds:g} s") from None
    if error:
        raise Unreachable(f"could not connect: {getattr(error, 'strerror', None) or error}") from error


@dataclass
class Pace:
    """Judges a mirror every `seconds`: so many times `slowest` bytes must have arrived by then."""

    seconds: float
    slowest: float
    arrived: int = 0
    since: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds until the next judgement; raises `Failed` if one is due and falls against the mirror."""
        left = self.since + self.seconds - time.monotonic()
        if left > 0:
            return left
        if not self.arrived:
            raise Failed(f"nothing arrived for {self.seconds:g} s")
        if self.arrived < self.slowest * self.seconds:
            raise TooSlow(f"slower than {self.slowest // 1000} kB/s")
        self.since, self.arrived = time.monotonic(), 0
        return self.seconds


class _Session(requests.Session):
    """Follows no redirect by itself: it would first read the redirecting answer's body, however long that is."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Head(NamedTuple):
    """What an answer says before its body."""

    status: int
    headers: Mapping[str, str]  # in any case
    length: int | None  # bytes of the body, if it is said


class Answer:
    """What the server says to one request for the file from byte `offset` on.

    `abandoned` is set by whoever wants no more of it.
    """

    def __init__(self, url: str, offset: int, timeout: float):
        self.timeout = timeout
        self.abandoned = threading.Event()
        self._arriving: queue.Queue = queue.Queue(maxsize=16)
        threading.Thread(target=self._run, args=(url, offset), daemon=True).start()

    def next(self, pace: Pace) -> Head | bytes:
        """The head, then piece after piece of the body, and b"" at its end; or raises `Failed`."""
        while True:
            try:
                thing = self._arriving.get(timeout=pace.left())
            except queue.Empty:
                continue
            if isinstance(thing, Exception):
                raise self._failure(thing) from thing
            return thing

    def _run(self, url: str, offset: int) -> None:
        try:
            with _Session() as session, self._open(session, url, offset) as response:
                self._put(Head(response.status_code, response.headers, response.raw.length_remaining))
                # read1 returns what has arrived and waits for no more, so that the speed of a trickle shows.
                while (piece := response.raw.read1(CHUNK, decode_content=False)) and not self.abandoned.is_set():
                    self._put(piece)
                self._put(b"")
        except Exception as error:
            self._put(error)

    def _put(self, thing: Head | bytes | Exception) -> None:
        while not self.abandoned.is_set():
            with suppress(queue.Full):
                self._arriving.put(thing, timeout=1)
                return

    def _open(self, session: requests.Session, url: str, offset: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        for _ in range(REDIRECTS):
            response = session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, self.timeout))
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
        raise Failed("redirects without end")

    def _failure(self, error: Exception) -> Failed:
        """What an error of the connection says about the mirror."""
        if isinstance(error, Failed):
            return error
        if isinstance(error, requests.exceptions.ProxyError):
            return Unreachable("the proxy refuses to connect")
        if isinstance(error, requests.exceptions.SSLError):
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            return Failed("its TLS certificate is not trusted" if untrusted else "no TLS connection")
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
            return Failed(f"nothing arrived for {self.timeout:g} s")
        if isinstance(error, (requests.ConnectionError, urllib3.exceptions.HTTPError)):
            return CutOff(f"connection lost ({type(error).__name__})")
        return Failed(f"cannot be asked ({type(error).__name__})")
