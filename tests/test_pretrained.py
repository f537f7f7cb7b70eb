"""Weights that ship with the repository are what their record says, and are found by name."""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import ship
from utils.checkpoint import load_checkpoint, load_model
from utils.data import JPEG_COPY, ORIGINAL, ImageData, load_cifar10
from utils.engine import first_weights, fit
from utils.errors import InputError
from utils.evaluation import evaluate
from utils.models import build_model, pretrained
from utils.recipes import RECIPES, Recipe

LARGEST = 1_000_000  # bytes


def test_weights_of_the_default_run_ship():
    assert "s7-fast" in pretrained.shipped()


@pytest.mark.parametrize("name", pretrained.shipped())
def test_shipped_weights_fit_their_network_and_are_small(name):
    run = pretrained.shipped()[name]
    assert name == f"{run['model']}-{run['recipe']['name']}"
    assert run["results"]["epochs"] == run["recipe"]["epochs"]
    assert (pretrained.FOLDER / f"{name}.safetensors").stat().st_size < LARGEST
    model = build_model(run["model"], pretrained=run["recipe"]["name"], **run["model_arguments"])
    assert sum(p.numel() for p in model.parameters()) == run["parameters"]
    weights, _ = pretrained.read_weights(name)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())


@pytest.mark.skipif(not os.environ.get("CIFAR10_DIR"), reason="needs CIFAR-10: set CIFAR10_DIR")
@pytest.mark.parametrize("name", pretrained.shipped())
def test_shipped_weights_have_the_accuracy_of_their_record(name):
    model, run = load_model(name)
    data = load_cifar10(os.environ["CIFAR10_DIR"], verbose=False)
    if data.name != run["data"]["name"]:
        pytest.skip(f"these weights are of {run['data']['name']}")
    assert run["mean"] == pytest.approx(data.mean)
    assert run["classes"] == list(data.classes)
    assert evaluate(model, data.test).accuracy == pytest.approx(run["results"]["test_accuracy"], abs=0.1)


@pytest.fixture
def two_weights(tmp_path, monkeypatch):
    """s7-short with 50 % and s7-long with 60 % in a folder of their own."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    facts = {"classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.25] * 3}
    for seed, (recipe, accuracy) in enumerate({"short": 50, "long": 60}.items()):
        weights = build_model("s7", seed=seed, classes=2).state_dict()
        run = {"model": "s7", "model_arguments": {"classes": 2, "width": 1.0}, "recipe": {"name": recipe}}
        run |= {"results": {"test_accuracy": accuracy}, "data": {"name": "tiny colours"}}
        pretrained.write_weights(f"s7-{recipe}", facts | {"weights": weights}, run)
    return tmp_path


def test_true_stands_for_the_most_accurate_and_a_name_for_itself(two_weights):
    best = build_model("s7", pretrained=True, classes=2).state_dict()
    short = build_model("s7", pretrained="short", classes=2).state_dict()
    assert torch.equal(best["c1.0.0.weight"], build_model("s7", seed=1, classes=2).c1[0][0].weight)
    assert torch.equal(short["c1.0.0.weight"], build_model("s7", seed=0, classes=2).c1[0][0].weight)


def test_a_part_that_has_learned_is_known_as_well(two_weights):
    model = nn.Sequential(build_model("s7", classes=2), build_model("s7", pretrained="short", classes=2))
    assert first_weights(model) == "s7-short"
    model[0].learned_from = torch.empty(0)
    assert first_weights(model) == "an earlier run"


def test_weights_that_ship_do_not_fit_a_network_that_was_changed(two_weights, monkeypatch):
    changed = {"s7": lambda classes=10, width=1.0: nn.Linear(3, classes)}
    monkeypatch.setattr("utils.models.MODELS", changed)
    with pytest.raises(InputError, match="the weights s7-short do not fit 's7' any more"):
        load_model("s7-short")


@pytest.mark.parametrize("value", [True, False, None])
def test_what_a_network_of_one_s_own_calls_pretrained_is_no_name_of_weights(network, value):
    network.pretrained = value
    assert first_weights(network) == "as built"


def test_the_name_of_weights_stands_for_a_checkpoint(two_weights):
    model, record = load_model("s7-short")
    assert not model.training
    assert first_weights(model) == "s7-short"
    assert record["classes"] == ["a", "b"]
    assert record["std"] == [0.25] * 3
    assert json.loads((two_weights / "s7-short.json").read_text())["data"] == record["data"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: build_model("s7", pretrained="other", classes=2),
            "trained by recipe 'other' ship with this repository",
        ),
        (
            lambda: build_model("residual", pretrained=True),
            "no weights of 'residual' ship .* there are: s7-long, s7-short",
        ),
        (lambda: build_model("s7", pretrained=True), "are of a network with {'classes': 2, 'width': 1.0}"),
        (lambda: load_model("s7-other"), "no such checkpoint.*weights that ship here: s7-long, s7-short"),
    ],
)
def test_what_does_not_ship_is_said(two_weights, call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.fixture
def finished(tmp_path, tiny, monkeypatch):
    """The folder of a run of `s7` under a recipe "tiny", as if the data were CIFAR-10; weights ship elsewhere."""
    recipe = Recipe("tiny", epochs=1, batch_size=40, sides=(16,))
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(ship, "FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    fit(build_model("s7", classes=10), replace_classes(tiny), recipe, out=tmp_path / "run")
    change(tmp_path / "run", data={"name": JPEG_COPY, "train_images": 50_000, "test_images": 10_000})
    return tmp_path / "run"


def replace_classes(data):
    """The data with ten classes, of which three occur."""
    names = tuple("abcdefghij")
    return ImageData(replace(data.train, classes=names), replace(data.test, classes=names))


def change(folder, **parts) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    changed = {key: run[key] | part if isinstance(part, dict) else part for key, part in parts.items()}
    path.write_text(json.dumps(run | changed))


@pytest.mark.parametrize("data", [JPEG_COPY, ORIGINAL])
def test_a_finished_run_ships_with_its_last_weights(finished, capsys, data):
    change(finished, data={"name": data})
    (finished / "best.pt").unlink()
    assert ship.main([str(finished)]) == 0
    assert "% of the test images" in capsys.readouterr().out
    trained = load_checkpoint(finished / "last.pt")["weights"]
    shipped = build_model("s7", pretrained="tiny").state_dict()
    assert all(torch.equal(shipped[name], trained[name]) for name in trained)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"results": {"epochs": 0}}, "only 0 epochs are done"),
        ({"model_arguments": {"width": 0.375}}, "another model_arguments"),
        ({"recipe": {"flip": 0.25}}, r"another recipe \(flip: 0.25 then, 0.5 now\)"),
        ({"data": {"name": "tiny colours"}}, "all of CIFAR-10"),
        ({"data": {"train_images": 45_000}}, "all of CIFAR-10"),
        ({"data": {"test_images": 9_999}}, "all of CIFAR-10"),
        ({"results": {"test_evaluations": 0}}, "was tested on it"),
        ({"policy": "Compose([])"}, "another policy"),
        ({"first_weights": "an earlier run"}, "another first_weights"),
    ],
)
def test_a_run_that_is_not_what_its_name_says_does_not_ship(finished, capsys, parts, says):
    change(finished, **parts)
    assert ship.main([str(finished)]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert list(pretrained.FOLDER.iterdir()) == []


def test_a_run_without_its_record_does_not_ship(finished, capsys):
    (finished / "run.json").unlink()
    assert ship.main([str(finished)]) == 2
    assert "no run.json there" in capsys.readouterr().err
