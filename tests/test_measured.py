"""What was measured is read as it was kept, and the comparisons turn when what they compare does."""

import json

import pytest

from utils.errors import InputError
from utils.history import history_csv
from utils.measured import (
    KeptRun,
    accuracy_panels,
    best_system,
    fast_against_own,
    measured_rows,
    ours_against_theirs,
    read_runs,
    sources,
)
from utils.systems import PUBLISHED


def keep(folder, model: str, kind: str, accuracies: list[float], seconds: float = 100.0, seed: int = 0) -> None:
    """A finished run, as benchmarks/systems.py leaves it."""
    row = {"learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 50.0, "test_loss": 1.0, "seconds": 1.0}
    history = [{"epoch": e} | row | {"test_accuracy": a} for e, a in enumerate(accuracies, 1)]
    kept = {
        "model": model,
        "recipe": {"name": "fast"},
        "seed": seed,
        "data": {"name": "tiny", "provenance": "made by the tests"},
        "hardware": "a machine",
        "results": {"test_accuracy": accuracies[-1], "epochs": len(accuracies), "seconds": seconds},
    }
    (folder / f"{model}-{kind}-seed{seed}.json").write_text(json.dumps(kept))
    (folder / f"{model}-{kind}-seed{seed}.csv").write_text(history_csv(history))


def test_runs_are_read_by_network_and_kind(tmp_path):
    keep(tmp_path, "residual", "fast", [70.0, 86.0], seed=1)
    keep(tmp_path, "residual", "fast", [71.0, 85.0], seed=0)
    keep(tmp_path, "residual", "as_it_ran", [50.0], seconds=60)
    keep(tmp_path, "residual", "own", [60.0, 61.0, 84.5], seconds=900)
    runs = read_runs(tmp_path)
    assert [run.record["seed"] for run in runs["residual", "fast"]] == [0, 1]
    assert measured_rows(runs, ["residual", "s7"])[1:] == [
        ("residual", 3, "84.50", "60.0", 2, "85.50 ± 0.71 (n = 2)", "-"),
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


@pytest.mark.parametrize(
    ("own", "epoch", "row"),
    [
        ([83.0, 84.0] * 10, 30.0, ("+1.00", "yes", 10.0, "yes", "20 epochs against 2, each 1.0 times as long")),
        ([83.0, 85.5] * 5, 45.0, ("-0.50", "NO", 7.5, "NO", "10 epochs against 2, each 1.5 times as long")),
    ],
)
def test_fast_is_held_against_the_own_recipe(tmp_path, own, epoch, row):
    keep(tmp_path, "residual", "own", own, seconds=1)  # in company: not what is compared
    keep(tmp_path, "residual", "as_it_ran", [50.0], seconds=epoch)
    keep(tmp_path, "residual", "fast", [70.0, 84.5], seconds=1)
    keep(tmp_path, "residual", "fast", [90.0, 85.5], seconds=1, seed=1)
    assert fast_against_own(read_runs(tmp_path))[1:] == []
    keep(tmp_path, "residual", "fast_epoch", [50.0], seconds=30)
    assert fast_against_own(read_runs(tmp_path))[1:] == [("residual", *row)]


def test_the_best_system_is_the_one_that_ends_highest_under_its_own_recipe(tmp_path):
    assert best_system(read_runs(tmp_path), "tiny") is None
    keep(tmp_path, "residual", "own", [90.0, 81.0])
    keep(tmp_path, "transition", "own", [70.0, 83.0])
    keep(tmp_path, "transition", "own", [70.0, 82.0], seed=1)
    keep(tmp_path, "experiment2", "fast", [99.0])
    keep(tmp_path, "s7", "own", [99.0])
    assert best_system(read_runs(tmp_path), "tiny") == ("transition", 82.5)
    assert best_system(read_runs(tmp_path), "other pictures") is None


def test_time_to_an_accuracy_is_that_of_the_first_epoch_there(tmp_path):
    for model, own, epoch in (("residual", [80.0, 82.0, 81.0], 50), ("transition", [70.0, 80.0, 81.0, 82.5], 60)):
        keep(tmp_path, model, "own", own)
        keep(tmp_path, model, "as_it_ran", [50.0], seconds=epoch)
    for seed, fast in enumerate(([80.0, 82.6, 86.0], [80.0, 82.4, 85.0], [83.0, 84.0, 85.5])):
        keep(tmp_path, "s7", "fast", fast, seed=seed)
    assert ours_against_theirs(read_runs(tmp_path))[1:] == []
    keep(tmp_path, "s7", "fast_epoch", [50.0], seconds=20)
    assert ours_against_theirs(read_runs(tmp_path))[1:] == [
        ("85.00 %, the target", "60 s", "never: none of them", "-"),
        ("82.50 %, what transition ends at", "40 s", "transition: 240 s", "6.0"),
    ]
    assert ours_against_theirs(read_runs(tmp_path), target=81.0)[1] == (
        ("81.00 %, the target", "40 s", "residual: 100 s", "2.5")
    )


def test_a_picture_s_machines_are_told_with_it():
    def run(provenance, hardware):
        return KeptRun({"data": {"provenance": provenance}, "hardware": hardware}, [])

    runs = {("a", "own"): [run("copy", "2 threads"), run("copy", "1 thread")], ("b", "own"): [run("original", "GPU")]}
    assert sources(runs) == ["copy; 1 thread and 2 threads", "original; GPU"]


def test_a_seed_that_never_gets_there_makes_no_time(tmp_path):
    keep(tmp_path, "residual", "own", [80.0, 86.0])
    keep(tmp_path, "residual", "as_it_ran", [50.0], seconds=50)
    for seed, last in enumerate((85.0, 84.9)):
        keep(tmp_path, "s7", "fast", [80.0, last], seed=seed)
    keep(tmp_path, "s7", "fast_epoch", [50.0], seconds=20)
    assert ours_against_theirs(read_runs(tmp_path))[1] == ("85.00 %, the target", "never", "residual: 100 s", "-")


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


def test_a_file_of_another_name_is_named(tmp_path):
    keep(tmp_path, "my-residual", "own", [60.0])
    with pytest.raises(InputError, match=r"my-residual-own-seed0\.json: not the record of a run"):
        read_runs(tmp_path)


def test_a_csv_of_another_version_is_refused(tmp_path):
    keep(tmp_path, "residual", "own", [60.0])
    (tmp_path / "residual-own-seed0.csv").write_text("epoch,accuracy\n1,50\n")
    with pytest.raises(InputError, match=r"residual-own-seed0\.csv: its columns are"):
        read_runs(tmp_path)
