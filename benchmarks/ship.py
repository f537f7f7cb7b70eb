"""Puts the weights of a finished run, as they were after its last epoch, among those that ship with the repository.

    python benchmarks/ship.py runs/seeds/s7-fast/seed0

They are named for network and recipe; `build_model("s7", pretrained="fast")` and `python -m utils predict s7-fast
picture.png` find them. So they have to be what that says: the whole network under the recipe as it is, all of CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.program import program
from utils import RECIPES, InputError, build_model
from utils.checkpoint import LAST, load_checkpoint
from utils.data import JPEG_COPY, ORIGINAL
from utils.engine import suited
from utils.errors import lookup
from utils.models import model_arguments
from utils.models.pretrained import FOLDER, write_weights
from utils.records import must_agree, read_record
from utils.runs import AS_BUILT


def check_whole(folder: Path, run: dict) -> None:
    """Refuses a run whose weights would not be what their name says.

    Args:
        run: as `read_record` returns it.

    Raises:
        InputError: it is not finished; or of another width, a changed recipe or a policy of its own, other first
            weights, other data or a part of it.
    """
    results, data = run["results"], run["data"]
    if results["epochs"] < run["recipe"]["epochs"]:
        raise InputError(f"{folder}: only {results['epochs']} epochs are done; resume it")
    model = build_model(run["model"])
    recipe = suited(lookup(RECIPES, run["recipe"]["name"], "recipe"), model)
    whole = {"model_arguments": model_arguments(model), "recipe": asdict(recipe), "policy": None}
    must_agree(folder, {"first_weights": AS_BUILT} | run, whole | {"first_weights": AS_BUILT})
    images = data["train_images"], data["test_images"]
    if data["name"] not in (ORIGINAL, JPEG_COPY) or images != (50_000, 10_000) or not results["test_evaluations"]:
        raise InputError(f"{folder}: only what has learned all of CIFAR-10, and was tested on it, can ship")


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parsed = parser.parse_args(arguments)
    checkpoint = load_checkpoint(parsed.run / LAST)
    path = parsed.run / "run.json"
    if not path.is_file():
        raise InputError(f"{parsed.run}: no run.json there; a run's folder holds it")
    check_whole(parsed.run, read_record(path))
    run = json.loads(path.read_text(encoding="utf-8"))  # as the run has written it
    name = f"{run['model']}-{run['recipe']['name']}"
    write_weights(name, checkpoint, run)
    size = (FOLDER / f"{name}.safetensors").stat().st_size
    print(f"{name}: {run['results']['test_accuracy']:.2f} % of the test images, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
