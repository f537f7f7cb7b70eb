"""What this package raises on purpose. The command line prints the message alone: no traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping


class InputError(ValueError):
    """What the user gave (a file, a name, a shape) cannot be used; the command line exits with 2.

    The message is one line: what came, what was expected, and what to do about it.
    """


class TrainingError(RuntimeError):
    """Training cannot go on, as after a loss that is not a number; the command line exits with 1."""


def lookup(table: Mapping, name: str, kind: str):
    """`table[name]`.

    Raises:
        InputError: there is no such name; the message lists those there are.
    """
    if not isinstance(name, str) or name not in table:
        raise InputError(f"unknown {kind} {name!r}; there are: {', '.join(table)}")
    return table[name]


def one_line(error: BaseException) -> str:
    """The first line of an error's message, without a terminal's colours; or its kind if it has none."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return (message.splitlines() or [type(error).__name__])[0]


def check_seed(seed: int) -> None:
    """Raises `InputError` unless torch and NumPy both take the seed, and what is made of it."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed {seed!r} cannot be used; a seed is a whole number from 0 to {2**32 - 1}")
