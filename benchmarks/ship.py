"""Puts the weights of a finished run, as they were after its last epoch, among those that ship with the repository.

    python benchmarks/ship.py runs/seeds/s7-fast/seed0

They are named for network and recipe; `build_model("s7", pretrained="fast")` and `python -m utils predict s7-fast
picture.png` find them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from utils import InputError
from utils.checkpoint import LAST, load_checkpoint
from utils.models.pretrained import FOLDER, write_weights


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parsed = parser.parse_args(arguments)
    checkpoint = load_checkpoint(parsed.run / LAST)
    run = json.loads((parsed.run / "run.json").read_text(encoding="utf-8"))
    if run["results"]["epochs"] < run["recipe"]["epochs"]:
        raise InputError(f"{parsed.run}: only {run['results']['epochs']} epochs are done; resume it")
    name = f"{run['model']}-{run['recipe']['name']}"
    write_weights(name, checkpoint, run)
    size = (FOLDER / f"{name}.safetensors").stat().st_size
    print(f"{name}: {run['results']['test_accuracy']:.2f} % of the test images, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
