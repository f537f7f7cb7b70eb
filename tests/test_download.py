"""utils/download.py against loopback servers that misbehave in every way seen in the wild."""

import hashlib
import random
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from utils import download
from utils.download import NoNetwork, fetch
from utils.errors import InputError

BODY = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
OTHER = bytes(300_000)  # as long as BODY, but with another md5
HTML = b"<html>Please log in to the network</html>"
STALLED = threading.Event()  # never set: what waits for it waits for its time limit


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def mirror():
    """Starts a server that answers its nth request with the nth behaviour given, later ones with the last."""
    servers = []

    def start(*behaviours):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.ranges.append(self.headers["Range"])
                behaviours[min(len(self.server.ranges), len(behaviours)) - 1](self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.ranges = []  # the Range header of each request
        server.url = f"http://127.0.0.1:{server.server_port}/file.bin?download=1"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(request, status=200, body=BODY, length=None, kind="application/gzip"):
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


def whole(request):
    """All of the file, whatever Range was asked for."""
    answer(request)


def ranged(request):
    start = int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if start >= len(BODY):
        answer(request, 416, b"")
    else:
        answer(request, 206 if start else 200, BODY[start:])


def cut(request):
    """Promises the whole file and closes the connection after 100,000 bytes."""
    answer(request, body=BODY[:100_000], length=len(BODY))


def cut_without_a_length(request):
    request.send_response(200)
    request.end_headers()
    request.wfile.write(BODY[:100_000])


def wrong(request):
    answer(request, body=OTHER)


def html(request):
    answer(request, body=HTML, kind="text/html; charset=utf-8")


def html_in_disguise(request):
    answer(request, body=HTML)


def missing(request):
    answer(request, 404, b"")


def stall(request):
    cut(request)
    STALLED.wait(2)


def silence(request):
    STALLED.wait(2)


def trickle(request):
    """2 kB/s."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    for start in range(0, 1000, 100):
        request.wfile.write(BODY[start : start + 100])
        STALLED.wait(0.05)


def get(folder, *servers, **options):
    options = {"size": len(BODY), "timeout": 0.5, "progress": False} | options
    return fetch([server.url for server in servers], folder / "file.bin", options.pop("md5", MD5), **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_arrives_under_its_name_and_nothing_else_does(tmp_path, mirror):
    path = get(tmp_path / "new" / "folder", mirror(whole))
    assert path.read_bytes() == BODY
    assert names(path.parent) == ["file.bin"]


def test_a_file_with_the_right_md5_is_not_downloaded_again(tmp_path, mirror):
    server = mirror(whole)
    assert get(tmp_path, server) == get(tmp_path, server)
    assert server.ranges == [None]


def test_a_file_with_a_wrong_md5_is_replaced(tmp_path, mirror):
    (tmp_path / "file.bin").write_bytes(OTHER)
    assert get(tmp_path, mirror(whole)).read_bytes() == BODY


def test_a_transfer_cut_in_the_middle_is_resumed_by_the_same_mirror(tmp_path, mirror):
    server = mirror(cut, ranged)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-"]
    assert names(tmp_path) == ["file.bin"]


def test_what_one_mirror_began_another_completes(tmp_path, mirror):
    first, second = mirror(cut, missing), mirror(ranged)
    assert get(tmp_path, first, second).read_bytes() == BODY
    assert second.ranges == ["bytes=100000-"]


def test_what_one_call_began_a_later_call_completes(tmp_path, mirror):
    with pytest.raises(InputError, match="cut off|connection lost"):
        get(tmp_path, mirror(cut))
    assert names(tmp_path) == ["file.bin.part"]
    server = mirror(ranged)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == ["bytes=100000-"]


def test_a_cut_is_noticed_without_a_content_length(tmp_path, mirror):
    with pytest.raises(InputError, match="cut off after 100,000 of 300,000 bytes"):
        get(tmp_path, mirror(cut_without_a_length))


def test_a_server_that_ignores_range_starts_over(tmp_path, mirror):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    server = mirror(whole)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == ["bytes=1000-"]


def test_a_part_that_is_whole_already_is_only_renamed(tmp_path, mirror):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    assert get(tmp_path, mirror(ranged)).read_bytes() == BODY


@pytest.mark.parametrize("length", [1000, 300_000, 400_000])
def test_a_resumed_file_with_a_wrong_md5_is_fetched_from_scratch(tmp_path, mirror, length):
    (tmp_path / "file.bin.part").write_bytes(bytes(length))
    server = mirror(ranged)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == [f"bytes={length}-", None]


@pytest.mark.parametrize("bad", [wrong, html, html_in_disguise, missing, cut, stall, silence])
def test_after_a_bad_mirror_comes_the_next(tmp_path, mirror, bad):
    assert get(tmp_path, mirror(bad), mirror(ranged)).read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    ("bad", "reason", "left"),
    [
        (wrong, f"wrong md5 {hashlib.md5(OTHER).hexdigest()}, expected {MD5}", []),
        (html, "an HTML page instead of the file", []),
        (html_in_disguise, "41 bytes instead of 300,000", []),
        (missing, "HTTP status 404", []),
        (silence, "nothing arrived for 0.5 s", []),
        (stall, "nothing arrived for 0.5 s", ["file.bin.part"]),
    ],
)
def test_the_failure_of_the_last_mirror_is_named_in_one_line(tmp_path, mirror, bad, reason, left):
    server = mirror(bad)
    with pytest.raises(InputError) as caught:
        get(tmp_path, server)
    message = str(caught.value)
    assert f"(127.0.0.1:{server.server_port}: {reason})" in message
    assert "CIFAR10_DIR" in message and server.url in message and "\n" not in message
    assert not isinstance(caught.value, NoNetwork)
    assert names(tmp_path) == left


def test_an_html_page_does_not_cost_the_part(tmp_path, mirror):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    with pytest.raises(InputError):
        get(tmp_path, mirror(html))
    assert (tmp_path / "file.bin.part").read_bytes() == BODY[:1000]


def test_a_wrong_file_is_told_by_its_md5_where_the_size_is_not_known(tmp_path, mirror):
    with pytest.raises(InputError, match="wrong md5"):
        get(tmp_path, mirror(html_in_disguise), size=None)
    assert names(tmp_path) == []


def test_a_trickle_is_abandoned_while_another_mirror_is_left(tmp_path, mirror):
    slow, fast = mirror(trickle), mirror(lambda request: answer(request, body=BODY[:1000]))
    get(tmp_path, slow, fast, size=1000, md5=hashlib.md5(BODY[:1000]).hexdigest(), timeout=0.2)
    assert len(fast.ranges) == 1


def test_a_trickle_is_accepted_from_the_last_mirror(tmp_path, mirror):
    md5 = hashlib.md5(BODY[:1000]).hexdigest()
    assert get(tmp_path, mirror(trickle), size=1000, md5=md5, timeout=0.2).read_bytes() == BODY[:1000]


def test_ctrl_c_keeps_what_has_arrived(tmp_path, mirror, monkeypatch):
    class Interrupted(download.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "tqdm", Interrupted)
        get(tmp_path, mirror(whole))
    assert names(tmp_path) == ["file.bin.part"]
    arrived = (tmp_path / "file.bin.part").stat().st_size
    server = mirror(ranged)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == [f"bytes={arrived}-"] and arrived > 0


def refusing_url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"


def test_no_network_is_told_when_no_mirror_can_be_connected_to(tmp_path):
    with pytest.raises(NoNetwork, match="download file.bin .*could not connect.*could not connect"):
        fetch([refusing_url(), refusing_url()], tmp_path / "file.bin", MD5)
    assert names(tmp_path) == []


def test_a_hanging_name_look_up_counts_as_no_network(tmp_path, monkeypatch):
    def hang(*_, **__):
        STALLED.wait(2)
        raise OSError("too late")

    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", hang)
    with pytest.raises(NoNetwork, match=r"could not connect within 0.1 s"):
        fetch(["http://cifar.invalid/file.bin"], tmp_path / "file.bin", MD5)


def test_all_mirrors_share_the_time_in_which_no_network_is_told(tmp_path, monkeypatch):
    granted = []

    def refuse(url, seconds):
        granted.append(seconds)
        raise download._Unreachable("could not connect")

    monkeypatch.setattr(download, "_check_reachable", refuse)
    for mirrors in (1, 2, 5):
        granted.clear()
        with pytest.raises(NoNetwork):
            fetch(["http://cifar.invalid/file.bin"] * mirrors, tmp_path / "file.bin", MD5, progress=False)
        assert len(granted) == mirrors and sum(granted) <= 30


def test_one_mirror_that_answers_makes_it_no_lack_of_network(tmp_path, mirror):
    with pytest.raises(InputError) as caught:
        fetch([refusing_url(), mirror(missing).url], tmp_path / "file.bin", MD5, progress=False)
    assert not isinstance(caught.value, NoNetwork)


@pytest.mark.parametrize("proxy", ["closed", "forbidding"])
def test_a_proxy_that_refuses_counts_as_no_network(tmp_path, mirror, monkeypatch, proxy):
    address = refusing_url() if proxy == "closed" else mirror(missing).url  # answers CONNECT with 501
    monkeypatch.delenv("NO_PROXY")
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, address.partition("/file")[0])
    with pytest.raises(NoNetwork, match="could not connect" if proxy == "closed" else "the proxy refuses"):
        fetch(["https://cifar.invalid/file.bin"], tmp_path / "file.bin", MD5)


def test_a_destination_that_cannot_be_written_is_named(tmp_path, mirror):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot write .*occupied.*file.bin.part"):
        get(tmp_path / "occupied", mirror(whole))
