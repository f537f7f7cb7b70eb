"""What a run leaves on disk."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import pytest
import torch
from conftest import tiny_network, tiny_split
from torch import nn

from utils.checkpoint import load_checkpoint, load_model, write_checkpoint
from utils.data import ImageData, fingerprints
from utils.engine import fit
from utils.errors import InputError
from utils.evaluation import evaluate
from utils.folders import new_folder, newest_folder, runs_folder
from utils.given import is_of_run
from utils.history import FIELDS, history_csv, read_history
from utils.models import build_model


@pytest.fixture
def run(network, tiny, recipe, tmp_path):
    """A finished run: its folder and its history."""
    folder = tmp_path / "run"
    return folder, fit(network, tiny, recipe, seed=5, out=folder)


def test_a_run_leaves_its_files_and_no_part_of_one(run):
    shown = sorted(p.name for p in run[0].iterdir() if not p.name.startswith("."))
    assert shown == ["best.pt", "history.csv", "last.pt", "previous.pt", "run.json", "training.log"]


def test_the_history_file_says_what_fit_returned(run):
    folder, history = run
    with open(folder / "history.csv", newline="") as lines:
        assert next(csv.reader(lines)) == list(FIELDS)
    assert read_history(folder / "history.csv") == history


def test_run_json_says_what_ran_on_what_and_what_came_out(run, recipe):
    folder, history = run
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 5
    assert record["recipe"]["batch_size"] == recipe.batch_size
    assert record["data"] == {
        "name": "tiny colours",
        "provenance": "made by the tests",
        "train_images": 96,
        "test_images": 37,
    }
    assert record["parameters"] == 3 * 8 * 9 + 8 + 16 + 8 * 3 + 3
    assert {"torch", "albumentations", "python"} <= set(record["versions"])
    assert record["results"]["test_accuracy"] == history[-1]["test_accuracy"]
    assert record["results"]["best_test_accuracy"] == max(r["test_accuracy"] for r in history)
    assert record["results"]["test_images"] == 37
    assert record["results"]["test_evaluations"] == len(history)
    assert record["results"]["target"] == recipe.target


@pytest.mark.parametrize(("until", "reached"), [(1.0, True), (100.1, False)])
def test_the_time_to_the_target_is_that_of_the_first_epoch_there(network, tiny, recipe, tmp_path, until, reached):
    history = fit(network, tiny, recipe, out=tmp_path, until=until)
    results = json.loads((tmp_path / "run.json").read_text())["results"]
    assert results["target"] == until
    assert results["seconds_to_target"] == (history[0]["seconds"] if reached else None)


def tested(monkeypatch, *accuracies: float) -> None:
    """Lets the epochs of a run end with these accuracies, in percent, and with losses of 1, 2, 3, ..."""
    results = iter([SimpleNamespace(loss=1.0 + n, accuracy=a, report="") for n, a in enumerate(accuracies)])
    monkeypatch.setattr("utils.engine.evaluate", lambda *_, **__: next(results))
    monkeypatch.setattr("utils.engine.check_learning", lambda *_: None)


def test_results_are_of_the_last_epoch_beside_the_best_and_the_first_at_the_target(tiny, recipe, tmp_path, monkeypatch):
    tested(monkeypatch, 85.0, 90.0, 88.0)
    monkeypatch.setattr("utils.runs.Run.seconds", property(lambda run: 10.0 * run.epoch))
    fit(tiny_network(), tiny, recipe, out=tmp_path)
    results = json.loads((tmp_path / "run.json").read_text())["results"]
    assert (results["test_accuracy"], results["test_loss"], results["best_test_accuracy"]) == (88, 3, 90)
    assert (results["seconds"], results["seconds_to_target"]) == (30, 10)  # 85 % is at the target


def test_the_log_has_the_lines_that_students_know(run):
    lines = (run[0] / "training.log").read_text().splitlines()
    assert lines[0].startswith("Data: tiny colours: made by the tests")
    assert len([line for line in lines if line.startswith("Train: Loss=")]) == 3
    assert lines[-1].startswith("Test set: Average loss: ")


def test_the_best_checkpoint_is_of_the_best_epoch(run):
    folder, history = run
    best = max(history, key=lambda record: record["test_accuracy"])
    assert load_checkpoint(folder / "best.pt")["history"][-1] == best
    assert load_checkpoint(folder / "last.pt")["history"] == history


def test_a_finished_run_is_not_overwritten(run, tiny, recipe):
    before = {p.name: p.read_bytes() for p in run[0].iterdir()}
    with pytest.raises(InputError, match="holds a run already"):
        fit(tiny_network(), tiny, recipe, out=run[0])
    assert {p.name: p.read_bytes() for p in run[0].iterdir()} == before


@pytest.mark.parametrize("left", ["run.json", "best.pt"])
def test_results_without_a_checkpoint_to_go_on_from_are_not_overwritten_either(run, tiny, recipe, left):
    for file in run[0].iterdir():
        if file.name != left:
            file.unlink()
    with pytest.raises(InputError, match="holds a run already"):
        fit(tiny_network(), tiny, recipe, seed=5, out=run[0])
    assert new_folder(run[0]) != run[0]


def test_a_history_alone_is_not_wiped_by_a_new_run(run, tiny, recipe):
    for file in run[0].iterdir():
        if file.name != "history.csv":
            file.unlink()
    before = (run[0] / "history.csv").read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        fit(tiny_network(), tiny, recipe, seed=5, out=run[0])
    assert (run[0] / "history.csv").read_bytes() == before
    assert new_folder(run[0]) != run[0]


def test_results_are_not_wiped_when_there_is_nothing_to_resume(run, tiny, recipe):
    for name in ("last.pt", "previous.pt"):
        (run[0] / name).unlink()
    before = {p.name: p.read_bytes() for p in run[0].iterdir()}
    with pytest.raises(InputError, match="holds results, but no checkpoint to go on from"):
        fit(tiny_network(), tiny, recipe, seed=5, out=run[0], resume=True)
    assert {p.name: p.read_bytes() for p in run[0].iterdir()} == before


def test_a_history_alone_is_not_wiped_either(run, tiny, recipe):
    for name in ("last.pt", "previous.pt", "run.json"):
        (run[0] / name).unlink()
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        fit(tiny_network(), tiny, recipe, seed=5, out=run[0], resume=True)
    (run[0] / "history.csv").write_text("damaged")
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        fit(tiny_network(), tiny, recipe, seed=5, out=run[0], resume=True)


def test_a_kill_in_the_first_save_leaves_what_can_be_begun_again(run, tiny, recipe):
    for name in ("last.pt", "previous.pt", "run.json"):
        (run[0] / name).unlink()
    (run[0] / "history.csv").write_text(history_csv([]))
    assert len(fit(tiny_network(), tiny, recipe, seed=5, out=run[0], resume=True)) == recipe.epochs


@pytest.mark.parametrize("digest", ["network", "content"])
def test_a_foreign_checkpoint_s_digests_are_refused_in_one_line(run, tiny, recipe, digest):
    write_checkpoint(run[0] / "last.pt", load_checkpoint(run[0] / "last.pt") | {digest: 5})
    with pytest.raises(InputError, match=f"another {digest}"):
        fit(tiny_network(), tiny, recipe, seed=5, out=run[0], resume=True)


def test_a_best_checkpoint_of_epochs_that_were_done_again_is_replaced(tiny, recipe, tmp_path):
    fit(tiny_network(), tiny, recipe, out=tmp_path, until=0.0)
    best = load_checkpoint(tmp_path / "best.pt")
    best["history"] = [best["history"][0] | {"test_accuracy": 100.0, "train_loss": 9.0}]  # of before a kill
    write_checkpoint(tmp_path / "best.pt", best)
    history = fit(tiny_network(), tiny, recipe, out=tmp_path, resume=True)
    assert load_checkpoint(tmp_path / "best.pt")["history"][0] == history[0]


def test_a_network_that_reads_its_own_numbers_goes_on(tiny, recipe, tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = tiny_network(), nn.Parameter(torch.ones(()))

        def forward(self, images):
            return self.net(images) * self.scale.item() + 0 * self.scale

    fit(Scaled(), tiny, recipe, out=tmp_path, until=0.0)
    other = Scaled()
    other.scale.data.fill_(0.5)
    assert len(fit(other, tiny, recipe, out=tmp_path, resume=True)) == recipe.epochs


def test_a_best_epoch_that_could_not_be_saved_is_not_taken_for_saved(tiny, recipe, tmp_path, monkeypatch):
    refusals = iter([True])

    def failing_once(path, *arguments, **options):
        if path.name == "best.pt" and next(refusals, False):
            raise OSError("disk full")
        write_checkpoint(path, *arguments, **options)

    monkeypatch.setattr("utils.runs.write_checkpoint", failing_once)
    monkeypatch.setattr("utils.runs.SAVE_SECONDS", 0.0)  # after every step: best.pt waits for the end of an epoch
    tested(monkeypatch, 90.0, 70.0, 80.0)
    fit(tiny_network(), tiny, recipe, out=tmp_path)
    assert load_checkpoint(tmp_path / "best.pt")["history"][-1]["test_accuracy"] == 80


def test_a_policy_with_a_function_in_it_is_the_same_in_another_process(tiny, recipe, tmp_path):
    def policy():
        return A.Compose([A.Lambda(image=lambda image, **_: image, name="nothing"), A.Normalize(tiny.mean, tiny.std)])

    recipe = replace(recipe, per_image=True, workers=0)
    one, same = policy(), policy()  # both alive, so that their functions have places of their own
    fit(tiny_network(), tiny, recipe, out=tmp_path, policy=one, until=0.0)
    history = fit(tiny_network(), tiny, recipe, out=tmp_path, policy=same, resume=True)
    assert len(history) == recipe.epochs


def test_a_run_goes_on_with_its_own_data_only(tiny, recipe, tmp_path):
    fit(tiny_network(), tiny, recipe, out=tmp_path, until=0.0)
    other = tiny_split(96, "train", seed=7)
    with pytest.raises(InputError, match="another content"):
        fit(tiny_network(), ImageData(other, tiny.test), recipe, out=tmp_path, resume=True)


def test_a_run_goes_on_with_its_own_policy_only(tiny, recipe, tmp_path):
    def policy(p: float) -> A.Compose:
        return A.Compose([A.HorizontalFlip(p=p), A.Normalize(tiny.mean, tiny.std)])

    fit(tiny_network(), tiny, recipe, out=tmp_path, policy=policy(0.5), until=0.0)
    for other in (policy(0.25), None):
        with pytest.raises(InputError, match="another policy"):
            fit(tiny_network(), tiny, recipe, out=tmp_path, policy=other, resume=True)


def test_looking_at_a_finished_run_leaves_its_record_as_it_was(run, tiny, recipe):
    path = run[0] / "run.json"
    record = json.loads(path.read_text())
    record["versions"]["torch"] = "of then"
    path.write_text(json.dumps(record))
    fit(tiny_network(), tiny, recipe, seed=5, out=run[0], resume=True)
    assert json.loads(path.read_text()) == record


def test_runs_go_where_the_variable_says_or_into_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, folder in (("", Path("runs")), ("~/drive", tmp_path / "drive")):
        monkeypatch.setenv("S7_RUNS", value)
        assert runs_folder() == folder


def test_a_new_folder_is_one_without_a_run(run, tmp_path):
    assert new_folder(tmp_path / "other") == tmp_path / "other"
    assert new_folder(run[0]) == tmp_path / "run-2"


def test_the_newest_folder_is_that_of_the_last_run(run, tiny, recipe, tmp_path):
    assert newest_folder(tmp_path / "other") == tmp_path / "other"
    assert newest_folder(run[0]) == run[0]
    fit(tiny_network(), tiny, recipe, out=new_folder(run[0]))
    assert newest_folder(run[0]) == tmp_path / "run-2"


def test_a_run_that_was_deleted_does_not_change_which_is_the_newest(run, tmp_path):
    for name in ("run-3", "run-10"):
        shutil.copytree(run[0], tmp_path / name)
    (tmp_path / "run-old").mkdir()
    shutil.rmtree(run[0])
    assert newest_folder(run[0]) == tmp_path / "run-10"
    assert new_folder(run[0]) == tmp_path / "run-11"


@pytest.mark.parametrize("other", ["recipe", "seed", "data", "history"])
def test_the_records_beside_a_checkpoint_are_of_another_run_if_one_thing_differs(run, other):
    checkpoint = load_checkpoint(run[0] / "best.pt")
    assert is_of_run(checkpoint, run[0])
    kept = checkpoint[other]
    changed = {
        "recipe": lambda: kept | {"momentum": 0.5},
        "seed": lambda: kept + 1,
        "data": lambda: kept | {"test_images": 36},
        "history": lambda: [kept[0] | {"test_loss": 9.0}, *kept[1:]],
    }
    assert not is_of_run(checkpoint | {other: changed[other]()}, run[0])


def test_a_folder_s_name_is_no_pattern(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run[1]-2")
    assert newest_folder(tmp_path / "run[1]") == tmp_path / "run[1]-2"


def test_resuming_a_finished_run_changes_nothing(run, tiny, recipe):
    model = tiny_network(seed=9)
    assert fit(model, tiny, recipe, seed=5, out=run[0], resume=True) == run[1]
    assert evaluate(model, tiny.test, "fp32").accuracy == run[1][-1]["test_accuracy"]


@pytest.mark.parametrize("changed", ["seed", "recipe", "data", "model"])
def test_a_run_of_another_kind_is_not_resumed(run, tiny, recipe, changed):
    seed = 6 if changed == "seed" else 5
    if changed == "recipe":
        recipe = replace(recipe, learning_rate=0.2)
    if changed == "data":
        tiny = ImageData(tiny_split(99, "train", 0), tiny.test)
    model = build_model("s7", classes=3) if changed == "model" else tiny_network()
    with pytest.raises(InputError, match=f"with another .*{changed}"):
        fit(model, tiny, recipe, seed=seed, out=run[0], resume=True)


def test_a_network_that_has_learned_before_is_recorded_as_such(run, network, tiny, recipe, tmp_path, capsys):
    assert json.loads((run[0] / "run.json").read_text())["first_weights"] == "as built"
    fit(network, tiny, recipe, out=tmp_path / "on", until=0.0)  # an epoch; `run` has trained it already
    assert "it starts from the weights of an earlier run" in capsys.readouterr().out
    fit(tiny_network(), tiny, recipe, out=tmp_path / "on", resume=True)
    assert json.loads((tmp_path / "on" / "run.json").read_text())["first_weights"] == "an earlier run"


def test_weights_that_ship_are_named_where_a_run_starts_from_them(tiny, recipe, tmp_path):
    colours = [replace(split, classes=tuple("abcdefghij")) for split in (tiny.train, tiny.test)]
    fit(build_model("s7", pretrained=True), ImageData(*colours), replace(recipe, epochs=1), out=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["first_weights"] == "s7-fast"


def test_what_was_learned_in_an_earlier_run_is_no_test_image_in_the_next(run, network, tiny, recipe):
    shifted = ImageData(tiny_split(96, "train", seed=7), replace(tiny.train, name="test"))
    with pytest.raises(InputError, match="96 of these 96 images are among those that the network has learned from"):
        fit(network, shifted, recipe)


def test_what_an_earlier_run_had_learned_is_known_after_a_resumption_too(run, network, tiny, recipe, tmp_path):
    other = ImageData(tiny_split(96, "train", seed=7), tiny.test)
    fit(network, other, recipe, until=0.0, out=tmp_path / "on")  # ends after an epoch; `run` had trained it on tiny
    again = tiny_network()
    fit(again, other, recipe, out=tmp_path / "on", resume=True)
    assert torch.isin(fingerprints(tiny.train.images), again.learned_from).all()


def test_a_network_is_not_said_to_have_learned_by_a_run_that_was_refused(run, tiny, recipe, tmp_path):
    model = tiny_network()
    with pytest.raises(InputError, match="holds a run already"):
        fit(model, tiny, recipe, seed=5, out=run[0])
    fit(model, tiny, recipe, out=tmp_path / "new")
    assert json.loads((tmp_path / "new" / "run.json").read_text())["first_weights"] == "as built"


def test_resuming_nothing_starts_a_run(network, tiny, recipe, tmp_path):
    assert len(fit(network, tiny, recipe, out=tmp_path / "new", resume=True)) == 3


def test_resuming_needs_a_folder(network, tiny, recipe):
    with pytest.raises(InputError, match="give out="):
        fit(network, tiny, recipe, resume=True)


def test_a_folder_that_cannot_be_made_is_refused_before_training(network, tiny, recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        fit(network, tiny, recipe, out=tmp_path / "file" / "run")


def test_a_checkpoint_builds_its_network_again(tiny, recipe, tmp_path):
    model = build_model("s7", classes=3)
    fit(model, tiny, replace(recipe, epochs=1), out=tmp_path)
    again, checkpoint = load_model(tmp_path / "last.pt")
    assert not again.training
    assert checkpoint["classes"] == ["red", "green", "blue"]
    assert torch.equal(evaluate(again, tiny.test).probabilities, evaluate(model, tiny.test).probabilities)


def test_a_network_that_is_not_ours_is_named(run):
    with pytest.raises(InputError, match="unknown model 'Sequential', perhaps a class of your own.*load_state_dict"):
        load_model(run[0] / "last.pt")


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_damaged_checkpoint_is_refused(run, damage):
    path = run[0] / "last.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("<html>not found</html>")
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"last\.pt: (damaged|no such checkpoint)"):
        load_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused_before_it_can(tmp_path):
    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"format": 1, "weights": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()


def test_a_history_with_other_columns_is_refused(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(InputError, match="its columns are"):
        read_history(tmp_path / "history.csv")


@pytest.mark.parametrize("line", ["1,0.1,2.0", "1,0.1,2.0,30,2.0,31,7,8", "1,0.1,2.0,30,2.0,31,seven"])
def test_a_history_with_a_damaged_line_is_refused(tmp_path, line):
    (tmp_path / "history.csv").write_text(history_csv([]) + line)
    with pytest.raises(InputError, match="not a history, or damaged"):
        read_history(tmp_path / "history.csv")


def test_a_write_that_fails_leaves_the_file_before(run, monkeypatch):
    from utils import runs

    path = run[0] / "run.json"
    before = path.read_bytes()

    def full(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(runs.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        runs.write(path, b"half")
    assert path.read_bytes() == before
