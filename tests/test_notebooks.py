"""The notebooks as files, and the setup cell where only the notebook was opened. Their own run is nbval's."""

import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from pprint import pformat
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from utils import RECIPES, build_model, plots
from utils.arrays import CIFAR10_CLASSES
from utils.auditing.requirement import row
from utils.data import ImageData, Split
from utils.evaluation import Evaluation
from utils.history import FIELDS, history_csv

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def load_script(name: str):
    """A program of notebooks/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "notebooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source_with(text: str) -> str:
    """The source of the one code cell of S7.ipynb that has this text."""
    main = nbformat.read(ROOT / "notebooks" / "S7.ipynb", as_version=4)
    (source,) = [cell.source for cell in code_cells(main) if text in cell.source]
    return source


def test_the_stored_outputs_come_from_one_run_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [o for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "error"]


def test_a_cell_that_is_not_compared_asserts_something(notebook):
    for cell in code_cells(notebook):
        if "NBVAL_IGNORE_OUTPUT" in cell.source:
            assert re.search(r"^assert ", cell.source, re.MULTILINE), cell.source


def test_a_compared_cell_shows_no_progress_bar_and_no_address(notebook):
    for cell in code_cells(notebook):
        if "NBVAL_IGNORE_OUTPUT" not in cell.source:
            assert not re.search(r"it/s|0x[0-9a-f]{6}|\r", json.dumps(cell.outputs)), cell.source


def test_a_cell_is_a_step(notebook):
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 20


def test_the_kernel_is_the_one_that_everybody_has(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_the_stored_run_was_on_cifar10_and_says_on_which_copy():
    main = nbformat.read(ROOT / "notebooks" / "S7.ipynb", as_version=4)
    line = load_script("run").last_line(main)
    assert re.search(r"% of 10,000 test images .* Data: CIFAR-10", line)


def test_the_stored_run_shows_the_recipe_with_all_of_its_fields():
    main = nbformat.read(ROOT / "notebooks" / "S7.ipynb", as_version=4)
    printed = "".join(o.text for cell in code_cells(main) for o in cell.outputs if o.output_type == "stream")
    assert pformat(RECIPES["fast"]) in printed


def test_the_address_is_the_same_everywhere():
    address = load_script("badge").current()
    for place in ("README.md", "notebooks/S7.ipynb", "notebooks/compare.ipynb"):
        badges = re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob", (ROOT / place).read_text())
        assert badges
        assert set(badges) == {address}, place
    assert f'\\"https://github.com/{address}\\"' in (ROOT / "notebooks/S7.ipynb").read_text()  # the setup cell


def test_make_badge_sets_the_address_everywhere(tmp_path, capsys):
    badge = load_script("badge")
    for place in badge.PLACES:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / place, tmp_path / place)
    old, badge.ROOT = badge.current(), tmp_path
    with open(tmp_path / "README.md", "a") as readme:
        readme.write(f"\nhttps://github.com/{old}-notes\n")  # another one's
    assert badge.main(["someone/course-7"]) == 0
    readme = tmp_path / "README.md"
    assert readme.read_text().endswith(f"/{old}-notes\n")
    readme.write_text(readme.read_text().replace(f"/{old}-notes", ""))
    for place in badge.PLACES:
        text = (tmp_path / place).read_text()
        assert "/someone/course-7" in text
        assert f"/{old}" not in text
    assert badge.main(["not an address"]) == 2


def test_only_what_is_missing_is_installed_and_never_torch():
    missing = load_script("install_missing").missing
    assert missing("torch>=999\ntorchvision>=999\n") == []
    assert missing("# a comment\nnumpy>=1\n\nno-such-package==1.0  # why\nnumpy>=999\n") == [
        "no-such-package==1.0",
        "numpy>=999",
    ]
    assert missing("numpy\n# Only for make run and make test\nno-such-package\n") == []
    assert missing((ROOT / "requirements.txt").read_text()) == []


def test_the_setup_cell_installs_what_is_missing_and_keeps_torch(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command))
    (tmp_path / "notebooks").mkdir()
    script = shutil.copy(ROOT / "notebooks" / "install_missing.py", tmp_path / "notebooks")
    for text in ("torch>=999\nnumpy>=1\n", "torch>=999\nno-such-package==1.0\n"):
        (tmp_path / "requirements.txt").write_text(text)
        runpy.run_path(script, run_name="__main__")
    ((*pip, wanted, torch_here, torchvision_here),) = asked
    assert pip == [sys.executable, "-m", "pip", "install", "--quiet"]
    assert wanted == "no-such-package==1.0"
    assert [torch_here, torchvision_here] == [f"{name}=={version(name)}" for name in ("torch", "torchvision")]


def test_what_fits_the_gpu_is_pinned_when_something_is_missing():
    install = load_script("install_missing")
    assert install.kept() == [f"{name}=={version(name)}" for name in ("torch", "torchvision")]
    install.KEEP = ("no-such-package", "torch")
    assert install.kept() == [f"torch=={version('torch')}"]


def test_the_notebook_alone_in_an_empty_folder_fetches_the_repository(tmp_path):
    # S7_REPO is a repository made of the files as they are now, so that this works before they are committed.
    repository, alone = tmp_path / "repository", tmp_path / "alone"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    if not files:
        pytest.skip("not a git checkout, such as GitHub's ZIP: which files are the repository's?")
    for name in filter(lambda name: (ROOT / name).is_file(), files):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, repository / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "as it is"]):
        subprocess.run([*git, *command], cwd=repository, check=True)

    alone.mkdir()
    shutil.copy(repository / "notebooks" / "S7.ipynb", alone)
    notebook = nbformat.read(alone / "S7.ipynb", as_version=4)
    cells = code_cells(notebook)
    training = next(i for i, cell in enumerate(cells) if "fit(" in cell.source)
    where = nbformat.v4.new_code_cell("import utils; print(utils.__file__)")
    notebook.cells = [*cells[:training], where]  # all that comes before the training, which nbval runs
    environment = {"S7_REPO": str(repository), "S7_DATA": "digits", "PYTHONPATH": ""}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(alone)}}).execute()
    assert where.outputs[0].text.strip() == str(alone / "S7" / "utils" / "__init__.py")
    assert os.listdir(alone / "S7" / "utils")


def test_a_notebook_runs_in_its_own_folder_and_stays_as_it_is(tmp_path):
    path, out = tmp_path / "own" / "good.ipynb", tmp_path / "out"
    path.parent.mkdir()
    (path.parent / "beside.txt").write_text("found")
    sources = ("print('one', flush=True); print('two')", "print(open('beside.txt').read())\nprint('Passed.')", "1 + 1")
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources))), path)
    before = path.read_bytes()
    command = [sys.executable, str(ROOT / "notebooks" / "run.py"), str(path), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"one\ntwo\nfound\nPassed.\nPassed. Look at {out / 'good.html'}\n")
    kept = nbformat.read(out / "good.ipynb", as_version=4)
    assert [cell.outputs[0].get("text") for cell in kept.cells] == ["one\ntwo\n", "found\nPassed.\n", None]
    assert kept.cells[2].outputs[0].data["text/plain"] == "2"
    assert "version" not in kept.metadata.language_info and "execution" not in kept.cells[0].metadata
    assert (out / "good.html").is_file()
    assert path.read_bytes() == before


def test_a_notebook_that_prints_nothing_has_no_last_line():
    silent = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    assert load_script("run").last_line(silent) == ""


def test_the_outputs_are_stored_in_the_notebook_only_if_asked_for(tmp_path, monkeypatch):
    script, path = load_script("run"), tmp_path / "a.ipynb"
    printed = nbformat.v4.new_output("stream", text="Passed.\n")
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('Passed.')", outputs=[printed])])
    monkeypatch.setattr(script, "run", lambda path, out: executed)
    for keep in ([], ["--keep"]):
        monkeypatch.setattr(sys, "argv", ["run.py", str(path), *keep])
        assert script.main() == 0
        assert path.is_file() == bool(keep)
    assert nbformat.read(path, as_version=4).cells[0].outputs == [printed]


def test_a_notebook_that_fails_is_kept_as_far_as_it_came(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("print('first')", "1 / 0", "print('never')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "broken.ipynb")
    done = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "run.py"), str(tmp_path / "broken.ipynb"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "broken.ipynb failed: ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr
    kept = nbformat.read(tmp_path / "broken.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].text == "first\n"
    assert (tmp_path / "broken.html").is_file()


def test_a_notebook_whose_kernel_dies_is_kept_as_far_as_it_came(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("print('first')", "import os; os.kill(os.getpid(), 9)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "dying.ipynb")
    command = [
        sys.executable,
        str(ROOT / "notebooks" / "run.py"),
        str(tmp_path / "dying.ipynb"),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "dying.ipynb failed: Kernel died" in done.stderr
    assert "Traceback" not in done.stderr
    assert nbformat.read(tmp_path / "dying.ipynb", as_version=4).cells[0].outputs[0].text == "first\n"


def test_ctrl_c_stops_the_cell_that_runs_and_lets_it_save(tmp_path):
    source = "import time\ntry:\n    print('begun')\n    time.sleep(60)\nfinally:\n    print('saved')"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "long.ipynb")
    command = [sys.executable, str(ROOT / "notebooks" / "run.py"), str(tmp_path / "long.ipynb"), "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "begun\n"
        running.send_signal(signal.SIGINT)
        printed, said = running.communicate()
    assert running.returncode == 130
    assert printed == "saved\n"
    assert "long.ipynb was stopped" in said
    assert "Traceback" not in said


def test_it_holds_no_secret_and_asks_for_none(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"getpass|password|passwd|api.?key|token|secret|userdata|input\(", text, re.IGNORECASE)


def test_a_run_of_one_epoch_is_drawn(tmp_path, tiny, recipe, network):
    (tmp_path / "history.csv").write_text(history_csv([dict.fromkeys(FIELDS, 1)]))
    names = {"folder": tmp_path, "plots": plots, "model": network, "recipe": recipe, "data": tiny}
    exec(source_with("plots.curves"), names)
    assert len(names["figure"].axes) == 3


def test_the_fields_of_a_network_of_other_than_four_parts_are_drawn(tiny, network):
    names = {"plots": plots, "model": network, "data": tiny}
    exec(source_with("plots.receptive_field"), names)
    assert len(names["figure"].axes) == 2 * 3


def test_all_mistakes_are_counted_where_there_are_more_than_ten_classes():
    truth, answer = torch.cartesian_prod(torch.arange(12), torch.arange(12)).unbind(1)
    images, half = torch.zeros(144, 3, 32, 32, dtype=torch.uint8), (0.5, 0.5, 0.5)
    split = Split(images, truth, tuple("abcdefghijkl"), half, half, "test", "letters", "made by the tests")
    answers = Evaluation(split, torch.eye(12)[answer], loss=0.0)
    exec(source_with("confusion_pairs(answers, "), {"plots": plots, "answers": answers})


def test_the_verdict_is_on_the_network_that_was_trained(tiny):
    early, late = (SimpleNamespace(requirements=[row("params", "", passed)]) for passed in (True, False))
    names = {"report": early, "final": late, "data": tiny, "result": SimpleNamespace(total=len(tiny.test))}
    with pytest.raises(AssertionError):
        exec(source_with("verdict = "), names | {"history": [{"test_accuracy": 90.0}], "bar": 85.0})


def test_a_part_of_cifar10_has_its_recipe(tiny, monkeypatch):
    part = ImageData(*(replace(split, classes=CIFAR10_CLASSES) for split in (tiny.train, tiny.test)))
    for data, name in ((part.hold_out(30), "fast"), (tiny, "digits")):
        monkeypatch.setattr("utils.load_cifar10", lambda data=data: data)
        names = {}
        exec(source_with("SEED = "), names)
        assert (names["recipe"].name, names["judged"].name) == (name, "fast")


def test_the_last_line_names_the_images(tiny, capsys):
    record = {"test_accuracy": 90.0, "epoch": 1, "seconds": 2.0}
    names = {"history": [record], "result": SimpleNamespace(total=30), "data": tiny.hold_out(30), "bar": 85.0}
    exec(source_with("last = history"), names)
    assert "90.00 % of 30 validation images" in capsys.readouterr().out


def test_the_summary_leaves_the_network_as_it_is(tiny):
    names = {"SEED": 3, "data": tiny}
    exec(source_with("summary("), names)
    new = build_model("s7", seed=3, classes=3).state_dict()
    assert all(torch.equal(tensor, new[key]) for key, tensor in names["model"].state_dict().items())


def test_the_training_is_on_the_device_that_the_setup_names(tiny, recipe, network, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setenv("S7_RUNS", str(tmp_path))
    monkeypatch.setattr("utils.fit", lambda *_, **keywords: given.update(keywords) or [{}] * recipe.epochs)
    names = {"model": network, "data": tiny, "recipe": recipe, "SEED": 0, "device": torch.device("mps")}
    exec(source_with("fit(trained"), names)
    assert given["device"] == "mps"
