"""Weights that ship with the repository are what their record says, and are found by name."""

import json
import os

import pytest
import torch

from utils.checkpoint import load_model
from utils.data import load_cifar10
from utils.errors import InputError
from utils.evaluation import evaluate
from utils.models import build_model, pretrained

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


def test_the_name_of_weights_stands_for_a_checkpoint(two_weights):
    model, record = load_model("s7-short")
    assert not model.training
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
