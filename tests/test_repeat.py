"""Many seeds, and what follows from them."""

import csv
import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from utils import RECIPES, InputError, build_model, plots
from utils.data import ImageData
from utils.engine import suited
from utils.models import MODELS, parameter_count
from utils.records import identity, must_agree, with_defaults
from utils.repeat import Repeats, repeat

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
KEPT = sorted(path for kind in ("seeds", "frontier") for path in RESULTS.glob(f"{kind}/*/seed*/run.json"))


def runs(*accuracies: float) -> Repeats:
    return Repeats(
        [
            {
                "seed": seed,
                "model": "s7",
                "recipe": {"name": "fast"},
                "data": {"name": "CIFAR-10", "provenance": "from somewhere"},
                "results": {
                    "test_accuracy": accuracy,
                    "test_loss": 0.5,
                    "test_evaluations": 18,
                    "best_test_accuracy": accuracy + 1,
                    "seconds": 10.0 + seed,
                    "seconds_to_target": None,
                    "target": 85.0,
                },
            }
            for seed, accuracy in enumerate(accuracies)
        ]
    )


def test_the_figures_are_those_of_textbooks():
    some = runs(84.0, 85.0, 86.0, 89.0)
    assert some.mean == 86.0
    assert some.deviation == pytest.approx((14 / 3) ** 0.5)
    assert some.mean_interval == pytest.approx((86 - 3.182446 * 1.0801235, 86 + 3.182446 * 1.0801235), abs=1e-4)
    assert some.reached == 3  # 85.0 is at the bar
    assert some.reached_interval == pytest.approx((19.412, 99.369), abs=1e-3)
    assert "n = 4: 86.00 ± 2.16 %" in str(some)
    assert "lowest and highest: 84.00 %, 89.00 %" in str(some)
    assert "at 85.00 % or more: 3 of 4 (95 % confidence: 19 to 99 %)" in str(some)
    assert "seconds a run: median 12 (10 to 13)" in str(some)


def test_twenty_of_twenty_is_not_certainty():
    assert runs(*[86.0] * 20).reached_interval == pytest.approx((83.157, 100), abs=1e-3)


def test_the_histogram_counts_every_seed():
    """85.1 + 1.1 is a little less than 86.2."""
    assert sum(bar.get_height() for bar in plots.repeats(runs(85.13, 86.2)).axes[0].patches) == 2


def test_one_run_has_no_spread():
    assert "n = 1: 86.00 %\n" in str(runs(86.0))


def test_it_trains_every_seed_once_and_goes_on_after_a_stop(tiny, recipe, tmp_path, monkeypatch):
    from utils import repeat as module

    trained, first_weights, fit = [], set(), module.fit

    def watched(model, *arguments, seed, **options):
        assert options["device"] == "cpu"
        first_weights.add(next(model.parameters()).sum().item())
        if seed == 2 and 2 not in trained:
            trained.append(seed)
            raise KeyboardInterrupt
        trained.append(seed)
        return fit(model, *arguments, seed=seed, **options)

    monkeypatch.setattr(module, "fit", watched)
    with pytest.raises(KeyboardInterrupt):
        repeat("s7", tiny, recipe, 3, tmp_path, device="cpu")
    with open(tmp_path / "repeat.csv", newline="") as lines:
        assert [row["seed"] for row in csv.DictReader(lines)] == ["0", "1"]
    before = (tmp_path / "seed0" / "history.csv").read_bytes()
    done = repeat("s7", tiny, recipe, 3, tmp_path, device="cpu")
    assert trained == [0, 1, 2, 2]
    assert len(first_weights) == 3
    assert [record["seed"] for record in done.records] == [0, 1, 2]
    assert len({record["results"]["test_loss"] for record in done.records}) == 3  # three runs, not one thrice
    assert (tmp_path / "seed0" / "history.csv").read_bytes() == before


def no_training(*_):
    pytest.fail("it was trained again")


def test_of_a_run_that_has_ended_its_record_is_enough(tiny, recipe, tmp_path, monkeypatch):
    """What a repository keeps of a run: no checkpoint."""
    first = repeat("s7", tiny, recipe, 1, tmp_path)
    for file in (tmp_path / "seed0").iterdir():
        if file.name != "run.json":
            file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("utils.trainer.Trainer.train", no_training)
        assert repeat("s7", tiny, recipe, 1, tmp_path).records == first.records

    record = json.loads((tmp_path / "seed0" / "run.json").read_text())
    record["results"]["epochs"] -= 1  # stopped before its end, and the checkpoint lost
    (tmp_path / "seed0" / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="seed0 holds results, but no checkpoint to go on from"):
        repeat("s7", tiny, recipe, 1, tmp_path)


def test_results_of_a_network_or_of_data_that_have_been_changed_since_are_refused(tiny, recipe, tmp_path, monkeypatch):
    def repeated(data=tiny):
        return repeat("s7", data, replace(recipe, epochs=1), 1, tmp_path, width=0.25)

    repeated()
    relabelled = replace(tiny.test, labels=tiny.test.labels.flip(0))
    with pytest.raises(InputError, match="another content"):
        repeated(ImageData(tiny.train, relabelled))
    changed_in_place = ImageData(tiny.train, replace(tiny.test, labels=tiny.test.labels.clone()))
    repeated(changed_in_place)
    changed_in_place.test.labels.copy_(relabelled.labels)
    with pytest.raises(InputError, match="another content"):
        repeated(changed_in_place)
    as_it_was = MODELS["s7"]

    @functools.wraps(as_it_was)
    def edited(**arguments):
        model = as_it_was(**arguments)
        model.c3[1][0][0].dilation = model.c3[1][0][0].padding = (1, 1)
        return model

    monkeypatch.setitem(MODELS, "s7", edited)
    with pytest.raises(InputError, match=r"another network \(it computes something else now\)"):
        repeated()
    path = (
        tmp_path / "seed0" / "run.json"
    )  # an older version said nothing of either, and another torch traces otherwise
    kept = json.loads(path.read_text())
    for network in (None, "torch 2.0: 0123456789abcdef"):
        path.write_text(json.dumps(kept | {"network": network}))
        assert repeated().accuracies


def test_it_goes_on_where_the_network_cannot_take_the_recipe_s_smallest_pictures(tiny, recipe, tmp_path, monkeypatch):
    recipe = replace(recipe, epochs=1, sides=(8, 32))
    first = repeat("dilated_valid", tiny, recipe, 1, tmp_path)
    assert first.records[0]["recipe"]["sides"] == [32, 32]
    monkeypatch.setattr("utils.trainer.Trainer.train", no_training)
    assert repeat("dilated_valid", tiny, recipe, 1, tmp_path).records == first.records


def test_seeds_that_agree_have_a_mean_without_doubt():
    assert runs(86.0, 86.0).mean_interval == (86.0, 86.0)


def test_the_accuracy_on_held_out_images_is_called_that():
    some = runs(86.0)
    some.records[0]["results"]["test_evaluations"] = 0
    assert str(some).startswith("validation accuracy, last epoch")


def test_the_record_of_another_run_is_refused(tiny, recipe, tmp_path):
    repeat("s7", tiny, recipe, 1, tmp_path)
    path = tmp_path / "seed0" / "run.json"
    kept = path.read_text()
    with pytest.raises(InputError, match=r"seed0 belongs to a run with another recipe \(momentum: 0.9 then, 0.5 now\)"):
        repeat("s7", tiny, replace(recipe, momentum=0.5), 1, tmp_path)
    with pytest.raises(InputError, match="another model_arguments"):
        repeat("s7", tiny, recipe, 1, tmp_path, width=0.5)
    path.write_text(json.dumps(json.loads(kept) | {"parameters": 200_001}))  # the network was another then
    with pytest.raises(InputError, match="another parameters \\(200001 then, "):
        repeat("s7", tiny, recipe, 1, tmp_path)
    path.write_text(kept[:100])
    with pytest.raises(InputError, match="run.json: not the record of a run .*; remove it"):
        repeat("s7", tiny, recipe, 1, tmp_path)


@pytest.mark.parametrize("seeds", [0, -1, 2.0])
def test_seeds_are_a_whole_number_from_1_on(tiny, recipe, tmp_path, seeds):
    with pytest.raises(InputError, match="seeds cannot be trained with"):
        repeat("s7", tiny, recipe, seeds, tmp_path)
    assert not any(tmp_path.iterdir())


def of_record(record: dict) -> SimpleNamespace:
    """Stands for the data of a run of which the record alone is there."""
    images = torch.empty(0, 3, 32, 32)
    return SimpleNamespace(
        train=SimpleNamespace(images=images), to_dict=lambda: record["data"], digest=record.get("content")
    )


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.parent.name}-{path.parent.name}")
def test_the_records_in_the_repository_are_of_its_networks_and_recipes(path):
    """Who changes a network or a recipe has to measure again."""
    record = with_defaults(json.loads(path.read_text()))
    model = build_model(record["model"], **record["model_arguments"])
    recipe = suited(RECIPES[record["recipe"]["name"]], model)
    now = identity(model, recipe, of_record(record), record["seed"])
    assert record["results"]["epochs"] == recipe.epochs
    must_agree(path, record, now)
    assert record["parameters"] == parameter_count(model)
    assert f"seed{record['seed']}" == path.parent.name


def test_seeds_that_are_far_apart_draw_other_epochs(tiny, recipe):
    """torch's CPU generator looks at 32 bits of its seed: 4096 << 20 was the same to it as 0."""
    from utils.engine import epoch_batches
    from utils.transforms import recipe_policy

    def first(seed: int):
        return next(epoch_batches(tiny.train, recipe_policy(recipe, tiny.mean, tiny.std), recipe, seed, 1))[0]

    assert not any(torch.equal(first(0), first(seed)) for seed in (4096, 8192, 2**32 - 4096))
    assert torch.equal(first(4096), first(4096))
