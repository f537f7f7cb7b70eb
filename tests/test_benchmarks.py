"""What the benchmarks make of what they measure; never how fast anything is."""

import csv

import pytest

from benchmarks import seeds, time_to_accuracy
from utils.errors import InputError
from utils.history import read_history
from utils.repeat import Repeats


def history(*pairs: tuple[float, float]) -> list[dict]:
    return [{"epoch": e, "seconds": s, "test_accuracy": a} for e, (s, a) in enumerate(pairs, 1)]


def test_only_seeds_that_got_there_count_and_ratios_are_to_the_first_that_did():
    curves = {
        "a:fast": [history((10, 60), (20, 84.9)), history((9, 84))],
        "b:fast": [history((10, 60), (20, 85)), history((40, 86)), history((30, 84))],
        "c:own": [history((100, 80), (300, 85.5))],
    }
    assert time_to_accuracy.summary(curves, 85.0)[1:] == [
        ("a:fast", "0 of 2 seeds", "-", "-", "-", "-", "-"),
        ("b:fast", "2 of 3 seeds", "30", "20", "40", "1 to 2", "1.0"),
        ("c:own", "1 of 1 seeds", "300", "300", "300", "2", "10.0"),
    ]


@pytest.mark.parametrize(("text", "message"), [("s7", "not MODEL:RECIPE"), ("s7:quick", "unknown recipe 'quick'")])
def test_a_run_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        time_to_accuracy.pair(text)


def test_a_run_ends_with_the_epoch_that_gets_there_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_to_accuracy, "ROOT", tmp_path)
    monkeypatch.setattr(time_to_accuracy, "CSV", tmp_path / "results" / "times.csv")
    (tmp_path / "images").mkdir()
    arguments = ["s7:digits", "--data", "digits", "--target", "15", "--seeds", "1", "--out", str(tmp_path / "runs")]
    assert time_to_accuracy.main(arguments) == 0
    kept = read_history(tmp_path / "runs" / "s7-digits-15-seed0" / "history.csv")
    assert kept[-1]["test_accuracy"] >= 15
    assert all(record["test_accuracy"] < 15 for record in kept[:-1])
    rows = list(csv.DictReader((tmp_path / "results" / "times.csv").open()))
    assert [float(row["seconds"]) for row in rows] == [record["seconds"] for record in kept]
    assert "1 of 1 seeds" in capsys.readouterr().out
    assert (tmp_path / "images" / "time_to_accuracy.png").stat().st_size > 10_000

    monkeypatch.setattr(time_to_accuracy, "fit", None)  # whoever calls it fails
    assert time_to_accuracy.main(arguments) == 0


def test_bad_usage_is_one_line(capsys):
    assert time_to_accuracy.main(["s7:quick", "--data", "digits"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_time_of_a_run_is_told_for_each_kind_of_hardware():
    def record(hardware: str, seconds: float) -> dict:
        return {"hardware": hardware, "results": {"seconds": seconds}}

    alike = [record("two threads", s) for s in (300, 320, 310)]
    assert seeds.times(Repeats(alike)) == "median 310 s (300 to 320) on two threads"
    mixed = Repeats([*alike, record("one thread", 560)])
    assert seeds.times(mixed).endswith("on two threads (n = 3); median 560 s (560 to 560) on one thread (n = 1)")
