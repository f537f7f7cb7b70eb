"""Whatever is typed: no traceback, and one of the exit codes that the design names; what is refused, in one clear line.

`S7_EXAMPLES=2000 pytest tests/test_properties.py` looks longer.
"""

import contextlib
import io
import os
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import tiny_network, tiny_split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils import __main__ as cli
from utils import build_model, commands, evaluate, fit, load_cifar10
from utils.checkpoint import load_checkpoint, write_checkpoint
from utils.data import ImageData
from utils.errors import InputError, TrainingError
from utils.history import read_history
from utils.models import MODELS
from utils.predict import load_picture
from utils.recipes import RECIPES, Recipe

EXAMPLES = int(os.environ.get("S7_EXAMPLES", "60"))
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="S7_EXAMPLES" not in os.environ,  # CI sees the same ones every time
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

text = st.text(max_size=12)
numbers = st.one_of(st.integers(-3, 3), st.integers(), st.floats()).map(str)
names = st.sampled_from([*MODELS, *RECIPES, "s7x", "", " ", "."])
values = st.one_of(text, numbers, names)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Files and folders that a user might name: good, damaged, empty, of another kind."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "empty").write_bytes(b"")
    (folder / "text.pt").write_text("hello")
    (folder / "noise.png").write_bytes(np.random.default_rng(0).bytes(500))
    (folder / "code.py").write_text("class Net: pass\nx = 1\n")
    (folder / "broken.py").write_text("def (:")
    (folder / "folder").mkdir()
    write_checkpoint(folder / "strange.pt", {"weights": 7})
    torch.save({"weights": 7}, folder / "plain.pt")
    data = ImageData(tiny_split(40, "train", 0), tiny_split(20, "test", 1))
    recipe = Recipe("tiny", epochs=1, batch_size=20, sides=(8,))
    fit(build_model("s7", classes=3), data, recipe, out=folder / "run")
    found = [str(path) for path in folder.rglob("*")] + [str(folder), "/dev/null", "no/such/file", "~", "-", ""]
    return [*found, str(folder / "code.py:Net"), str(folder / "code.py:x"), str(folder / "broken.py:Net")]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """No network, no large data, nothing written where it would stay."""
    digits = load_cifar10("digits", verbose=False)
    few = ImageData(some(digits.train, 64), some(digits.test, 20))
    monkeypatch.setattr(
        commands, "load_cifar10", lambda source: few if source in ("auto", "digits") else load_cifar10(source)
    )
    monkeypatch.setattr(commands, "fit", lambda *a, **k: brief_fit(*a, **k))
    monkeypatch.setattr("utils.repeat.fit", lambda *a, **k: brief_fit(*a, **k))
    monkeypatch.setenv("S7_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("S7_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)


def some(split, count):
    from dataclasses import replace

    return replace(split, images=split.images[:count], labels=split.labels[:count])


def brief_fit(model, data, recipe, **options):
    from dataclasses import replace

    return fit(model, data, replace(recipe, epochs=min(recipe.epochs, 2), per_image=False), **options)


def run(arguments: list[str]) -> tuple[int, str]:
    """The exit code and what went to stderr; any other exception than argparse's way out is the test's failure."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
    return code, errors.getvalue()


OPTIONS = {
    "train": ["--model", "--recipe", "--data", "--seed", "--out", "--epochs", "--until", "--device", "--report-every"]
    + ["--args", "--validation"],
    "repeat": ["--model", "--recipe", "--data", "--seeds", "--out", "--epochs", "--device", "--args", "--validation"],
    "export": ["--data", "--out"],
    "evaluate": ["--data", "--mirrored"],
    "predict": ["--figure"],
    "audit": ["--args", "--recipe", "--shape", "--json"],
    "summary": [],
    "draw": ["--out"],
    "models": [],
    "recipes": [],
}


@st.composite
def command_lines(draw, paths):
    command = draw(st.sampled_from([*OPTIONS, "no-such-command"]))
    place = st.sampled_from(paths)
    line = [command, *draw(st.lists(st.one_of(place, names, values), max_size=2))]
    for option in draw(st.lists(st.sampled_from(OPTIONS.get(command) or ["--help"]), max_size=3, unique=True)):
        line.append(option)
        line.append(draw(st.one_of(values, place, st.sampled_from(["1", "2", "digits", "s7", "3x32x32", "{}", "cpu"]))))
    if command == "repeat" and "--seeds" not in line:
        line += ["--seeds", "1"]
    return line


@thorough
@given(data=st.data())
def test_no_command_line_ends_in_a_traceback(paths, data):
    line = data.draw(command_lines(paths))
    code, errors = run(line)
    assert code in (0, 1, 2), line
    if code == 2:
        complaint = [
            text for text in errors.splitlines() if not (text.startswith("WARNING") or text.endswith("your own file"))
        ]
        assert len(complaint) == 1 and complaint[0].startswith("python -m utils"), (line, errors)


@thorough
@given(
    changes=st.dictionaries(
        st.sampled_from([f.name for f in fields(Recipe)]),
        st.one_of(
            st.integers(-2, 40), st.floats(), text, st.none(), st.booleans(), st.lists(st.integers(-1, 40), max_size=3)
        ),
        max_size=3,
    )
)
def test_a_recipe_is_refused_or_trains(changes):
    tiny = ImageData(tiny_split(24, "train", 0), tiny_split(9, "test", 1))
    try:
        recipe = Recipe(**({"name": "any", "epochs": 1, "batch_size": 8, "sides": (8,), "workers": 0} | changes))
    except InputError:
        return
    if recipe.epochs > 3 or recipe.workers > 0:
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(InputError, TrainingError):
        fit(tiny_network(), tiny, recipe)


@thorough
@given(
    content=st.one_of(st.binary(max_size=300), text.map(str.encode)), name=st.sampled_from(["a.pt", "a.csv", "a.png"])
)
def test_no_file_s_content_is_a_surprise(content, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    reader = {"a.pt": load_checkpoint, "a.csv": read_history, "a.png": load_picture}[name]
    with contextlib.suppress(InputError):
        reader(path)


things = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), text, st.just(torch.zeros(2))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)


@thorough
@given(
    key=st.sampled_from(
        [
            "model",
            "model_arguments",
            "weights",
            "history",
            "data",
            "mean",
            "std",
            "classes",
            "learned_from",
            "recipe",
            "trainer",
            "seconds",
            "log_bytes",
            "torch",
        ]
    ),
    thing=things,
)
def test_no_checkpoint_s_content_is_a_surprise(paths, tmp_path, key, thing):
    last = next(path for path in paths if path.endswith("run/last.pt"))
    write_checkpoint(tmp_path / "last.pt", load_checkpoint(last) | {key: thing})
    for line in (["evaluate", str(tmp_path / "last.pt")], ["audit", str(tmp_path / "last.pt")]):
        code, errors = run(line)
        assert code in (0, 1, 2), (line, key, thing)
        assert code != 2 or len(errors.splitlines()) <= 2, errors


@thorough
@given(
    shape=st.lists(st.integers(0, 6), min_size=0, max_size=5),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.int64]),
    labels=st.integers(0, 6),
)
def test_images_of_any_shape_are_refused_or_tested(shape, dtype, labels):
    from utils.data import Split

    third = (0.3,) * 3
    try:
        split = Split(
            torch.zeros(shape, dtype=dtype),
            torch.zeros(labels, dtype=torch.long),
            ("a", "b", "c"),
            third,
            third,
            "test",
            "any",
            "made by the tests",
        )
        evaluate(tiny_network(), split)
    except InputError:
        pass
