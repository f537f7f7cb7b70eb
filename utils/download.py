"""One file of known md5 from the first mirror that delivers it: how utils/data.py gets CIFAR-10's archive.

What arrives is written to `<name>.part` beside the destination and renamed once its md5 is right: a file
under its final name is always whole. A later call, or the next mirror, goes on where the `.part` ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from utils import download_mirror
from utils.download_mirror import Answer, CutOff, Failed, Head, NotContinued, Pace, TooSlow, Unreachable
from utils.errors import InputError
from utils.files import has_no_locks

OFFLINE_SECONDS = 25.0  # to find that none can be reached, all mirrors together
SLOWEST = 20_000  # bytes per second: below this another mirror is tried, if one is left
SLOWEST_OF_ALL = 5_000  # bytes per second: below this even the last one is given up; 170 MB would take 9 hours
ATTEMPTS = 10  # per mirror: it may cut the connection, or turn out not to continue what an earlier one began


class NoNetwork(InputError):
    """No mirror could be connected to."""


def fetch(
    urls: Sequence[str],
    destination: str | Path,
    md5: str,
    size: int,
    timeout: float = 15.0,
    progress: bool = True,
) -> Path:
    """The path of the downloaded file: `destination`. One with the right md5 is not downloaded again.

    Another process that fetches the same file is waited for.

    Args:
        urls: mirrors of one and the same file, the preferred one first.
        destination: where the file goes; folders are made.
        md5: of the whole file, in hexadecimal.
        size: of the whole file, in bytes.
        timeout: seconds. A mirror is left if it delivers nothing for so long, or on average less than `SLOWEST`
            bytes per second; if no other delivers, the slow one is taken down to `SLOWEST_OF_ALL`.
        progress: show a bar.

    Raises:
        NoNetwork: no mirror could be connected to; known after `OFFLINE_SECONDS` at most.
        InputError: the mirrors failed, and how each of them did; or the destination cannot be written; or
            another process that fetches the file has not got on for four times `timeout`.
    """
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    try:
        if _is_whole(destination, md5):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        for path in (destination, part):
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is in the way, and no file; remove it, or choose another folder")
        with _turn(part, 4 * timeout, progress):
            if not _is_whole(destination, md5):  # another process may have fetched it meanwhile
                _fetch_part(urls, _Download(part, md5, size, timeout, progress))
                part.replace(destination)
    except OSError as error:
        if not any(_reachable(url, len(urls)) for url in urls):
            raise NoNetwork(f"no network, and {part} cannot be written ({error})") from error
        raise InputError(
            f"cannot write {part} ({error}); free some space, or name another folder: cache=, or $S7_CACHE"
        ) from error
    return destination


def _is_whole(path: Path, md5: str) -> bool:
    return path.is_file() and calculate_md5(path) == md5


@contextmanager
def _turn(part: Path, seconds: float, progress: bool) -> Iterator[None]:
    """Lets one process at a time write `part`. The others wait, unless it stays as it is for so many `seconds`."""
    lock = FileLock(part.with_suffix(".lock"))
    patience = 0.0
    while not lock.is_locked:
        before = part.stat().st_size if part.exists() else 0
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            if patience and before == (part.stat().st_size if part.exists() else 0):
                raise InputError(
                    f"another process is downloading {part.stem}, and stands still; end it, or wait and run again"
                ) from None
            if progress and not patience:
                print(f"waiting for another process that is downloading {part.stem}", file=sys.stderr)
            patience = seconds
        except (NotImplementedError, OSError) as error:
            if not has_no_locks(error):
                raise
            break  # without a lock rather than not at all
    try:
        yield
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()
        lock.release()


def _check_reachable(url: str, mirrors: int) -> None:
    """Raises `Unreachable`, in time for all of so many mirrors."""
    download_mirror.check_reachable(url, min(download_mirror.CONNECT_SECONDS, OFFLINE_SECONDS / mirrors))


def _reachable(url: str, mirrors: int) -> bool:
    try:
        _check_reachable(url, mirrors)
    except Unreachable:
        return False
    return True


def _fetch_part(urls: Sequence[str], download: _Download) -> None:
    """Completes the part from the first mirror that delivers, or raises as `fetch` does."""
    name = download.part.stem
    failures: dict[str, Failed] = {}  # by URL
    waiting = [(url, SLOWEST) for url in urls]
    while waiting:
        url, slowest = waiting.pop(0)
        host = urlsplit(url).netloc
        try:
            _check_reachable(url, len(urls))
            return download.complete(url, slowest if waiting else SLOWEST_OF_ALL)
        except Failed as failure:
            failures[url] = failure
            if isinstance(failure, TooSlow) and waiting and slowest == SLOWEST:
                waiting.append((url, SLOWEST_OF_ALL))
            if download.progress and waiting:
                print(f"{host}: {failure}; trying the next mirror", file=sys.stderr)

    reasons = "; ".join(f"{urlsplit(url).netloc}: {failure}" for url, failure in failures.items())
    if all(isinstance(failure, Unreachable) for failure in failures.values()):
        raise NoNetwork(f"no network to download {name} ({reasons})")
    raise InputError(
        f"could not download {name} ({reasons}); run again to go on from there, or download "
        f"{urls[0]} with a browser and put it into ./data or into the folder that $CIFAR10_DIR names"
    )


@dataclass(frozen=True)
class _Download:
    """What is the same for all mirrors; see `fetch`."""

    part: Path
    md5: str
    size: int
    timeout: float
    progress: bool

    def complete(self, url: str, slowest: float) -> None:
        """Completes the part from one mirror, or raises `Failed`. A part with a wrong md5 is deleted."""
        pace = Pace(self.timeout, slowest)
        continuing, failure = True, None
        for _ in range(ATTEMPTS):
            offset = self._arrived() if continuing else 0
            try:
                if offset < self.size:
                    offset = self._request(url, offset, pace)
            except CutOff as cut:
                failure = cut
                continue
            except NotContinued as refusal:
                continuing, failure = False, refusal
                continue
            got = calculate_md5(self.part)
            if got == self.md5:
                return
            self.part.unlink()
            failure = Failed(f"wrong md5 {got}, expected {self.md5}")
            if not offset:
                break  # all of it came from this mirror, so it would come again
        raise failure

    def _arrived(self) -> int:
        """Bytes in the part. One that is longer than the file is deleted."""
        size = self.part.stat().st_size if self.part.exists() else 0
        if size > self.size:
            self.part.unlink()
            return 0
        return size

    def _request(self, url: str, offset: int, pace: Pace) -> int:
        """Writes the part from `offset` to its end with one request. Returns where the mirror began: there, or at 0.

        Raises:
            CutOff: the connection ended early.
            NotContinued: the mirror can only send all of the file.
            Failed: the mirror answers something else than the file, or too slowly.
        """
        answer = Answer(url, offset, self.timeout)
        try:
            begin = self._begin(answer.next(pace), offset)
            self._write(answer, begin, pace)
            return begin
        finally:
            answer.abandoned.set()

    def _begin(self, head: Head, offset: int) -> int:
        """The place in the file at which the answer's body begins; raises as `_request` does."""
        begin = offset if head.status == 206 else 0
        fits = head.length is None or begin + head.length == self.size
        if offset and head.status in (206, 416):
            said = head.headers.get("Content-Range", f"bytes {offset}-")
            if head.status == 416 or not said.startswith(f"bytes {offset}-") or not fits:
                raise NotContinued("does not continue what has arrived")
        if head.status not in (200, 206):
            wait = head.headers.get("Retry-After", "")
            raise Failed(f"HTTP status {head.status}" + (f", busy for {wait[:9]} s" if wait.isdecimal() else ""))
        if "html" in head.headers.get("Content-Type", ""):
            raise Failed("an HTML page instead of the file")
        if not fits:
            raise Failed(f"{begin + head.length:,} bytes instead of {self.size:,}")
        return begin

    def _write(self, answer: Answer, begin: int, pace: Pace) -> None:
        """Copies the body to the part from `begin` on, with an eye on its speed and its length."""
        bar = tqdm(
            desc=self.part.stem,
            total=self.size,
            initial=begin,
            unit="B",
            unit_scale=True,
            file=sys.stdout,
            disable=not self.progress,
        )
        with self.part.open("ab" if begin else "wb") as file, bar:
            while piece := answer.next(pace):
                if file.tell() + len(piece) > self.size:
                    file.truncate(begin)
                    raise Failed(f"more than {self.size:,} bytes")
                file.write(piece)
                bar.update(len(piece))
                pace.arrived += len(piece)
            if file.tell() < self.size:
                raise CutOff(f"cut off after {file.tell():,} of {self.size:,} bytes")
