"""What frontier.py and ablation.py make of runs; not how good those are."""

import csv
import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from test_plots import texts

from benchmarks import ablation, frontier, seeds
from utils import InputError, build_model, plots
from utils.comparison_figures import has_its_neighbour_below, has_its_neighbour_on_the_left
from utils.models import model_name
from utils.models.blocks import Residual
from utils.recipes import RECIPES, Recipe
from utils.repeat import Repeats, repeat


def of(*accuracies: float) -> Repeats:
    return Repeats([{"results": {"test_accuracy": accuracy}} for accuracy in accuracies])


def test_an_ingredient_pays_if_leaving_it_out_costs_two_standard_errors():
    """Deviations 1 and 1 over 4 seeds: a standard error of sqrt(2 / 4) = 0.707."""
    spread = (-1.0, -1.0, 1.0, 1.0)
    deviation = of(*spread).deviation
    means = {"nothing": 80, "without a": 78, "without b": 79}
    results = {name: of(*(mean + s / deviation for s in spread)) for name, mean in means.items()}
    nothing, a, b = ablation.rows(results)
    assert [cells[3:5] for cells in ablation.cells([nothing, a])[1:]] == [("-", "-"), ("+2.00", "0.71")]
    assert (a["cost"], b["cost"]) == (2, 1)
    assert a["standard_error"] == pytest.approx(0.707, abs=1e-3)
    assert [ablation.verdict(row) for row in (nothing, a, b)] == ["-", "pays", "does not pay"]


def test_each_variant_counts_its_own_seeds():
    """Deviations 1.41 of two seeds, 1 of three: a standard error of sqrt(2 / 2 + 1 / 3)."""
    _, row = ablation.rows({"nothing": of(80, 82), "a": of(70, 71, 72)})
    assert row["seeds"] == 3
    assert row["standard_error"] == pytest.approx(1.155, abs=1e-3)


def test_what_the_assignment_asks_for_stays_even_if_it_does_not_pay():
    results = {"nothing": of(80, 81), "without coarse dropout": of(82, 83), "without cosine": of(82, 83)}
    results["without flip"] = of(60, 61)
    verdicts = [ablation.verdict(row) for row in ablation.rows(results)]
    assert verdicts == ["-", "does not pay; the assignment asks for it", "does not pay", "pays"]


def test_what_is_put_in_would_pay_if_it_gains_two_standard_errors():
    """Deviations 1.41 and 1.41 over 2 seeds: a standard error of 1.41."""
    results = {"nothing": of(80, 82), "with a": of(83, 85), "with b": of(82, 84), "with c": of(60, 62)}
    verdicts = [ablation.verdict(row) for row in ablation.rows(results)]
    assert verdicts == ["-", "would pay", "would not pay", "would not pay"]


def test_one_seed_is_no_verdict():
    _, row = ablation.rows({"nothing": of(80), "a": of(70)})
    assert ablation.verdict(row) == "one seed says nothing"
    assert "nan" not in str(ablation.cells([row]))


def test_only_what_a_recipe_has_is_left_out_and_what_it_has_not_put_in():
    recipe = Recipe("r", epochs=2, optimizer="muon", crop=0, label_smoothing=0.0, sides=(24, 32))
    model = build_model("s7")
    names = ablation.variants(recipe, model)
    assert names["nothing"] == recipe
    assert names["without Muon (SGD instead)"].optimizer == "sgd"
    assert names["with random crop"] == replace(recipe, crop=2)
    assert not {"without random crop", "without label smoothing", "with label smoothing"} & set(names)
    cropped = ablation.variants(names["with random crop"], model)
    assert cropped["without random crop"] == recipe and "with random crop" not in cropped
    assert recipe not in list(names.values())[1:]
    decayed = ablation.variants(replace(recipe, weight_decay=1e-3, muon_weight_decay=0.1, decay_norms=False), model)
    without = decayed["without weight decay"]
    assert without.weight_decay == without.muon_weight_decay == 0
    assert decayed["without batch norms spared weight decay"].decay_norms
    assert decayed["without falling rate (constant instead)"].drops == ()
    assert all(variant.epochs == 2 for variant in names.values())
    of_a_system = ablation.variants(RECIPES["experiment2"], model)  # Adam, and a rate that does not fall
    assert not any("Muon" in name for name in of_a_system)
    assert "without cosine" not in of_a_system and of_a_system["with cosine"].schedule == "cosine"


def test_larger_images_get_fewer_epochs():
    """24, 24, 28 and 32 pixels a side have 740 on average, 32 have 1,024: 12 epochs are worth 8.7."""
    recipe = Recipe("r", epochs=12, sides=(24, 24, 28, 32))
    whole_images = replace(recipe, epochs=9, sides=(32,))
    model = build_model("s7")
    assert ablation.variants(recipe, model)["without small images first (9 epochs, as many pixels)"] == whole_images
    spread = replace(recipe, sides=(8, 8, 8, 32))  # 304 pixels on average, though 14 pixels a side: 3.6 epochs
    assert "without small images first (4 epochs, as many pixels)" in ablation.variants(spread, model)
    tiny = replace(recipe, epochs=1, sides=(8,))
    assert ablation.variants(tiny, model)["without small images first"].epochs == 1


def test_what_a_network_cannot_have_is_no_ingredient():
    recipe = Recipe("r", epochs=12, sides=(24, 24, 28, 32), mirror_symmetric=True)
    of_s7 = set(ablation.variants(recipe, build_model("s7")))
    assert "without mirror symmetry" in of_s7
    mirrored = ablation.variants(recipe, build_model("s7_mirror"))  # it is symmetric by itself
    assert set(mirrored) == of_s7 - {"without mirror symmetry"}
    dilated = ablation.variants(recipe, build_model("s7_dilated"))  # it takes no smaller images than 32 pixels
    assert dilated["nothing"].sides == (32,) * 4
    assert not any("small images" in name for name in dilated)


def test_without_residuals_nothing_is_added():
    model = build_model("s7_max").eval()
    images = torch.rand(2, 3, 32, 32)
    parameters = [tensor.clone() for tensor in model.state_dict().values()]
    block = model.c2[0]
    x = torch.rand(2, 64, 16, 16)
    with_it = block(x)
    changed = ablation.without_residuals(model)
    assert not any(isinstance(module, Residual) for module in changed.modules())
    torch.testing.assert_close(changed.c2[0](x), with_it - x)
    assert all(map(torch.equal, changed.state_dict().values(), parameters))
    assert changed(images).shape == (2, 10)
    assert model_name(changed) == "s7_max without residuals"  # which no checkpoint of it is taken for the whole of


def test_the_ablation_looks_at_validation_images_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    monkeypatch.setattr(ablation, "WITHOUT", {"flip": {"flip": 0.0}, "random crop": {"crop": 0}})
    monkeypatch.setitem(RECIPES, "tiny", Recipe("tiny", epochs=9, sides=(8,), weight_decay=1e-3))
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    readme = tmp_path / "benchmarks" / "README.md"
    readme.write_text(
        "before\n<!-- results of ablation-s7-0.25-tiny-1-other-data -->\nold\n<!-- end of results -->\nafter\n"
    )
    command = ["--model", "s7", "--width", "0.25", "--recipe", "tiny", "--epochs", "1", "--seeds", "1"]
    command += ["--data", "digits", "--validation", "400", "--runs", str(tmp_path / "runs")]
    assert ablation.main([*command, "--no-training"]) == 2
    assert "no finished run of the whole recipe" in capsys.readouterr().err
    assert ablation.main([*command, "--only", "flap"]) == 2
    there_are = "nothing, without-flip, with-random-crop, without-residual-connections"
    assert f"'flap'; there are: {there_are}" in capsys.readouterr().err
    assert ablation.main([*command, "--only", "without-flip"]) == 0
    assert {path.name for path in (tmp_path / "runs" / "s7-0.25-tiny-1").iterdir()} == {"nothing", "without-flip"}
    capsys.readouterr()
    assert ablation.main(command) == 0
    shown = capsys.readouterr().out
    assert "400 training images held out" in shown and "without" in shown
    text = readme.read_text()
    assert text.startswith("before") and "| without flip |" in text and "old" not in text
    with open(tmp_path / "benchmarks" / "results" / "ablation-s7-0.25-tiny-1-other-data.csv", newline="") as lines:
        found = list(csv.DictReader(lines))
    changes = ["nothing", "without flip", "with random crop", "without residual connections"]
    assert [row["change"] for row in found] == changes
    record = json.loads((tmp_path / "runs" / "s7-0.25-tiny-1" / "without-flip" / "seed0" / "run.json").read_text())
    assert record["model_arguments"]["width"] == 0.25 and record["recipe"]["flip"] == 0
    assert found[-1]["validation_accuracy"] != found[0]["validation_accuracy"]  # another network was trained

    monkeypatch.setattr("utils.trainer.Trainer.train", lambda *_: pytest.fail("it was trained again"))
    assert ablation.main(command) == 0
    shutil.rmtree(tmp_path / "runs" / "s7-0.25-tiny-1" / "without-flip")
    runs = tmp_path / "runs" / "s7-0.25-tiny-1" / "nothing"
    record = (runs / "seed0" / "run.json").read_text()
    (runs / "seed1").mkdir()
    (runs / "seed1" / "run.json").write_text(record.replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    for option in (["--no-training"], ["--only", "with-random-crop"]):
        assert ablation.main([*command, *option]) == 0  # of "nothing" two seeds count, though one was asked for
        shown = capsys.readouterr().out
        assert "random crop" in shown and "flip" not in shown
        seeds = {
            line.split("  ")[0]: line.split()[-4] for line in shown.splitlines() if line.startswith(("nothing", "with"))
        }
        assert seeds["nothing"] == "2", shown


@pytest.fixture
def tiny_recipe(tmp_path, monkeypatch):
    """A recipe named "tiny", and a place of the results that is not the repository."""
    monkeypatch.setattr(frontier, "ROOT", tmp_path)
    monkeypatch.setitem(RECIPES, "tiny", Recipe("tiny", epochs=1, sides=(8,)))
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    return RECIPES["tiny"]


def results_of(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("frontier*") if path.is_file())


def test_the_frontier_trains_every_width_and_says_how_often_it_looked(tiny_recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "README.md").write_text("<!-- results of frontier-other-data -->\nold\n<!-- end of results -->\n")
    monkeypatch.setattr(frontier, "MODELS", {"s7": "tiny", "s7_max": "other"})
    monkeypatch.setitem(RECIPES, "other", Recipe("other", epochs=2, sides=(8,)))
    monkeypatch.setattr(frontier, "WIDTHS", (0.25, 0.5))
    monkeypatch.setattr(frontier, "BESIDES", (("s7", "other", 0.25),))
    assert frontier.main(["--data", "digits", "--runs", str(tmp_path / "runs")]) == 0
    with open(tmp_path / "benchmarks" / "results" / "frontier-other-data.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    hows = [row["how"] for row in rows if row["name"] == "s7, width 0.25"]
    assert hows == ["s7 under tiny", "s7 under other"]
    found = {row["name"]: row for row in reversed(rows)}
    assert found["s7, width 0.25"]["parameters"] == "13014"
    assert found["s7, width 0.5"]["test_evaluations"] == "1"
    assert found["s7_max, width 0.5"]["parameters"] == "51178"
    assert found["s7_max, width 0.5"]["how"] == "s7_max under other"
    assert found["s7_max, width 0.5"]["test_evaluations"] == "2"
    assert found["residual"]["parameters"] == "197472"
    assert found["cifar10-tiniest"]["data"] == "CIFAR-10, original"
    assert "1 per run, no epoch chosen by them" in capsys.readouterr().out
    assert results_of(tmp_path) == ["frontier-other-data.csv", "frontier-other-data.png"]
    readme = (tmp_path / "README.md").read_text()
    assert "| s7, width 0.25 | 13,014 | " in readme and "old" not in readme


def test_a_part_of_the_frontier_is_printed_and_overwrites_nothing(tiny_recipe, tmp_path, capsys):
    command = ["--models", "s7", "--recipe", "tiny", "--widths", "0.25", "--data", "digits"]
    assert frontier.main([*command, "--runs", str(tmp_path / "runs")]) == 0
    assert "s7, width 0.25" in capsys.readouterr().out
    assert results_of(tmp_path) == []


def test_without_training_there_is_what_was_trained(tiny_recipe, tiny, tmp_path, monkeypatch, capsys):
    """A run that is on its way counts as little as one that was never begun."""
    for width in (0.25, 0.5):
        repeat("s7", tiny, tiny_recipe, 1, tmp_path / "frontier" / f"s7-{width:g}-tiny", width=width)
    path = tmp_path / "frontier" / "s7-0.5-tiny" / "seed0" / "run.json"
    path.write_text(path.read_text().replace('"epochs": 1,\n    "test_accuracy"', '"epochs": 0,\n    "test_accuracy"'))
    monkeypatch.setattr("utils.trainer.Trainer.train", lambda *_: pytest.fail("it was trained again"))
    monkeypatch.setattr(frontier, "load_cifar10", lambda _: tiny)
    command = ["--models", "s7", "--recipe", "tiny", "--widths", "0.25", "0.5", "1", "--seeds", "2", "--no-training"]
    assert frontier.main([*command, "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "s7, width 0.25" in shown and "s7, width 0.5" not in shown and "s7, width 1" not in shown


def test_without_training_and_without_runs_nothing_is_overwritten(tiny_recipe, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frontier, "MODELS", {"s7": "tiny"})
    monkeypatch.setattr(frontier, "BESIDES", ())
    monkeypatch.setattr(frontier, "load_cifar10", lambda _: tiny)
    assert frontier.main(["--runs", str(tmp_path), "--no-training"]) == 2
    assert "has no finished run of these" in capsys.readouterr().err
    assert results_of(tmp_path) == []


def test_of_width_one_the_table_of_seeds_py_is_enough_if_it_is_of_this_recipe_and_data(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.trainer.Trainer.train", lambda *_: pytest.fail("it was trained again"))
    (tmp_path / "s7-tiny.csv").write_text("seed,test_accuracy\n0,80.0\n1,82.0\n")
    recipe = Recipe("tiny", epochs=7)
    record = {"model": "s7", "model_arguments": {}, "recipe": asdict(recipe), "data": tiny.to_dict()}
    monkeypatch.setattr(frontier, "shipped", lambda: {"s7-tiny": record})
    point = frontier.family_point("s7", 1, tiny, recipe, 1, tmp_path)
    assert (point.test_accuracy, point.seeds, point.test_evaluations) == (81, 2, 7)
    assert point.deviation == pytest.approx(2**0.5)
    assert point.parameters == 199_922
    for other in ({"recipe": asdict(replace(recipe, epochs=8))}, {"data": {"name": "CIFAR-10"}}):
        monkeypatch.setattr(frontier, "shipped", lambda other=other: {"s7-tiny": record | other})
        with pytest.raises(InputError, match=next(iter(other))):
            frontier.family_point("s7", 1, tiny, recipe, 1, tmp_path)


def test_more_seeds_than_asked_for_count_where_there_are_more(tiny, tmp_path, monkeypatch):
    recipe = Recipe("tiny", epochs=1, sides=(8,))
    repeat("s7", tiny, recipe, 2, tmp_path / "frontier" / "s7-0.25-tiny", width=0.25)
    monkeypatch.setattr("utils.trainer.Trainer.train", lambda *_: pytest.fail("it was trained again"))
    point = frontier.family_point("s7", 0.25, tiny, recipe, 1, tmp_path)
    assert point.seeds == 2 and point.deviation is not None


def test_a_width_of_one_is_the_run_that_seeds_py_made(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "ROOT", tmp_path)
    (tmp_path / "README.md").touch()
    common = ["--recipe", "tiny", "--data", "digits", "--seeds", "1"]
    assert seeds.main([*common, "--runs", str(tmp_path / "runs" / "seeds")]) == 0
    monkeypatch.setattr("utils.trainer.Trainer.train", lambda *_: pytest.fail("it was trained again"))
    command = [*common, "--models", "s7", "--widths", "1", "--runs", str(tmp_path / "runs")]
    assert frontier.main(command) == 0


def test_an_unknown_recipe_is_refused_in_one_line(capsys):
    for program in (frontier, ablation):
        assert program.main(["--recipe", "none"]) == 2
        assert "unknown recipe 'none'" in capsys.readouterr().err


def test_the_picture_of_the_frontier_names_every_network_once():
    def point(name, parameters, accuracy, deviation, data, how):
        return SimpleNamespace(
            name=name, parameters=parameters, test_accuracy=accuracy, deviation=deviation, data=data, how=how
        )

    points = [
        point("small", 25_000, 84.0, 0.2, "copy", "s7 under strong"),
        point("large", 200_000, 88.0, None, "copy", "s7 under strong"),
        point("large", 200_000, 88.3, None, "copy", "s7 under record"),
        point("theirs", 97_530, 94.4, None, "CIFAR-10, original", "somewhere, 200 epochs"),
    ]
    figure = plots.frontier(points, "tiny colours: made by the tests")
    shown = texts(figure)
    assert all(word in shown for word in ("small", "large", "theirs", "somewhere, original pixels", "s7 under strong"))
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[25_000, 84], [200_000, 88]]
    whiskers = figure.axes[0].containers[0].lines[2][0].get_segments()
    assert [end - start for (_, start), (_, end) in whiskers] == pytest.approx([0.4, 0])
    assert [label.xy for label in figure.axes[0].texts if label.get_text() == "large"] == [(200_000, 88.3)]


def test_a_name_is_on_the_side_where_its_neighbour_is_not():
    def point(parameters, accuracy):
        return SimpleNamespace(parameters=parameters, test_accuracy=accuracy)

    points = [
        point(180_000, 82.5),
        point(198_000, 82.2),
        point(198_000, 81.0),
        point(50_000, 90.0),
    ]
    assert [has_its_neighbour_below(each, points) for each in points] == [True, False, False, False]
    assert not has_its_neighbour_below(points[0], points[:1])


def test_of_two_names_on_the_left_at_one_height_the_upper_one_goes_to_the_right():
    def point(name, parameters, accuracy):
        how = f"{name} under strong"
        return SimpleNamespace(
            name=name, parameters=parameters, test_accuracy=accuracy, deviation=None, data="copy", how=how
        )

    points = [point("lower", 178_000, 90.07), point("upper", 188_000, 90.29), point("far", 188_000, 85.0)]
    assert [has_its_neighbour_on_the_left(each, points) for each in points] == [False, True, False]
    labels = plots.frontier(points, "tiny colours").axes[0].texts
    assert {label.get_text(): label.get_ha() for label in labels} == {"lower": "right", "upper": "left", "far": "right"}
    above_on_the_left = point("above", 178_000, 91.19)
    assert has_its_neighbour_on_the_left(points[1], [points[1], above_on_the_left])
    assert not has_its_neighbour_on_the_left(above_on_the_left, [points[1], above_on_the_left])
