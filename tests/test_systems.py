"""What the systems claim and what is measured: each verdict turns when what it measures does."""

import copy
import json

import pytest
from torch import nn

from utils.errors import InputError
from utils.history import history_csv
from utils.models import build_model
from utils.systems import NUMBERS, PUBLISHED, accuracy_panels, check_claims, measured_rows, multiply_adds, read_runs


def record(model: str, accuracy: float = 84.0, seconds: float = 100.0, seed: int = 0, epochs: int = 2) -> dict:
    return {
        "model": model,
        "recipe": {"name": "fast"},
        "seed": seed,
        "data": {"name": "tiny", "provenance": "made by the tests"},
        "results": {"test_accuracy": accuracy, "epochs": epochs, "seconds": seconds},
        "accuracy_on_training_images": 90.0,
    }


def keep(folder, model: str, kind: str, accuracies: list[float], seconds: float = 100.0, seed: int = 0) -> None:
    """A finished run, as benchmarks/systems.py leaves it."""
    row = {"learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 50.0, "test_loss": 1.0, "seconds": 1.0}
    history = [{"epoch": e} | row | {"test_accuracy": a} for e, a in enumerate(accuracies, 1)]
    kept = record(model, accuracies[-1], seconds, seed, len(accuracies))
    (folder / f"{model}-{kind}-seed{seed}.json").write_text(json.dumps(kept))
    (folder / f"{model}-{kind}-seed{seed}.csv").write_text(history_csv(history))


@pytest.fixture(scope="module")
def verdicts():
    return check_claims({name: record(name) for name in NUMBERS})


def found(verdicts, system: str, about: str) -> list[tuple[str, bool]]:
    return [(v.measured, v.holds) for v in verdicts if (v.system, v.about) == (system, about)]


def test_parameters_hold_but_those_of_002(verdicts):
    assert found(verdicts, "000", "parameters") == [("178,506", True)]
    assert found(verdicts, "001", "parameters") == [("197,922", True)]
    assert found(verdicts, "002", "parameters") == [("86,954", False), ("86,954", False)]
    assert found(verdicts, "003", "parameters") == [("180,298", True)]
    assert found(verdicts, "004", "parameters") == [("197,472", True)]
    assert found(verdicts, "002", "limit of parameters") == [("86,954: below", False)]


def test_000_was_measured_on_its_training_images(verdicts):
    assert [holds for _, holds in found(verdicts, "000", "evaluated on")] == [False]
    assert [holds for _, holds in found(verdicts, "000", "average loss")] == [False]


def test_fields_are_those_of_the_networks(verdicts):
    assert found(verdicts, "000", "receptive field") == [("25 before the global average, 32 with it", False)]
    assert found(verdicts, "001", "receptive field") == [("25 before the global average, 49 with it", False)]


def test_separable_convolutions_are_where_they_are(verdicts):
    holds = {v.system: v.holds for v in verdicts if v.about == "depthwise separable"}
    assert holds == {"000": False, "001": True, "003": False, "004": False}


def test_logs_are_held_against_their_own_text(verdicts):
    assert found(verdicts, "001", "epochs") == [("100 in its log", False)]
    assert [holds for _, holds in found(verdicts, "001", "which epoch")] == [False]
    assert found(verdicts, "002", "aim of 85 %") == [("80.31 %, the best of its log", False)]
    assert [holds for _, holds in found(verdicts, "the task", "CoarseDropout")] == [False]


@pytest.mark.parametrize(("accuracy", "holds"), [(85.09, False), (85.1, True)])
def test_an_accuracy_counts_as_reached_within_half_a_point(accuracy, holds):
    records = {name: record(name) for name in NUMBERS} | {"residual": record("residual", accuracy, epochs=35)}
    assert found(check_claims(records), "004", "test accuracy") == [(f"{accuracy:.2f} % after 35 epochs", holds)]


def test_an_accuracy_without_a_full_run_is_not_judged():
    rows = check_claims({name: record(name) for name in NUMBERS if name != "residual"})
    assert found(rows, "004", "test accuracy") == [("no full run yet", None)]
    assert [row.word for row in rows if (row.system, row.about) == ("004", "test accuracy")] == ["not judged"]
    assert found(rows, "004", "parameters") == [("197,472", True)]


def test_a_verdict_follows_the_network(monkeypatch):
    def shallow(name):
        model = build_model(name)
        if name == "transition":
            model.c1.append(nn.Conv2d(32, 32, 1))
        return model

    monkeypatch.setattr("utils.systems.build_model", shallow)
    rows = check_claims({name: record(name) for name in NUMBERS})
    assert found(rows, "003", "parameters") == [("181,354", False)]


def test_a_verdict_follows_the_log(monkeypatch):
    honest = copy.deepcopy(PUBLISHED["dilated_valid"]) | {"evaluated_on": 10_000, "test_loss": [0.5]}
    monkeypatch.setitem(PUBLISHED, "dilated_valid", honest)
    rows = check_claims({name: record(name) for name in NUMBERS})
    assert [holds for _, holds in found(rows, "000", "evaluated on")] == [True]
    assert [holds for _, holds in found(rows, "000", "average loss")] == [True]


def test_runs_are_read_by_network_and_kind(tmp_path):
    keep(tmp_path, "residual", "fast", [70.0, 86.0], seed=1)
    keep(tmp_path, "residual", "fast", [71.0, 85.0], seed=0)
    keep(tmp_path, "residual", "as_it_ran", [50.0], seconds=60)
    keep(tmp_path, "residual", "own", [60.0, 61.0, 84.5], seconds=900)
    runs = read_runs(tmp_path)
    assert [run.record["seed"] for run in runs["residual", "fast"]] == [0, 1]
    assert measured_rows(runs, ["residual", "s7"])[1:] == [
        ("residual", 3, "84.50", 60, "85.50 ± 0.71 (n = 2)", 100, "1.8"),
        ("s7", "-", "-", "-", "-", "-", "-"),
    ]
    panels = accuracy_panels(runs, ["residual", "s7"])
    assert panels["004 residual"] == {
        "claimed": PUBLISHED["residual"]["test_accuracy"],
        "own": [60.0, 61.0, 84.5],
        "fast, seed 0": [71.0, 85.0],
        "fast, seed 1": [70.0, 86.0],
    }
    assert panels["s7"] == {}


@pytest.mark.parametrize("damage", ["{", "[]", '{"model": "residual"}'])
def test_a_damaged_record_is_named(tmp_path, damage):
    keep(tmp_path, "residual", "own", [60.0])
    (tmp_path / "residual-own-seed0.json").write_text(damage)
    with pytest.raises(InputError, match=r"residual-own-seed0\.json: not the record of a run"):
        read_runs(tmp_path)


def test_a_record_under_another_network_s_name_is_refused(tmp_path):
    keep(tmp_path, "residual", "own", [60.0])
    for ending in ("json", "csv"):
        (tmp_path / f"residual-own-seed0.{ending}").rename(tmp_path / f"transition-own-seed0.{ending}")
    with pytest.raises(InputError, match="its record is of the network 'residual'"):
        read_runs(tmp_path)


def test_a_csv_of_another_version_is_refused(tmp_path):
    keep(tmp_path, "residual", "own", [60.0])
    (tmp_path / "residual-own-seed0.csv").write_text("epoch,accuracy\n1,50\n")
    with pytest.raises(InputError, match=r"residual-own-seed0\.csv: its columns are"):
        read_runs(tmp_path)


def test_multiply_adds_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert multiply_adds(nn.Sequential(model, nn.Linear(8, 10))) == 16 * 16 * 8 * 27 + 80
    assert model.training
