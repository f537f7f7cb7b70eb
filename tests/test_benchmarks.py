"""What the benchmarks make of what they measure; never how fast anything is."""

import csv
import itertools
import re
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import seeds, systems, throughput, time_to_accuracy
from benchmarks.program import program
from benchmarks.readme import BEGIN, put_into
from utils.engine import suited
from utils.errors import InputError, TrainingError
from utils.history import read_history
from utils.measured import read_runs
from utils.models import build_model
from utils.recipes import RECIPES, Recipe
from utils.records import must_agree, read_record
from utils.repeat import Repeats
from utils.systems import multiply_adds
from utils.trainer import Trainer


def history(*pairs: tuple[float, float]) -> list[dict]:
    return [{"epoch": e, "seconds": s, "test_accuracy": a} for e, (s, a) in enumerate(pairs, 1)]


def test_only_seeds_that_got_there_count_and_ratios_are_to_the_first_run_named():
    curves = {
        "a:fast": [history((10, 60), (20, 84.9)), history((9, 84))],
        "b:fast": [history((10, 60), (20, 85)), history((40, 86)), history((30, 84))],
        "c:own": [history((100, 80), (300, 85.5), (500, 84))],  # went on beyond it
    }
    b = ("b:fast", "2 of 3 seeds", "30", "20", "40", "1 to 2")
    c = ("c:own", "1 of 1 seeds", "300", "300", "300", "2")
    assert time_to_accuracy.summary(curves, 85.0)[1:] == [
        ("a:fast", "0 of 2 seeds", "-", "-", "-", "-", "-"),
        (*b, "-"),
        (*c, "-"),
    ]
    del curves["a:fast"]
    assert time_to_accuracy.summary(curves, 85.0)[1:] == [(*b, "1.0"), (*c, "10.0")]


@pytest.mark.parametrize(("text", "message"), [("s7", "not MODEL:RECIPE"), ("s7:quick", "unknown recipe 'quick'")])
def test_a_run_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        time_to_accuracy.pair(text)


def test_a_run_ends_with_the_epoch_that_gets_there_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_to_accuracy, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "images").mkdir()
    arguments = [
        "s7:digits",
        "s7:digits",
        "--data",
        "digits",
        "--target",
        "15",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "runs"),
    ]
    assert time_to_accuracy.main(arguments) == 0
    kept = read_history(tmp_path / "runs" / "s7-digits-15-seed0" / "history.csv")
    assert kept[-1]["test_accuracy"] >= 15
    assert all(record["test_accuracy"] < 15 for record in kept[:-1])
    rows = list(csv.DictReader((results / "time_to_accuracy-other-data.csv").open()))
    assert [float(row["seconds"]) for row in rows] == [record["seconds"] for record in kept]
    assert "1 of 1 seeds" in capsys.readouterr().out
    assert (tmp_path / "images" / "time_to_accuracy-other-data.png").stat().st_size > 10_000

    monkeypatch.setattr("utils.trainer.Trainer.train", lambda *_: pytest.fail("it was trained again"))
    assert time_to_accuracy.main(arguments) == 0
    other = replace(RECIPES["digits"], momentum=0.5)
    monkeypatch.setitem(RECIPES, "digits", other)
    assert time_to_accuracy.main(arguments) == 2  # kept are runs of another recipe
    assert "another recipe (momentum: 0.9 then, 0.5 now)" in capsys.readouterr().err


def test_bad_usage_is_one_line(capsys):
    assert time_to_accuracy.main(["s7:quick", "--data", "digits"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (InputError("no"), 2), (TrainingError("no"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_program_ends_with_the_code_of_what_went_wrong(error, code, capsys):
    @program
    def main(arguments=None):
        if error:
            raise error

    assert main([]) == code
    assert capsys.readouterr().err == ("test_benchmarks.py: no\n" if code in (1, 2) else "")


def test_the_time_of_a_run_is_told_for_each_kind_of_hardware_and_each_precision():
    def record(hardware: str, seconds: float, precision: str = "fp32") -> dict:
        return {"hardware": hardware, "precision": precision, "results": {"seconds": seconds}}

    alike = [record("two threads", s) for s in (300, 320, 310)]
    assert seeds.times(Repeats(alike)) == "median 310 s (300 to 320) on two threads"
    mixed = Repeats([*alike, record("one thread", 560)])
    assert seeds.times(mixed).endswith("on two threads (n = 3); 560 s on one thread (n = 1)")
    sooner = Repeats([*alike, record("two threads", 90, "bf16")])
    assert seeds.times(sooner).endswith("on two threads in fp32 (n = 3); 90 s on two threads in bf16 (n = 1)")


def test_a_table_goes_where_the_readme_has_room_for_it(tmp_path):
    readme = tmp_path / "README.md"
    text = "a\n<!-- results of s7-fast -->\nold\n<!-- end of results -->\nb\n"
    text += "<!-- results of s7-strong -->\n<!-- end of results -->\nc\n"
    readme.write_text(text)
    put_into(readme, "s7-strong", "| new |")
    assert readme.read_text() == text.replace("s7-strong -->\n", "s7-strong -->\n| new |\n")
    put_into(readme, "s7-fast", "| fast |")
    assert "\n| fast |\n<!-- end" in readme.read_text() and "old" not in readme.read_text()
    before = readme.read_text()
    put_into(readme, "s7_max-record", "| lost |")
    assert readme.read_text() == before


def test_the_readme_has_room_for_the_results_of_the_default_recipe():
    readme = (seeds.ROOT / "README.md").read_text(encoding="utf-8")
    assert BEGIN.format("s7-fast") in readme


def test_the_command_of_a_table_is_the_one_that_made_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seeds, "ROOT", tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "README.md").touch()
    monkeypatch.setitem(RECIPES, "tiny", Recipe("tiny", epochs=1, sides=(8,)))
    command = ["--recipe", "tiny", "--seeds", "2", "--data", "digits", "--runs", str(tmp_path / "runs")]
    assert seeds.main(command) == 0
    shown = capsys.readouterr().out
    assert "`python benchmarks/seeds.py --recipe tiny --seeds 2`" in shown
    assert "| 1 a run, after every epoch; no epoch was chosen by them |" in shown
    assert "sample standard deviation, n = 2 seeds, 0 to 1; 95 % confidence interval" in shown
    assert "best of the five systems" not in shown  # none of them ran on these pictures
    monkeypatch.setattr(seeds, "best_system", lambda runs, data: ("residual", 1.0))
    assert seeds.main([*command, "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    (accuracy,) = re.findall(r"last epoch \| \*\*(\d+\.\d\d) %\*\* \(seed 0 alone\) \|", shown)
    assert "lowest and highest" not in shown  # of one seed: the accuracy over again
    assert f"| against the best of the five systems under its own recipe | +{float(accuracy) - 1:.2f} points (" in shown
    assert seeds.main(command) == 0
    lines = (tmp_path / "benchmarks" / "results" / "s7-tiny-other-data.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["seed", "0", "1"]


def test_each_kind_of_run_has_its_recipe():
    own = RECIPES["residual"]
    assert systems.recipe_for("residual", "as_it_ran") == replace(own, epochs=1)
    assert systems.recipe_for("residual", "own") == replace(own, precision="auto", per_image=False)
    assert systems.recipe_for("residual", "fast") == RECIPES["fast"]
    assert systems.recipe_for("residual", "fast_epoch") == replace(RECIPES["fast"], epochs=1)
    assert systems.recipe_for("s7", "own") is None
    assert systems.recipe_for("s7", "as_it_ran") is None


@pytest.mark.parametrize("path", sorted(systems.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_measured_runs_in_the_repository_are_of_the_recipes(path):
    """Who changes a recipe has to measure again."""
    name, kind, _ = path.stem.split("-")
    now = suited(systems.recipe_for(name, kind), build_model(name))
    must_agree(path, {"recipe": read_record(path)["recipe"]}, {"recipe": asdict(now)})


def test_a_measured_run_is_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(systems, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(systems, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("<!-- results of systems -->\n<!-- end of results -->\n")
    arguments = ["--models", "experiment2", "--under", "fast_epoch", "--data", "digits"]
    arguments += ["--runs", str(tmp_path / "runs")]
    assert systems.main(arguments) == 0
    (run,) = read_runs(tmp_path / "results")["experiment2", "fast_epoch"]
    assert run.record["recipe"]["name"] == "fast" and run.record["data"]["name"].startswith("embedded digits")
    assert 0 < run.record["accuracy_on_training_images"] <= 100
    assert [epoch["seconds"] for epoch in run.history] == [run.record["results"]["seconds"]]
    hardware = run.record["hardware"]
    readme = (tmp_path / "README.md").read_text()
    assert "| experiment2 | - | - | - | - | - | - |" in readme and hardware in readme

    capsys.readouterr()
    assert systems.main([*arguments, "--results", str(tmp_path / "mine")]) == 0  # goes on from the run, which is ended
    assert "| experiment2 | - | - |" in capsys.readouterr().out
    assert read_runs(tmp_path / "mine").keys() == read_runs(tmp_path / "results").keys()
    assert (tmp_path / "README.md").read_text() == readme

    monkeypatch.setattr(systems, "fit", None)  # whoever calls it fails
    assert systems.main(arguments) == 0
    assert systems.main([*arguments, "--under", "slow"]) == 2
    assert "unknown kind of run 'slow'" in capsys.readouterr().err
    monkeypatch.setitem(RECIPES, "fast", replace(RECIPES["fast"], momentum=0.5))
    assert systems.main(arguments) == 2  # kept are runs of another recipe
    assert "another recipe (momentum: 0.9 then, 0.5 now)" in capsys.readouterr().err
    (kept,) = (tmp_path / "results").glob("*.json")
    kept.write_text(kept.read_text()[:100])
    assert systems.main(arguments) == 2
    assert "not the record of a run of this version" in capsys.readouterr().err


def test_throughput_holds_the_step_against_the_ceiling(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "ROOT", tmp_path)
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(throughput, "ceilings", lambda device: dict.fromkeys(("fp32", "bf16", "copy"), 1e9))
    monkeypatch.setattr(throughput, "policy_rows", lambda data: [("policy",), ("tested elsewhere",)])
    monkeypatch.setattr(throughput, "training_seconds", lambda trainer, data: 0.25)
    command = ["s7", "--recipe", "digits", "--data", "digits", "--side", "16", "--rounds", "1"]
    assert throughput.main(command) == 0
    shown = capsys.readouterr().out
    done = 6 * multiply_adds(build_model("s7"), (3, 16, 16)) / 0.25  # operations a second
    assert f"a step in training: {done / 1e9:,.0f} GFLOP/s, {100 * done / 1e9:.0f} % of the matrix products" in shown
    parts = re.findall(r"^(?:gather|augment|forward|backward|optimiser) .* ([\d.]+) %$", shown, re.MULTILINE)
    assert len(parts) == 5 and sum(map(float, parts)) == pytest.approx(100, abs=0.5)
    assert (tmp_path / "images" / "throughput-other-data.png").stat().st_size > 5_000


def test_throughput_counts_seconds_of_one_call_and_of_one_image(tiny, recipe, network, monkeypatch):
    cpu = torch.device("cpu")
    clock = itertools.count(0, 6)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))  # six seconds pass between two looks
    assert throughput.seconds(lambda: None, cpu, times=3) == 2
    trainer = Trainer(network, recipe, cpu)
    few = replace(recipe, batch_size=10)
    assert throughput.training_seconds(trainer, tiny) == pytest.approx(6 / 96)
    assert throughput.training_seconds(trainer, tiny, batches=1) == pytest.approx(6 / 40)
    stages = throughput.stage_seconds(Trainer(network, few, cpu), tiny)  # 96 images: five batches, and four of 46
    assert stages == pytest.approx(dict.fromkeys(throughput.STAGES, 5 * 6 / 46) | {"evaluation": 6 / 37})


def test_the_ceilings_are_two_operations_a_product_and_bytes_read_and_written(monkeypatch):
    monkeypatch.setattr(throughput, "seconds", lambda action, device, times=1: 2.0)
    found = throughput.ceilings(torch.device("cpu"), side=8)
    assert found["fp32"] == 2 * 8**3 / 2
    assert found["copy"] == 2 * 4 * (64 << 20) / 2


def test_the_policy_s_speed_is_told_in_images_a_second(tiny, monkeypatch):
    taken = iter([1, 1, 1, 4, 4, 4, 0.5, 0.5, 0.5, 2, 2, 2, 1, 1, 1])
    monkeypatch.setattr(throughput, "seconds", lambda action, device: next(taken))
    threads = torch.get_num_threads()
    heading, *rows = throughput.policy_rows(tiny, images=40)
    assert torch.get_num_threads() == threads
    assert rows == [
        ("whole batches, 1 thread", "40", "4.0"),
        ("Albumentations, 1 thread", "10", "1.0"),
        (f"whole batches, {threads} threads", "80", "8.0"),
        ("Albumentations, loader workers: 1", "20", "2.0"),
        ("Albumentations, loader workers: 2", "40", "4.0"),
    ]


def test_throughput_measures_what_the_network_is_trained_with(monkeypatch):
    class Enough(Exception):
        pass

    def stage_seconds(trainer, data):
        assert trainer.symmetry is None  # the network is symmetric by itself
        raise Enough

    monkeypatch.setattr(throughput, "stage_seconds", stage_seconds)
    with pytest.raises(Enough):
        throughput.main(["s7_mirror", "--data", "digits"])


def test_the_results_name_every_version_that_runs_were_made_with():
    records = [
        {
            "seed": seed,
            "recipe": {"epochs": 2},
            "data": {"provenance": "from somewhere", "test_images": 10},
            "results": {"test_accuracy": 85.0, "seconds": 1.0, "target": 85.0, "test_evaluations": 3},
            "parameters": 7,
            "hardware": "a CPU",
            "precision": "fp32",
            "versions": {"python": "3.11", "torch": version, "albumentations": "2.0.8"},
        }
        for seed, version in enumerate(("2.14", "2.15", "2.14"))
    ]
    table = seeds.as_markdown(Repeats(records), "command", "results.csv")
    assert "Python 3.11, torch 2.14 and 2.15, albumentations 2.0.8" in table
    for cell in ("from somewhere; 10 test images |", "a CPU; 2 epochs |", "| 3 a run, ", "| parameters | 7 |"):
        assert cell in table
