"""What the systems claim and what is measured: each verdict turns when what it measures does."""

import copy

import pytest
from torch import nn

from utils.models import build_model
from utils.systems import NUMBERS, PUBLISHED, check_claims, multiply_adds


def record(accuracy: float = 84.0, epochs: int = 2, data: str = "CIFAR-10") -> dict:
    """What check_claims reads of a full run."""
    return {
        "data": {"name": data},
        "results": {"test_accuracy": accuracy, "epochs": epochs},
        "accuracy_on_training_images": 90.0,
    }


@pytest.fixture(scope="module")
def verdicts():
    return check_claims({name: record() for name in NUMBERS})


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
    records = {name: record() for name in NUMBERS} | {"residual": record(accuracy, epochs=35)}
    assert found(check_claims(records), "004", "test accuracy") == [
        (f"{accuracy:.2f} % after 35 epochs; CIFAR-10", holds)
    ]


@pytest.mark.parametrize(
    ("accuracy", "data", "word"),
    [
        (80.0, "CIFAR-10", "DOES NOT HOLD"),
        (80.0, "CIFAR-10, JPEG copy", "NOT REACHED"),
        (86.0, "CIFAR-10, JPEG copy", "holds"),
    ],
)
def test_a_miss_on_other_pixels_refutes_nothing(accuracy, data, word):
    records = {name: record() for name in NUMBERS} | {"residual": record(accuracy, data=data)}
    words = {v.word for v in check_claims(records) if (v.system, v.about) == ("004", "test accuracy")}
    assert words == {word}


def test_an_accuracy_without_a_full_run_is_not_judged():
    rows = check_claims({name: record() for name in NUMBERS if name != "residual"})
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
    rows = check_claims({name: record() for name in NUMBERS})
    assert found(rows, "003", "parameters") == [("181,354", False)]


def test_a_claim_of_where_something_is_does_not_hold_if_it_is_nowhere(monkeypatch):
    def plain(name):
        model = build_model(name)
        if name == "strided_separable":
            old = model.c1[0].depthwise
            model.c1[0].depthwise = nn.Conv2d(old.in_channels, old.out_channels, 3, old.stride, old.padding)
        return model

    monkeypatch.setattr("utils.systems.build_model", plain)
    assert [holds for _, holds in found(check_claims({}), "001", "depthwise separable")] == [False]


def test_a_verdict_follows_the_log(monkeypatch):
    honest = copy.deepcopy(PUBLISHED["dilated_valid"]) | {"evaluated_on": 10_000, "test_loss": [0.5]}
    monkeypatch.setitem(PUBLISHED, "dilated_valid", honest)
    rows = check_claims({name: record() for name in NUMBERS})
    assert [holds for _, holds in found(rows, "000", "evaluated on")] == [True]
    assert [holds for _, holds in found(rows, "000", "average loss")] == [True]


def test_multiply_adds_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert multiply_adds(nn.Sequential(model, nn.Linear(8, 10))) == 16 * 16 * 8 * 27 + 80
    assert model.training
