"""Sets the repository's address everywhere it stands: pyproject.toml has it, badges and the setup cell repeat it.

python notebooks/badge.py owner/name
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = ("pyproject.toml", "README.md", "notebooks/S7.ipynb", "notebooks/compare.ipynb")


def current() -> str:
    """The owner/name that pyproject.toml has."""
    return re.search(r'Repository = "https://github\.com/([^"]+)"', (ROOT / PLACES[0]).read_text(encoding="utf-8"))[1]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments[0]):
        print("give the repository as owner/name: make badge REPO=owner/name", file=sys.stderr)
        return 2
    old, new = current(), arguments[0]
    for place in PLACES:
        path = ROOT / place
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(rf"/{re.escape(old)}(?![\w-])", f"/{new}", text), encoding="utf-8")
        print(f"{place}: {text.count('/' + old)} addresses")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
