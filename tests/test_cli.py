"""The command line, as a user types it; most tests call `main` in this process, which is the same path."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from utils.__main__ import main
from utils.models import MODELS
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


def test_train_fails_if_the_accuracy_asked_for_is_not_reached(tmp_path):
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--out", str(tmp_path / "r")]
    assert main(["train", *options, "--until", "100"]) == 1


def test_train_writes_the_lines_that_are_asked_for(tmp_path):
    options = ["--data", "digits", "--recipe", "digits", "--epochs", "1", "--out", str(tmp_path)]
    assert main(["train", *options, "--report-every", "20", "--class-report"]) == 0
    log = (tmp_path / "training.log").read_text()
    assert "Epoch 1, Batch 40: Train Loss:" in log
    assert "macro avg" in log


def test_evaluate_gives_the_accuracy_of_the_last_epoch(run, capsys):
    assert main(["evaluate", str(run / "last.pt"), "--data", "digits"]) == 0
    shown = capsys.readouterr().out
    expected = json.loads((run / "run.json").read_text())["results"]["test_accuracy"]
    assert f"({expected:.2f}%)" in shown
    assert "macro avg" in shown


def test_predict_shows_three_classes_and_draws_them(run, tmp_path, capsys):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "white.jpg")
    figure = tmp_path / "out.png"
    assert main(["predict", str(run / "best.pt"), str(tmp_path / "white.jpg"), "--figure", str(figure)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(str(tmp_path / "white.jpg"))
    assert line.count("%") == 3
    assert Image.open(figure).size[0] > 300


def test_summary_prints_the_table_of_torchsummary(capsys):
    assert main(["summary", "s7"]) == 0
    assert "Total params: 172,026" in capsys.readouterr().out


def test_models_lists_every_network_with_its_parameters(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(MODELS)
    assert "172026" in lines[1]


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
        (["train", "--epochs", "many"], "invalid"),
        (["train", "--seed", "-1"], "invalid"),
        (["train", "--data", "digits", "--epochs", "0"], "epochs=0"),
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


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "summary", "models", "recipes"])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  python -m utils {command}" in capsys.readouterr().out


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from utils.engine import Trainer

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupted)
    assert main(["train", "--data", "digits", "--recipe", "digits", "--out", str(tmp_path / "r")]) == 130
    assert "Interrupted" in capsys.readouterr().out


def test_the_package_runs_as_a_module(tmp_path):
    done = subprocess.run([sys.executable, "-m", "utils", "models"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "s7_dilated" in done.stdout
