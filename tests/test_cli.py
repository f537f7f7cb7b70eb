"""The command line, as a user types it; most tests call `main` in this process, which is the same path."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from PIL import Image
from test_repeat import runs
from torch import nn

from utils.__main__ import main
from utils.checkpoint import load_checkpoint, load_model, write_checkpoint
from utils.errors import TrainingError
from utils.evaluation import evaluate
from utils.given import given_network
from utils.models import MODELS, blocks
from utils.predict import load_picture, predict
from utils.recipes import RECIPES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the embedded digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    code = main(["train", "--data", "digits", "--recipe", "digits", "--epochs", "2", "--out", str(folder)])
    assert code == 0
    return folder


def refused(arguments, capsys) -> str:
    """The one line on stderr with which the command line refuses `arguments`; the exit status is 2."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    line = capsys.readouterr().err
    assert code == 2
    assert len(line.splitlines()) == 1
    return line


def test_train_writes_a_run_that_says_embedded_digits(run):
    record = json.loads((run / "run.json").read_text())
    assert record["model"] == "s7"
    assert record["recipe"]["epochs"] == 2
    assert record["data"]["name"] == "embedded digits, not CIFAR-10"
    assert record["results"]["test_images"] == 360


def test_train_resumes(run, capsys):
    before = (run / "history.csv").read_bytes()
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "2", "--out", str(run)]
    assert main(["train", *options, "--resume"]) == 0
    assert "Resumed after epoch 2" in capsys.readouterr().out
    assert (run / "history.csv").read_bytes() == before


def test_repeat_says_how_far_the_recipe_can_be_trusted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("S7_RUNS", str(tmp_path))
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--seeds", "2"]
    assert main(["repeat", *options]) == 1  # one epoch is not enough
    assert "at 95.00 % or more: 0 of 2" in capsys.readouterr().out
    folder = tmp_path / "s7-digits-repeat"
    assert sorted(p.name for p in folder.iterdir()) == ["repeat.csv", "repeat.png", "seed0", "seed1"]


def test_repeat_succeeds_if_every_seed_is_at_the_target(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("utils.commands.repeat", lambda *arguments, **_: given.append(arguments) or runs(86.0, 85.0))
    options = ["--data", "digits", "--seeds", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["repeat", *options]) == 0
    assert given[0][3:] == (2, tmp_path, "cpu")


def test_train_fails_if_the_accuracy_asked_for_is_not_reached(tmp_path):
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--out", str(tmp_path / "r")]
    assert main(["train", *options, "--until", "100"]) == 1


def test_train_writes_the_lines_that_are_asked_for(tmp_path):
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--out", str(tmp_path)]
    assert main(["train", *options, "--report-every", "20", "--class-report"]) == 0
    log = (tmp_path / "training.log").read_text()
    assert "Epoch 1, Batch 40: Train Loss:" in log
    assert "macro avg" in log


def test_train_builds_the_network_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("S7_RUNS", str(tmp_path))
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--args", '{"width": 0.25}']
    assert main(["train", *options]) == 0
    record = json.loads((tmp_path / "s7-width0.25-digits-seed0" / "run.json").read_text())
    assert record["parameters"] == 13_014
    assert main(["repeat", *options, "--seeds", "1"]) == 1  # one epoch is not enough
    record = json.loads((tmp_path / "s7-width0.25-digits-repeat" / "seed0" / "run.json").read_text())
    assert record["model_arguments"] == {"classes": 10, "width": 0.25}


def test_weights_that_ship_are_named_like_a_checkpoint(tmp_path, capsys):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "white.png")
    assert main(["predict", "s7-fast", str(tmp_path / "white.png")]) == 0
    assert "Trained on CIFAR-10, JPEG copy" in capsys.readouterr().out
    assert main(["audit", "s7-fast"]) == 0


def test_export_writes_a_file_that_answers_alike(run, tmp_path, capsys):
    assert main(["export", str(run / "last.pt"), "--data", "digits", "--out", str(tmp_path / "net.onnx")]) == 0
    assert "on 360 test images" in capsys.readouterr().out
    assert (tmp_path / "net.onnx").stat().st_size > 100_000


def test_export_names_what_the_network_answers_whatever_it_is_compared_on(tmp_path, capsys):
    assert main(["export", "s7-fast", "--data", "digits", "--out", str(tmp_path / "net.onnx")]) == 0
    assert "WARNING: trained on CIFAR-10, JPEG copy, tested on embedded digits" in capsys.readouterr().err
    facts = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert facts["classes"][:2] == ["airplane", "automobile"]


def test_train_leaves_the_test_images_alone_if_told_to_validate(tmp_path, capsys):
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--out", str(tmp_path)]
    assert main(["train", *options, "--validation", "100"]) == 0
    assert "% of 100 validation images after epoch 1" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["data"]["train_images"] == 1437 - 100
    assert record["results"]["test_evaluations"] == 0


def test_evaluate_gives_the_accuracy_of_the_last_epoch(run, capsys):
    assert main(["evaluate", str(run / "last.pt"), "--data", "digits", "--mirrored"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("test-time augmentation") == 1
    expected = json.loads((run / "run.json").read_text())["results"]["test_accuracy"]
    assert f"({expected:.2f}%)" in shown
    assert "macro avg" in shown


def test_evaluate_warns_if_the_data_s_classes_are_others(run, tmp_path, capsys):
    assert main(["evaluate", str(run / "best.pt"), "--data", "digits"]) == 0
    assert capsys.readouterr().err == ""
    checkpoint = load_checkpoint(run / "best.pt")
    write_checkpoint(tmp_path / "turned.pt", checkpoint | {"classes": checkpoint["classes"][::-1]})
    assert main(["evaluate", str(tmp_path / "turned.pt"), "--data", "digits"]) == 0
    assert "WARNING: it answers with nine, eight" in capsys.readouterr().err


def test_evaluate_normalises_as_the_network_has_learned(run, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("utils.commands.evaluate", lambda model, split: asked.append(split) or evaluate(model, split))
    checkpoint = load_checkpoint(run / "last.pt")
    write_checkpoint(run / "other.pt", checkpoint | {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]})
    assert main(["evaluate", str(run / "other.pt"), "--data", "digits"]) == 0
    assert asked[0].mean == (0.1, 0.2, 0.3)
    assert asked[0].std == (0.5, 0.6, 0.7)


def test_predict_shows_three_classes_and_draws_them(run, tmp_path, capsys):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "white.jpg")
    figure = tmp_path / "out.png"
    assert main(["predict", str(run / "best.pt"), str(tmp_path / "white.jpg"), "--figure", str(figure)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    model, checkpoint = load_model(run / "best.pt")
    picture = load_picture(tmp_path / "white.jpg")[None]
    percent = 100 * predict(model, picture, checkpoint["mean"], checkpoint["std"])[0]
    answers = [f"{checkpoint['classes'][k]} {percent[k]:.1f} %" for k in percent.argsort(descending=True)[:3]]
    assert line == f"{tmp_path / 'white.jpg'}: {', '.join(answers)}"
    assert Image.open(figure).size[0] > 300


def test_summary_prints_the_table_of_torchsummary(capsys):
    assert main(["summary", "s7"]) == 0
    assert "Total params: 199,922" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "network", "says"),
    [
        ("summary", lambda: nn.Conv2d(5, 8, 3), "torchsummary cannot show s7: Given groups=1"),
        ("summary", lambda: nn.Conv2d(5), "s7 cannot be made with {}"),
        ("draw", lambda: nn.Conv(3, 5), "s7 cannot be made with {}: module 'torch.nn' has no attribute 'Conv'"),
        ("models", lambda: nn.Conv(3, 5), "s7 cannot be made with {}: module 'torch.nn' has no attribute 'Conv'"),
    ],
)
def test_a_network_that_was_changed_and_is_broken_is_no_traceback(command, network, says, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "s7", network)
    assert says in refused([command] if command == "models" else [command, "s7"], capsys)


@pytest.fixture
def own_file(tmp_path, monkeypatch) -> list[str]:
    """The arguments that name a network in a file, in the folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    layers = "nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(900 * width, 7)"
    source = f"from torch import nn\nprint('loaded')\ndef Net(width): return nn.Sequential({layers})\n"
    (tmp_path / "net.py").write_text(source)
    return ["net.py:Net", "--args", '{"width": 2}']


def test_a_network_in_a_file_is_summarized(own_file, capsys):
    assert main(["summary", *own_file]) == 0
    table = capsys.readouterr().out
    assert "Total params: 12,663" in table and "loaded" not in table


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program dot is not installed")
def test_a_network_in_a_file_is_drawn_and_named_after_its_class(own_file, capsys):
    assert main(["draw", *own_file]) == 0
    assert capsys.readouterr().out == "Net.svg was written\n"
    assert "<title>Sequential</title>" in Path("Net.svg").read_text()


def test_models_lists_every_network_with_its_parameters(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(MODELS)
    assert "199922" in lines[1]


def test_recipes_lists_every_hyper_parameter(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)
    assert "learning_rate" in shown
    assert str(RECIPES["fast"].learning_rate) in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--model", "s8"], "unknown model 's8'; there are: s7"),
        (["train", "--recipe", "slow"], "unknown recipe 'slow'; there are: fast"),
        (["train", "--data", "no/such/folder"], "no/such/folder"),
        (["train", "--data", "digits", "--device", "tpu"], "device 'tpu' cannot be used here"),
        (["train", "--data", "digits", "--device", "meta"], "device 'meta' cannot be used here"),
        (["train", "--data", "digits", "--device", "hpu"], "device 'hpu' cannot be used here"),
        (["train", "--data", "~nobody.of.this.name/x"], "~nobody.of.this.name/x"),
        (["train", "--data", "a" * 300], "too long"),
        (["evaluate", "a" * 300], "too long"),
        (["train", "--data", "digits", "--until", "nan"], "until=nan"),
        (["train", "--data", "digits", "--validation", "0"], "0 of 1,437 training images cannot be held out"),
        (["train", "--epochs", "many"], "invalid"),
        (["train", "--seed", "-1"], "invalid"),
        (["train", "--data", "digits", "--epochs", "0"], "epochs=0"),
        (["train", "--args", "width=2"], "not JSON"),
        (["train", "--args", '{"depth": 2}'], "takes no argument 'depth'"),
        (["train", "--args", '{"width": "wide"}'], "width='wide' cannot be used"),
        (["repeat", "--args", '{"classes": 2}'], "classes cannot be given there"),
        (["train", "--data", "digits", "--validation", "5000"], "5000 of 1,437 training images cannot be held out"),
        (["export", "no.pt"], "no.pt: no such checkpoint"),
        (["evaluate", "\x1b[2J.pt"], r"\x1b[2J.pt: no such checkpoint"),  # which would clear the terminal
        (["evaluate", "no.pt"], "no.pt: no such checkpoint"),
        (["predict", "no.pt", "a.png"], "no.pt: no such checkpoint"),
        (["summary", "s8"], "unknown model 's8'"),
        (["fly"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_input_is_answered_in_one_line(arguments, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert says in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written_is_refused(run, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    arguments = ["predict", str(run / "best.pt"), str(tmp_path / "a.png"), "--figure"]
    assert "cannot be written" in refused([*arguments, str(tmp_path / "no" / "out.png")], capsys)
    assert "cannot be written" in refused([*arguments, str(tmp_path / "out.doc")], capsys)


@pytest.mark.parametrize("command", ["train", "repeat", "evaluate", "predict", "audit", "summary", "models", "recipes"])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  python -m utils {command}" in capsys.readouterr().out


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from utils.trainer import Trainer

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupted)
    assert main(["train", "--data", "digits", "--recipe", "digits", "--out", str(tmp_path / "r")]) == 130
    assert "Interrupted" in capsys.readouterr().out


def test_a_training_that_cannot_go_on_ends_with_1_and_one_line(monkeypatch, capsys):
    def failing(*_, **__):
        raise TrainingError("the loss stopped being a number")

    monkeypatch.setattr("utils.commands.fit", failing)
    assert main(["train", "--data", "digits"]) == 1
    assert capsys.readouterr().err == "python -m utils: the loss stopped being a number\n"


def test_a_reader_that_has_gone_is_no_traceback():
    running = subprocess.Popen(
        [sys.executable, "-m", "utils", "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait() == 141


def test_the_package_runs_as_a_module(tmp_path):
    done = subprocess.run([sys.executable, "-m", "utils", "models"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "s7_dilated" in done.stdout


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(tmp_path):
    picture = tmp_path / "猫.png"
    Image.new("RGB", (32, 32)).save(picture)
    done = subprocess.run(
        [sys.executable, "-m", "utils", "predict", "s7-fast", str(picture)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u732b.png" in done.stdout


NETWORK = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from beside import KERNEL

print("a word of its own")

@dataclass
class Settings:  # with its annotations as text it looks for its own module
    width: int = 4

class Net(nn.Sequential):
    def __init__(self, width=4, dilation=1):
        super().__init__(
            nn.Conv2d(3, width, KERNEL, dilation=dilation),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 10),
        )
        print("another")

def build():
    return Net(5)

ready = Net(6)
number = 7

class Fails(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("so it goes")
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("KERNEL = 3")
    path = tmp_path / "mine.py"
    path.write_text(NETWORK)
    return path


@pytest.mark.parametrize("place", ["mine.py", "models/mine.py"])
@pytest.mark.parametrize("own", ["utils.py", "utils/__init__.py", "utils/data.py"])
def test_audit_takes_the_user_s_own_utils_for_what_their_file_imports(tmp_path, capsys, own, place):
    for name in (own, place):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("def layers():\n    from torch import nn\n    return nn.Conv2d(3, 4, 3)\n")
    (tmp_path / place).write_text(
        f"from torch import nn\nfrom utils{'.data' * ('data' in own)} import layers\n"
        "class Net(nn.Sequential):\n    def __init__(self):\n        super().__init__(layers())\n"
    )
    ours = sys.modules["utils"]
    assert main(["audit", f"{tmp_path / place}:Net"]) == 1
    assert capsys.readouterr().out.startswith("Net: FAILED")
    assert sys.modules["utils"] is ours
    assert sys.modules["utils.audit"].__name__ == "utils.audit"


def test_a_file_of_this_repository_is_built_of_our_own_blocks():
    model = given_network(f"{Path(blocks.__file__).with_name('s7.py')}:s7").model
    assert any(isinstance(module, blocks.Residual) for module in model.modules())


def test_audit_passes_our_network_and_judges_its_augmentation(capsys):
    assert main(["audit", "s7"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("s7: passed\n")
    assert "all three as demanded (recipe fast)" in shown
    assert "c1.0.0    conv 3x3                16x32x32  3x3    1x1" in shown


def test_audit_fails_what_fails_and_takes_another_recipe(capsys):
    assert main(["audit", "residual"]) == 1
    shown = capsys.readouterr().out
    assert "depthwise without a pointwise after it: c2.0.3" in shown
    assert "all three as demanded (recipe residual)" in shown
    assert main(["audit", "s7", "--recipe", "digits"]) == 1
    assert "HorizontalFlip with p=0 is never applied" in capsys.readouterr().out


def test_audit_prints_json(capsys):
    assert main(["audit", "s7_dilated", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["passed"], found["receptive_field"]) == ("s7_dilated", True, [45, 45])
    assert found["requirements"][3] == {
        "id": "rf",
        "demanded": "more than 44",
        "measured": "45x45 before the global average, 48x48 with it",
        "passed": True,
        "where": ["c4.0"],
    }


@pytest.mark.parametrize(
    "line",
    [
        "from .blocks import layers",
        "from blocks import layers",
        "from src.models.blocks import layers",
        "import argparse; argparse.ArgumentParser().parse_args(); from blocks import layers",
    ],
)
def test_audit_runs_a_file_as_it_would_run_alone_or_in_its_package(tmp_path, capsys, monkeypatch, line):
    folder = tmp_path / "v1.0" / "src" / "models"
    folder.mkdir(parents=True)
    (folder / "blocks.py").write_text("from torch import nn\ndef layers():\n    return nn.Conv2d(3, 4, 3)\n")
    (folder / "mine.py").write_text(f"{line}\nNet = layers\n")
    arguments, path = ["utils", "audit", "mine.py:Net"], list(sys.path)
    monkeypatch.setattr(sys, "argv", arguments)
    assert main(["audit", f"{folder / 'mine.py'}:Net", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["parameters"] == 3 * 4 * 9 + 4
    assert sys.argv is arguments
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "arguments", "width"),
    [("Net", [], 4), ("Net", ["--args", '{"width": 32, "dilation": 2}'], 32), ("build", [], 5), ("ready", [], 6)],
)
def test_audit_runs_a_class_of_a_user_s_file(file, capsys, name, arguments, width):
    path = list(sys.path)
    assert main(["audit", f"{file}:{name}", "--json", *arguments]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)  # what the file prints is not in it
    assert found["parameters"] == width * 28 + width * 10 + 10
    assert found["receptive_field"] == ([5, 5] if "--args" in arguments else [3, 3])
    assert found["requirements"][8]["passed"] is None
    assert f"this runs {file}, your own file" in shown.err.splitlines()[0]
    assert sys.path == path


def test_audit_takes_another_size_of_image(file, capsys):
    assert main(["audit", f"{file}:Net", "--json", "--shape", "3x64x48"]) == 1
    assert json.loads(capsys.readouterr().out)["layers"][0]["output"] == [4, 62, 46]


def test_audit_reports_a_network_that_does_not_run(file, capsys):
    assert main(["audit", f"{file}:Fails"]) == 1
    assert "ZeroDivisionError: so it goes" in capsys.readouterr().out


def test_audit_of_a_checkpoint_knows_its_recipe_and_its_run(run, capsys):
    assert main(["audit", str(run / "best.pt")]) == 1
    shown = capsys.readouterr().out
    assert "360 test images of embedded digits, not CIFAR-10" in shown
    assert "HorizontalFlip with p=0 is never applied" in shown
    main(["audit", str(run / "best.pt"), "--recipe", "fast"])
    assert "all three as demanded (recipe fast)" in capsys.readouterr().out


def test_audit_credits_a_checkpoint_with_no_other_run_s_results(run, tmp_path, capsys):
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--args", '{"width": 0.375}']
    assert main(["train", *options, "--out", str(tmp_path / "other")]) == 0
    for name in ("run.json", "history.csv"):
        shutil.copy(run / name, tmp_path)
    shutil.copy(tmp_path / "other" / "best.pt", tmp_path)
    capsys.readouterr()
    assert "run.json and history.csv are of another run" in refused(["audit", str(tmp_path / "best.pt")], capsys)
    shutil.copy(run / "run.json", tmp_path / "other")  # its own history alone does not help
    assert "of another run" in refused(["audit", str(tmp_path / "other" / "best.pt")], capsys)


def test_audit_of_weights_that_ship_takes_no_record_that_lies_about(run, tmp_path, monkeypatch, capsys):
    shutil.copy(run / "run.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "s7-fast"]) == 0
    assert "no result was given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["s8"], "unknown model 's8'; there are: s7"),
        (["s7", "--recipe", "slow"], "unknown recipe 'slow'"),
        (["s7", "--args", "{width: 3}"], "not JSON"),
        (["s7", "--args", "3"], "not a JSON object"),
        (["s7", "--args", '{"depth": 3}'], "takes no argument 'depth'"),
        (["s7", "--args", '{"classes": "x"}'], "s7 cannot be made with {'classes': 'x'}"),
        (["s7", "--args", '{"classes": -1}'], "s7 cannot be made with {'classes': -1}"),
        (["s7", "--shape", "3x32"], "invalid shape value: '3x32'"),
        (["s7", "--shape", "3x32x0"], "input_shape must be channels, height, width"),
        (["no.py:Net"], "no.py: no such file"),
        (["no.py"], "name the class too, as in no.py:Net"),
        (["no.pth"], "no.pth: neither a run's checkpoint (.pt) nor a class in a file (FILE.py:CLASS)"),
        (["no.pt"], "no.pt: no such checkpoint"),
    ],
)
def test_what_audit_cannot_use_is_answered_in_one_line(arguments, says, capsys):
    assert says in refused(["audit", *arguments], capsys)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Net(", "cannot be run: SyntaxError: '(' was never closed (line 1)"),
        ("import sys\n\nsys.exit(3)", "cannot be run: SystemExit: 3 (line 3)"),
        ("import no_such_module", "cannot be run: ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("from torch import nn\nclass Other(nn.Module): pass", "no Net in it; there are: Other"),
        ("Net = 3", "Net cannot be made with {}: TypeError: 'int' object is not callable"),
        ("def Net(): return 3", "Net is no torch.nn.Module but int"),
        ("def Net(width): return 3", "Net cannot be made with {}: TypeError: Net() missing 1 required positional"),
        ("def Net():\n    raise KeyError('x')", "Net cannot be made with {}: KeyError: 'x' (line 2)"),
        (
            "def f():\n    raise KeyError('x')\n\ndef Net():\n    f()",
            "Net cannot be made with {}: KeyError: 'x' (line 2)",
        ),
        ("def Net():\n    raise SystemExit(3)", "Net cannot be made with {}: SystemExit: 3 (line 2)"),
    ],
)
def test_a_file_that_audit_cannot_use_is_answered_in_one_line(text, says, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert main(["audit", f"{path}:Net"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"python -m utils: this runs {path}, your own file"
    assert second.startswith(f"python -m utils: {path}")
    assert says in second


def test_a_checkpoint_takes_no_arguments(run, capsys):
    assert "leave --args away" in refused(["audit", str(run / "best.pt"), "--args", '{"classes": 3}'], capsys)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_file_whose_name_is_no_unicode_is_a_picture_too(run, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (32, 32), "white").save(tmp_path / name)
    command = [sys.executable, "-m", "utils", "predict", str(run / "last.pt"), str(tmp_path / name)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [*command, "--figure", str(tmp_path / "out.png")], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "caf\ufffd.png: ".encode() in done.stdout
