"""A web server on loopback that misbehaves on purpose: for benchmarks/bad_mirrors.py and tests/test_download.py.

A behaviour is a function that answers one request, given its `BaseHTTPRequestHandler`. All of them are meant to
deliver `BODY`, and most do not.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
OTHER = bytes(300_000)  # as long as BODY, but with another md5
HTML = b"<html>Please log in to the network</html>"

Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        behaviours = self.server.behaviours
        with suppress(OSError):  # the client has gone
            behaviours[min(len(self.server.ranges), len(behaviours)) - 1](self)

    do_CONNECT = do_GET  # as a proxy is asked

    def log_message(self, *_) -> None:
        pass


class Mirror(ThreadingHTTPServer):
    """Answers its nth request with the nth behaviour, later ones with the last; keeps the Range header of each."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *behaviours: Behaviour, certificate: Path | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.ranges, self.ended = behaviours, [], threading.Event()
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_port}/file.bin?download=1"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_) -> None:
        pass


@contextmanager
def serving(*behaviours: Behaviour, certificate: Path | None = None) -> Iterator[Mirror]:
    """The running server. `certificate` is a PEM file with a key, for https."""
    with Mirror(*behaviours, certificate=certificate) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()


def refusing_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"


# What servers should do


def answer(request, status=200, body=BODY, length=None, kind="application/gzip", **headers) -> None:
    """An ordinary answer; a header's name is written with _ for -."""
    head(request, status, kind, Content_Length=len(body) if length is None else length, **headers)
    request.wfile.write(body)


def head(request, status=200, kind="application/gzip", **headers) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()


def start_of(request) -> int:
    return int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def whole(request):
    """All of the file, whatever Range was asked for."""
    answer(request)


def ranged(request):
    start = start_of(request)
    if start >= len(BODY):
        answer(request, 416, b"")
    elif start:
        answer(request, 206, BODY[start:], Content_Range=f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
    else:
        answer(request)


def chunked(request):
    """All of the file without saying how long it is."""
    head(request, Transfer_Encoding="chunked")
    for start in range(0, len(BODY), 10_000):
        request.wfile.write(b"2710\r\n" + BODY[start : start + 10_000] + b"\r\n")
    request.wfile.write(b"0\r\n\r\n")


# Connections that end too soon


def cut_after(count: int) -> Behaviour:
    """Promises what was asked for and closes the connection `count` bytes later."""

    def cut_short(request):
        start = start_of(request)
        status, headers = (206, {"Content_Range": f"bytes {start}-299999/300000"}) if start else (200, {})
        answer(request, status, BODY[start : start + count], length=len(BODY) - start, **headers)

    return cut_short


cut = cut_after(100_000)


def cut_without_a_length(request):
    head(request)
    request.wfile.write(BODY[:100_000])


def cut_chunk(request):
    head(request, Transfer_Encoding="chunked")
    request.wfile.write(b"20000\r\n" + BODY[:100_000])


def close_at_once(request):
    pass


def reset(request):
    """Ends the connection as a crash does (RST), before anything was sent."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def reset_in_the_middle(request):
    cut(request)
    request.wfile.flush()
    reset(request)


# Connections that do not end


def silence(request):
    request.server.ended.wait(30)


def stall(request):
    cut(request)
    silence(request)


def trickle(request):
    """The right file at 1 kB/s."""
    head(request, Content_Length=len(BODY))
    drip(request, BODY)


def drip(request, content: bytes, size=50) -> None:
    for start in range(0, len(content), size):
        request.wfile.write(content[start : start + size])
        if request.server.ended.wait(0.05):
            return


def repeat(request, piece: bytes) -> None:
    while not request.server.ended.is_set():
        request.wfile.write(piece)


def slow_headers(request):
    drip(request, b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nX-Slow: " + b"z" * 10_000 + b"\r\n\r\n", size=1)


def endless_headers(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    repeat(request, b"X-More: yes\r\n")


def gigantic_header(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Large: ")
    repeat(request, b"z" * 10_000)


def endless_continue(request):
    """Announces an answer for ever, and gives none."""
    repeat(request, b"HTTP/1.1 100 Continue\r\n\r\n")


def endless_body(request):
    head(request)
    repeat(request, BODY)


def endless_chunks(request):
    head(request, Transfer_Encoding="chunked")
    repeat(request, b"2710\r\n" + bytes(10_000) + b"\r\n")


def slow_chunk_size(request):
    """The line with a chunk's length comes byte by byte: bytes of the file never do."""
    head(request, Transfer_Encoding="chunked")
    drip(request, b"1;" + b"z" * 10_000, size=1)


def endless_trailers(request):
    head(request, Transfer_Encoding="chunked")
    request.wfile.write(b"10\r\n" + bytes(16) + b"\r\n0\r\n")
    repeat(request, b"X-More: yes\r\n")


# Answers that are something else


def status(code: int, **headers) -> Behaviour:
    return lambda request: answer(request, code, b"", **headers)


missing = status(404)


def wrong(request):
    answer(request, body=OTHER)


def html(request):
    answer(request, body=HTML, kind="text/html; charset=utf-8")


def html_in_disguise(request):
    answer(request, body=HTML)


def empty(request):
    answer(request, body=b"")


def garbage(request):
    request.wfile.write(OTHER)


def too_short(request):
    answer(request, body=BODY[:-1])


def too_long(request):
    answer(request, body=BODY + b"z")


def says_less(request):
    answer(request, length=100_000)


def says_more(request):
    answer(request, length=400_000)


def said_length(text: str) -> Behaviour:
    return lambda request: answer(request, length=text)


def two_lengths(request):
    head(request, Content_Length="300000\r\nContent-Length: 5")
    request.wfile.write(BODY)


def zipped(request):
    """Compressed, although `identity` was asked for."""
    body = gzip.compress(BODY)
    answer(request, body=body, length=len(body), Content_Encoding="gzip")


def zip_bomb(request):
    """10 GB in 10 MB, without a length."""
    head(request, Content_Encoding="gzip")
    for _ in range(1000):
        request.wfile.write(BOMB)


BOMB = gzip.compress(bytes(10_000_000))


# Ranges


def wrong_range(request):
    """Continues from another place than asked for."""
    start = start_of(request)
    if start:
        answer(request, 206, BODY[start - 5 :], Content_Range=f"bytes {start - 5}-{len(BODY) - 1}/{len(BODY)}")
    else:
        answer(request)


def nothing_more(request):
    """416 to whatever is asked for."""
    answer(request, 416, b"", Content_Range="bytes */300000")


def nothing_more_for_a_range(request):
    (nothing_more if start_of(request) else whole)(request)


def less_than_the_range(request):
    start = start_of(request)
    answer(request, 206, BODY[start : start + 1000], Content_Range=f"bytes {start}-{start + 999}/{len(BODY)}")


def whole_as_a_range(request):
    """All of the file, called the rest of it."""
    answer(request, 206 if start_of(request) else 200)


# Redirects


def redirect(target: str) -> Behaviour:
    return lambda request: answer(request, 302, b"", Location=target)


def redirect_in_a_circle(request):
    answer(request, 302, b"", Location="/again" if request.path.startswith("/file") else "/file.bin")


def redirect_once(request):
    if request.path == "/moved":
        ranged(request)
    else:
        answer(request, 301, b"moved", Location="/moved")


def redirect_with_an_endless_body(request):
    head(request, 302, Location="/again")
    repeat(request, BODY)
