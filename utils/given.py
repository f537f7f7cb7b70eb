"""The network that a command is given: one of ours, a run's checkpoint, or a class in anybody's file."""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from utils.checkpoint import load_model
from utils.errors import InputError, lookup, one_line
from utils.history import read_history
from utils.models import MODELS, build_model
from utils.models.pretrained import shipped
from utils.recipes import RECIPES, Recipe
from utils.records import as_json, read_record, with_defaults

DEFAULT_RECIPE = "fast"  # of networks of ours that have no recipe of their own
IDENTITY = ("model", "model_arguments", "recipe", "seed", "data")  # what a checkpoint and its run.json both say


@dataclass(frozen=True)
class Given:
    """A network, the recipe it is trained with if that is known, and the folder of its run if there is one."""

    model: nn.Module
    recipe: Recipe | None = None
    run: Path | None = None


def given_network(place: str, arguments: str = "{}", recipe: str | None = None) -> Given:
    """What `place` names: "s7", "runs/s7/best.pt", or "path/to/file.py:ClassName".

    Args:
        arguments: of the network's constructor, as a JSON object.
        recipe: a name; by default the checkpoint's or the network's own, else "fast"; none for a file.

    Raises:
        InputError: the network cannot be had; the message is one line.
    """
    keywords = constructor_arguments(arguments)
    chosen = None if recipe is None else lookup(RECIPES, recipe, "recipe")
    if place.endswith(".pt") or place in shipped():
        if keywords:
            raise InputError(f"{place}: a checkpoint knows its constructor's arguments: leave --args away")
        model, checkpoint = load_model(place)
        folder = Path(place).parent
        run = folder if place not in shipped() and (folder / "run.json").is_file() else None
        if run and not is_of_run(checkpoint, run):
            raise InputError(f"{place}: {run / 'run.json'} and history.csv are of another run: keep it with its own")
        return Given(model, chosen or recorded_recipe(checkpoint["recipe"]), run)
    path, colon, name = place.rpartition(":")
    if colon and name.isidentifier():
        with beside(Path(path)):
            return Given(made(own_module(Path(path)), name, keywords), chosen)
    if place.endswith(".py"):
        raise InputError(f"{place}: name the class too, as in {place}:Net")
    if Path(place).suffix:
        raise InputError(f"{place}: neither a run's checkpoint (.pt) nor a class in a file (FILE.py:CLASS)")
    return Given(named_network(place, keywords), chosen or RECIPES.get(place, RECIPES[DEFAULT_RECIPE]))


def is_of_run(checkpoint: dict, folder: Path) -> bool:
    """Whether the records beside a checkpoint are of its run: of the same network, recipe, seed, data and history."""
    run, history = read_record(folder / "run.json"), read_history(folder / "history.csv")
    known = with_defaults(checkpoint)
    same = all(as_json(run.get(field)) == as_json(known[field]) for field in IDENTITY)
    return same and all(then == now for then, now in zip(checkpoint["history"], history, strict=False))


def named_network(name: str, keywords: dict) -> nn.Module:
    """`build_model(name, **keywords)`, whatever they are.

    Raises:
        InputError: there is no such network, or it cannot be made with them.
    """
    lookup(MODELS, name, "model")
    try:
        return build_model(name, **keywords)
    except Exception as error:  # whatever one that was changed may raise
        raise InputError(f"{name} cannot be made with {keywords}: {one_line(error)}") from error


def recorded_recipe(fields: dict) -> Recipe:
    """The recipe that a checkpoint keeps as a dict."""
    try:
        return Recipe(**fields)
    except TypeError as error:
        raise InputError(f"the checkpoint's recipe is of another version ({error}): name one with --recipe") from error


def constructor_arguments(arguments: str) -> dict:
    """What `--args` says, as keywords."""
    try:
        keywords = json.loads(arguments)
    except ValueError as error:
        raise InputError(f"""--args {arguments}: not JSON ({error}); write --args '{{"width": 32}}'""") from error
    if not isinstance(keywords, dict):
        raise InputError(f"""--args {arguments}: not a JSON object; write --args '{{"width": 32}}'""")
    return keywords


def own_module(path: Path) -> ModuleType:
    """The user's file, run as a module of a package: `from .blocks import ...` finds what lies beside it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    package = package_of(f"folder {path.parent.resolve()}".replace(".", " "), path.parent)
    spec = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem.replace('.', ' ')}", path)
    if spec is None:
        raise InputError(f"{path}: not a Python file; its name must end in .py")
    print(f"python -m utils: this runs {path}, your own file", file=sys.stderr)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be run: {placed(error, path)}") from error
    return module


def package_of(name: str, folder: Path) -> ModuleType:
    """A package without a file of its own: what lies in the folder can be imported from it."""
    package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(folder.resolve())]
    return package


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Within the block the user's file runs as it would alone, without the arguments that we were given.

    What lies beside it or in the two folders above can be imported: also a `utils` of their own, which takes the place
    of ours.
    """
    folders, root = path.resolve().parents[:3], Path(__file__).resolve().parents[1]
    theirs = [folder for folder in folders if folder != root and has_utils(folder)][:1]
    ours = {name: module for name, module in sys.modules.items() if theirs and name.partition(".")[0] == "utils"}
    for name in ours:
        del sys.modules[name]
    if theirs and not any((theirs[0] / file).is_file() for file in ("utils.py", "utils/__init__.py")):
        package_of("utils", theirs[0] / "utils")  # Python itself would find ours first
    arguments, paths = sys.argv, list(sys.path)
    sys.argv, sys.path[:] = [str(path)], [*map(str, (folders[0], *theirs)), *paths, *map(str, folders[1:])]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = arguments, paths
        if ours:
            for name in [name for name in sys.modules if name.partition(".")[0] == "utils"]:
                del sys.modules[name]
            sys.modules.update(ours)


def has_utils(folder: Path) -> bool:
    """Whether a module or a package called `utils` lies in the folder; a package needs no __init__.py."""
    return (folder / "utils.py").is_file() or any((folder / "utils").glob("*.py"))


def made(module: ModuleType, name: str, keywords: dict) -> nn.Module:
    """`module.name(**keywords)`."""
    path = Path(module.__file__)
    if not hasattr(module, name):
        there = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)]
        raise InputError(f"{path}: no {name} in it; there are: {', '.join(there) or 'no networks'}")
    make = getattr(module, name)
    try:
        model = make if isinstance(make, nn.Module) else make(**keywords)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: {name} cannot be made with {keywords}: {placed(error, path)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{path}: {name} is no torch.nn.Module but {type(model).__name__}")
    return model


def placed(error: BaseException, path: Path) -> str:
    """The error in one line, with the line of the user's file that led to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    number = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    where = "" if number is None else f" (line {number})"
    message = error.msg if isinstance(error, SyntaxError) else one_line(error)
    return f"{type(error).__name__}: {message}{where}"
