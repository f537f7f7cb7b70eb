"""Files written in one step, so that they are whole or as they were; their size before they are read; their locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from utils.errors import InputError

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def write(path: Path, content: bytes, keep: str | None = None) -> None:
    """Puts `content` into `path` in one step: a reader finds the old file or the new one, never a part.

    Args:
        keep: what to call the old file from then on; None: it goes.

    Raises:
        OSError: it cannot be written; the old file is as it was and nothing is left beside it.
    """
    aside = path.with_name(path.name + ".part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, path.with_name(keep))
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sync(descriptor: int) -> None:
    """Waits until a file's content is on the disk: a power cut could leave its new name, and nothing under it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # of a drive that knows no such thing
            raise


def check_size(path: Path, most: int) -> None:
    """Looks at a file's size before it is read into memory.

    Raises:
        InputError: it has more than `most` bytes.
    """
    size = path.stat().st_size
    if size > most:
        raise InputError(f"{path} has {size:,} bytes; more than {most:,} cannot be right")


def has_no_locks(error: NotImplementedError | OSError) -> bool:
    """Whether the error of a FileLock says that there are none on this file system, as on some network drives."""
    return isinstance(error, NotImplementedError) or error.errno in NO_LOCKS
