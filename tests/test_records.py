"""What a run is, and whether a record is its own."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from utils import InputError
from utils.engine import fit
from utils.records import finished_record, identity, must_agree, network_digest, read_record, with_defaults

HERE = Path("runs/here")


@pytest.fixture
def finished(network, tiny, recipe, tmp_path):
    """What a finished run is, and its run.json."""
    fit(network, tiny, recipe, seed=5, out=tmp_path)
    return (network, recipe, tiny, 5), tmp_path / "run.json"


def changed(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_record_agrees_with_its_run_although_json_has_no_tuples(finished):
    run, path = finished
    must_agree(HERE, read_record(path), identity(*run))
    assert read_record(path)["recipe"]["sides"] != identity(*run)["recipe"]["sides"]


def test_all_that_differs_is_named_with_both_values(finished):
    (model, recipe, data, _), path = finished
    other = identity(model, replace(recipe, momentum=0.5, sides=(32,)), data, seed=6)
    with pytest.raises(InputError) as error:
        must_agree(HERE, read_record(path), other)
    assert str(error.value) == (
        f"{HERE} belongs to a run with another recipe (momentum: 0.9 then, 0.5 now, sides: [24, 32] then, (32,) now); "
        "seed (5 then, 6 now): name another folder, or give the same arguments as then"
    )


def test_a_record_from_before_a_field_existed_has_its_default(finished):
    _, path = finished
    record = json.loads(path.read_text())
    del record["recipe"]["plain"], record["recipe"]["momentum"]
    older = with_defaults(record | {"model": "s7", "model_arguments": {"classes": 3}})
    assert older["recipe"]["plain"] == 0.0
    assert older["recipe"]["momentum"] == 0.9
    assert older["model_arguments"] == {"classes": 3, "width": 1.0}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '"run"', '{"model": "s7", "model_arguments": {}, "recipe": 3}']
)
def test_a_damaged_record_is_refused(finished, content):
    _, path = finished
    path.write_text(content)
    with pytest.raises(InputError, match=r"run\.json: not the record of a run .*; remove it"):
        read_record(path)


@pytest.mark.parametrize("results", [None, [], {}, {"epochs": "3"}, {"epochs": None}, {"epochs": float("nan")}])
def test_a_record_that_does_not_say_how_far_its_run_came_is_refused(finished, results):
    _, path = finished
    changed(path, results=results)
    with pytest.raises(InputError, match="not the record of a run"):
        read_record(path)


def test_only_a_run_that_came_to_its_end_is_finished(finished, tmp_path):
    run, path = finished
    assert finished_record(path.parent, *run) == read_record(path)
    assert finished_record(tmp_path / "nowhere", *run) is None
    changed(path, results=read_record(path)["results"] | {"epochs": 2})
    assert finished_record(path.parent, *run) is None


def test_a_network_that_had_other_parameters_then_is_another(finished):
    run, path = finished
    changed(path, parameters=200_001)
    with pytest.raises(InputError, match=r"another parameters \(200001 then, 267 now\)"):
        finished_record(path.parent, *run)


def test_a_network_that_draws_numbers_is_the_same_in_another_process():
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator()
            self.head = nn.Linear(3, 10)

        def forward(self, images):
            noise = torch.bernoulli(images.sigmoid(), generator=self.generator)
            return self.head((images + noise).mean((2, 3))) * random.random()

    one, other = Drawing(), Drawing()  # side by side, so that their generators are not at one address
    random.seed(1)
    first = network_digest(one, (3, 32, 32))
    random.seed(2)
    assert first == network_digest(other, (3, 32, 32)) is not None
    assert random.random() == random.Random(2).random()  # whoever asked has drawn nothing
