"""utils/download.py against loopback servers that misbehave in every way seen in the wild."""

import errno
import hashlib
import socket
import threading
from contextlib import ExitStack

import pytest
from filelock import FileLock

from benchmarks import bad_mirrors
from benchmarks.misbehaving import (
    BODY,
    MD5,
    OTHER,
    answer,
    cut,
    cut_without_a_length,
    drip,
    head,
    html,
    html_in_disguise,
    missing,
    ranged,
    refusing_url,
    serving,
    silence,
    stall,
    start_of,
    trickle,
    whole,
    wrong,
)
from utils import download, download_mirror
from utils.download import NoNetwork, fetch
from utils.download_mirror import Unreachable
from utils.errors import InputError

STALLED = threading.Event()  # never set: what waits for it waits for its time limit


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def mirror():
    """Starts a server that answers its nth request with the nth behaviour given, later ones with the last."""
    with ExitStack() as stack:
        yield lambda *behaviours: stack.enter_context(serving(*behaviours))


SHORT = {"size": 15_000, "md5": hashlib.md5(BODY[:15_000]).hexdigest(), "timeout": 0.7}


def ten_kb_a_second(request):
    """The first 15,000 bytes from where it was asked for, at 10 kB/s."""
    start = start_of(request)
    head(request, 206 if start else 200, Content_Length=15_000 - start)
    drip(request, BODY[start:15_000], size=500)


def get(folder, *mirrors, **options):
    """Fetches the file from servers or URLs."""
    options = {"md5": MD5, "size": len(BODY), "timeout": 10, "progress": False} | options
    return fetch([getattr(mirror, "url", mirror) for mirror in mirrors], folder / "file.bin", **options)


def names(folder):
    """What is there, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


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
    with pytest.raises(InputError, match="HTTP status 404"):
        get(tmp_path, mirror(cut, missing))
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
    server = mirror(ranged)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == []


@pytest.mark.parametrize("length", [1000, 300_000, 400_000])
def test_a_resumed_file_with_a_wrong_md5_is_fetched_from_scratch(tmp_path, mirror, length):
    (tmp_path / "file.bin.part").write_bytes(bytes(length))
    server = mirror(ranged)
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == [f"bytes={length}-", None] if length < len(BODY) else [None]


@pytest.mark.parametrize("bad", [wrong, html, html_in_disguise, missing, cut_without_a_length, stall, silence])
def test_after_a_bad_mirror_comes_the_next(tmp_path, mirror, bad):
    assert get(tmp_path, mirror(bad), mirror(ranged), timeout=1.5).read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    ("bad", "reason", "left"),
    [
        (wrong, f"wrong md5 {hashlib.md5(OTHER).hexdigest()}, expected {MD5}", []),
        (html, "an HTML page instead of the file", []),
        (html_in_disguise, "41 bytes instead of 300,000", []),
        (missing, "HTTP status 404", []),
        (silence, "nothing arrived for 1.5 s", []),
        (stall, "nothing arrived for 1.5 s", ["file.bin.part"]),
    ],
)
def test_the_failure_of_the_last_mirror_is_named_in_one_line(tmp_path, mirror, bad, reason, left):
    server = mirror(bad)
    with pytest.raises(InputError) as caught:
        get(tmp_path, server, timeout=1.5)
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


def test_a_trickle_is_abandoned_while_another_mirror_is_left(tmp_path, mirror):
    slow, fast = mirror(ten_kb_a_second), mirror(lambda request: answer(request, body=BODY[:15_000]))
    get(tmp_path, slow, fast, **SHORT)
    assert len(fast.ranges) == 1


def test_a_trickle_is_accepted_from_the_last_mirror(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr(download, "SLOWEST_OF_ALL", 500)
    assert get(tmp_path, mirror(ten_kb_a_second), **SHORT).read_bytes() == BODY[:15_000]


def test_a_slow_mirror_is_taken_after_all_where_the_others_fail(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr(download, "SLOWEST_OF_ALL", 500)
    slow, dead = mirror(ten_kb_a_second), mirror(missing)
    assert get(tmp_path, slow, dead, **SHORT).read_bytes() == BODY[:15_000]
    first, second = slow.ranges
    assert first is None and second.startswith("bytes=")


def test_a_download_that_would_take_days_is_given_up(tmp_path, mirror):
    with pytest.raises(InputError, match="slower than 5 kB/s"):
        get(tmp_path, mirror(trickle), timeout=1.5)
    assert names(tmp_path) == ["file.bin.part"]


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


def test_no_network_is_told_when_no_mirror_can_be_connected_to(tmp_path):
    with pytest.raises(NoNetwork, match="download file.bin .*could not connect.*could not connect"):
        get(tmp_path, refusing_url(), refusing_url(), progress=True)
    assert names(tmp_path) == []


def test_a_hanging_name_look_up_counts_as_no_network(tmp_path, monkeypatch):
    def hang(*_, **__):
        STALLED.wait(2)
        raise OSError("too late")

    monkeypatch.setattr(download_mirror, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", hang)
    with pytest.raises(NoNetwork, match=r"could not connect within 0.1 s"):
        get(tmp_path, "http://cifar.invalid/file.bin")


def test_a_mirror_is_looked_for_at_the_port_of_its_address(monkeypatch):
    asked = []
    monkeypatch.setattr(download_mirror, "get_environ_proxies", lambda url: {})
    monkeypatch.setattr(socket, "create_connection", lambda address, **_: asked.append(address) or socket.socket())
    for url in ("https://a.invalid/file", "http://b.invalid/file", "https://c.invalid:81/file"):
        download_mirror.check_reachable(url, 5)
    assert asked == [("a.invalid", 443), ("b.invalid", 80), ("c.invalid", 81)]


def test_all_mirrors_share_the_time_in_which_no_network_is_told(tmp_path, monkeypatch):
    granted = []

    def refuse(url, seconds):
        granted.append(seconds)
        raise Unreachable("could not connect")

    monkeypatch.setattr(download_mirror, "check_reachable", refuse)
    for count in (1, 2, 5):
        granted.clear()
        with pytest.raises(NoNetwork):
            get(tmp_path, *["http://cifar.invalid/file.bin"] * count)
        assert len(granted) == count and sum(granted) <= 30


def test_one_mirror_that_answers_makes_it_no_lack_of_network(tmp_path, mirror):
    with pytest.raises(InputError) as caught:
        get(tmp_path, refusing_url(), mirror(missing))
    assert not isinstance(caught.value, NoNetwork)


@pytest.mark.parametrize("proxy", ["closed", "forbidding"])
def test_a_proxy_that_refuses_counts_as_no_network(tmp_path, mirror, monkeypatch, proxy):
    address = refusing_url() if proxy == "closed" else mirror(missing).url  # answers CONNECT with 501
    monkeypatch.delenv("NO_PROXY")
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, address.partition("/file")[0])
    with pytest.raises(NoNetwork, match="could not connect" if proxy == "closed" else "the proxy refuses"):
        get(tmp_path, "https://cifar.invalid/file.bin")


def test_a_destination_that_cannot_be_written_is_named(tmp_path, mirror):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot write .*occupied.*file.bin.part"):
        get(tmp_path / "occupied", mirror(whole))


def test_without_a_network_a_destination_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    with pytest.raises(NoNetwork, match=r"no network, and .*file.bin.part cannot be written"):
        get(tmp_path / "occupied", refusing_url())


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "no locks available")])
def test_a_file_system_without_locks_will_do(tmp_path, mirror, monkeypatch, error):
    monkeypatch.setattr(FileLock, "acquire", raising(error))
    assert get(tmp_path, mirror(whole)).read_bytes() == BODY


def raising(error):
    def acquire(*arguments, **options):
        raise error

    return acquire


def test_one_process_waits_for_the_other_and_takes_what_it_fetched(tmp_path, mirror):
    server = mirror(ranged)
    lock = FileLock(tmp_path / "file.bin.lock", thread_local=False)
    lock.acquire()

    def finish():
        (tmp_path / "file.bin").write_bytes(BODY)
        lock.release()

    threading.Timer(0.3, finish).start()
    assert get(tmp_path, server).read_bytes() == BODY
    assert server.ranges == []


def test_another_process_that_stands_still_is_not_waited_for_for_ever(tmp_path, mirror):
    with (
        FileLock(tmp_path / "file.bin.lock"),
        pytest.raises(InputError, match=r"another process is downloading file\.bin, and stands still"),
    ):
        get(tmp_path, mirror(ranged), timeout=0.2)


# Of the misbehaviours that `python benchmarks/bad_mirrors.py` tries, most of those that were wrong once.


@pytest.mark.parametrize(
    "name",
    [
        "cut every 40,000 bytes",
        "headers come byte by byte, then a good mirror",
        "'100 Continue' for ever, then a good mirror",
        "a chunk's length comes byte by byte",
        "Content-Length: many",
        "moved",
        "continues from another place",
        "416 to everything, then a good mirror",
        "redirects to no address, then a good mirror",
        "redirects, with a body that never ends",
        "the proxy says nothing",
        "the proxy's address is none",
        "the disk is full",
        "a pipe has the name of the part",
    ],
)
def test_a_misbehaviour_is_survived(name):
    (row,) = (row for row in bad_mirrors.rows() if row.name == name)
    outcome = bad_mirrors.outcome_of(row)
    assert bad_mirrors.is_right(row, outcome), outcome


def leaves_a_file(urls, path, *_, **__):
    path.write_bytes(OTHER)
    raise InputError("remove it")


@pytest.mark.parametrize(
    ("fetches", "what"),
    [
        (lambda urls, path, *_, **__: path.write_bytes(OTHER) and path, "WRONG FILE"),
        (lambda *_, **__: {}["key"], "CRASH"),
        (lambda *_, **__: STALLED.wait(10), "HANGS"),
        (leaves_a_file, "ERROR, BUT LEFT A FILE"),
        (raising(InputError("it did not work")), "UNCLEAR ERROR"),
        (raising(InputError("no network;\nrun again")), "UNCLEAR ERROR"),
        (raising(InputError("no network")), "BLOCKED FOR GOOD"),
    ],
)
def test_what_is_wrong_with_a_download_is_named(fetches, what, monkeypatch):
    monkeypatch.setattr(bad_mirrors, "fetch", fetches)
    monkeypatch.setattr(bad_mirrors, "TIMEOUT", 0.1)
    monkeypatch.setattr(bad_mirrors, "MORE", 0.6)
    outcome = bad_mirrors.outcome_of(bad_mirrors.Row("bad", bad_mirrors.ERROR, bad_mirrors.met(missing)))
    assert outcome.what == what, outcome


def test_the_program_fails_unless_all_is_right_and_in_time(monkeypatch, capsys):
    def row(name, expected, seconds):
        return bad_mirrors.Row(name, expected, lambda _: bad_mirrors.Outcome(bad_mirrors.WHOLE, "", seconds))

    rows = [row("right", "file whole", 6.4), row("late", "file whole", 6.6), row("other", "clear error", 1.0)]
    monkeypatch.setattr(bad_mirrors, "rows", lambda: rows)
    assert bad_mirrors.main(["right"]) == 0
    assert "1 of 1 right, slowest 6.4 s" in capsys.readouterr().out
    assert bad_mirrors.main([]) == 1
    assert "1 of 3 right, slowest 6.6 s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        bad_mirrors.main(["no such words"])
