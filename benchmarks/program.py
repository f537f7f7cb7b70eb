"""The `main` of a benchmark as a program: its errors in one line, with the exit codes of `python -m utils`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from utils.errors import InputError, TrainingError

Arguments = list[str] | None


def program(main: Callable[[Arguments], None]) -> Callable[..., int]:
    """`main` with the exit code for an answer: 0; 2 on bad input, 1 if training cannot go on, 130 on Ctrl-C."""

    @wraps(main)
    def run(arguments: Arguments = None) -> int:
        try:
            main(arguments)
        except (InputError, TrainingError) as error:
            print(f"{Path(main.__code__.co_filename).name}: {error}", file=sys.stderr)
            return 2 if isinstance(error, InputError) else 1
        except KeyboardInterrupt:
            return 130
        return 0

    return run
