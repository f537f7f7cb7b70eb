"""Installs what requirements.txt names and this Python lacks; the notebook's setup cell runs it.

An installed torch or torchvision is never replaced: it is the one that fits the machine's GPU.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

KEEP = ("torch", "torchvision")
MAKE_ONLY = "# Only for make run and make test"  # Colab and its like have their own Jupyter
REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"


def missing(text: str) -> list[str]:
    """The requirements in a requirements.txt's text that are not met here, down to those of `make` alone."""
    text = text.split(MAKE_ONLY)[0]
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not is_met(Requirement(line))]


def is_met(requirement: Requirement) -> bool:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return False
    return requirement.name in KEEP or requirement.specifier.contains(installed, prereleases=True)


def kept() -> list[str]:
    """For pip: what must stay as it is, whatever else is installed; a missing torchvision has to fit the torch here."""
    found = []
    for name in KEEP:
        with suppress(PackageNotFoundError):
            found.append(f"{name}=={version(name)}")
    return found


if __name__ == "__main__":
    wanted = missing(REQUIREMENTS.read_text(encoding="utf-8"))
    if wanted:
        print("installing", *wanted)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted, *kept()], check=True)
