"""A run that was stopped, and goes on."""

import json
import signal
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from conftest import tiny_network
from filelock import FileLock

from utils import runs
from utils.checkpoint import load_checkpoint, write_checkpoint
from utils.engine import fit
from utils.errors import InputError, TrainingError
from utils.models import build_model
from utils.runs import Run
from utils.trainer import Trainer

STEPS = 3  # an epoch of `tiny` in the batches of `recipe`


def weights(model) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def timeless(history: list[dict]) -> list[dict]:
    return [record | {"seconds": 0} for record in history]


class Gone(BaseException):
    """As kill -9 does: nothing is tidied up."""


def stop_at(patch: pytest.MonkeyPatch, step: int, stop) -> None:
    """Calls `stop` in the middle of step number `step` (from 0) of a run, after half of the weights have changed."""
    step_of, count = Trainer.step, iter(range(1000))

    def stopping(self, *batch):
        result = step_of(self, *batch)
        if next(count) == step:
            stop()
        return result

    patch.setattr(Trainer, "step", stopping)


def kill():
    raise Gone


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def whole(tiny, recipe, tmp_path):
    """A run that nothing disturbed: its weights, history and log."""
    model = tiny_network()
    history = fit(model, tiny, recipe, out=tmp_path / "whole")
    return weights(model), timeless(history), (tmp_path / "whole" / "training.log").read_text()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
def test_a_killed_run_ends_as_one_that_was_not(tiny, recipe, tmp_path, monkeypatch, optimizer, per_image, save_seconds):
    recipe = replace(recipe, optimizer=optimizer, per_image=per_image, workers=0)
    straight = tiny_network()
    history = fit(straight, tiny, recipe)
    monkeypatch.setattr(runs, "SAVE_SECONDS", save_seconds)
    for step in (2, 4, 5):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Gone):
            stop_at(patch, step, kill)
            fit(tiny_network(), tiny, recipe, out=tmp_path / f"{step}")
        resumed = tiny_network()
        assert timeless(fit(resumed, tiny, recipe, out=tmp_path / f"{step}", resume=True)) == timeless(history)
        assert torch.equal(weights(straight), weights(resumed))


@pytest.mark.parametrize("step", [0, 1, 2, 3, 8])
def test_ctrl_c_keeps_the_step_under_way(whole, tiny, recipe, tmp_path, monkeypatch, capsys, step):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, step, ctrl_c)
        fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    shown = capsys.readouterr().out
    assert f"Interrupted in epoch {step // STEPS + 1}, after {step % STEPS + 1} steps of it" in shown
    assert "--resume" in shown
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert (len(checkpoint["history"]), checkpoint["trainer"]["tally"]["steps"]) == (step // STEPS, step % STEPS + 1)

    model = tiny_network()
    history = fit(model, tiny, recipe, out=tmp_path / "run", resume=True)
    expected, expected_history, expected_log = whole
    assert torch.equal(weights(model), expected)
    assert timeless(history) == expected_history
    log = (tmp_path / "run" / "training.log").read_text().splitlines()
    assert [line for line in log if not line.startswith(("Interrupted", "Resumed"))] == expected_log.splitlines()


def test_ctrl_c_in_the_test_repeats_the_test_alone(whole, tiny, recipe, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("utils.engine.evaluate", lambda *a, **k: ctrl_c())
        fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        step_of = Trainer.step
        patch.setattr(Trainer, "step", lambda self, *batch: steps.append(1) or step_of(self, *batch))
        model = tiny_network()
        fit(model, tiny, recipe, out=tmp_path / "run", resume=True)
    assert len(steps) == 2 * STEPS
    assert torch.equal(weights(model), whole[0])


def test_ctrl_c_while_resuming_leaves_the_checkpoint_as_it_is(tiny, recipe, tmp_path):
    fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "load_state_dict", lambda *state: ctrl_c())
        fit(tiny_network(), tiny, recipe, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_what_was_logged_after_the_checkpoint_is_logged_once(whole, tiny, recipe, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Gone):
        log_of = Run.log
        patch.setattr(Run, "log", lambda self, line, **k: log_of(self, line, **k) or (kill() if self.epoch == 2 else 0))
        fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    fit(tiny_network(), tiny, recipe, out=tmp_path / "run", resume=True)
    log = (tmp_path / "run" / "training.log").read_text().splitlines()
    assert [line for line in log if not line.startswith("Resumed")] == whole[2].splitlines()


def test_a_stop_between_checkpoint_and_history_costs_nothing(whole, tiny, recipe, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Gone):
        patch.setattr(Run, "save_records", lambda self: kill() if len(self.history) == recipe.epochs else None)
        fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    fit(tiny_network(), tiny, recipe, out=tmp_path / "run", resume=True)
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + recipe.epochs
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-9])])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(whole, tiny, recipe, tmp_path, capsys, damage):
    folder = tmp_path / "run"
    fit(tiny_network(), tiny, recipe, out=folder)
    damage(folder / "last.pt")
    model = tiny_network()
    fit(model, tiny, recipe, out=folder, resume=True)
    assert torch.equal(weights(model), whole[0])
    assert "Resumed from previous.pt: " in capsys.readouterr().out
    for name in ("last.pt", "previous.pt"):  # the damaged one has not pushed out a whole one
        load_checkpoint(folder / name)


def test_nothing_whole_is_refused_and_left_as_it_is(tiny, recipe, tmp_path):
    folder = tmp_path / "run"
    fit(tiny_network(), tiny, recipe, out=folder)
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes(b"PK")
    with pytest.raises(InputError, match="nothing is left to resume"):
        fit(tiny_network(), tiny, recipe, out=folder, resume=True)
    assert (folder / "last.pt").read_bytes() == b"PK"


def test_one_process_at_a_time(network, tiny, recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process is training there"):
        fit(network, tiny, recipe, out=folder)
    assert len(fit(network, tiny, recipe, out=folder)) == recipe.epochs  # and it is free again
    assert len(fit(network, tiny, recipe, out=folder, resume=True)) == recipe.epochs


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(38, "Function not implemented")])
def test_a_drive_without_locks_is_used_without(network, tiny, recipe, tmp_path, monkeypatch, error):
    def acquire(self, *arguments, **options):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert len(fit(network, tiny, recipe, out=tmp_path / "run")) == recipe.epochs


def full(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_training_goes_on_while_the_disk_is_full(whole, tiny, recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        save = Run.save_checkpoints
        patch.setattr(Run, "save_checkpoints", lambda self: full() if len(self.history) < 3 else save(self))
        fit(tiny_network(), tiny, recipe, out=folder)
    assert capsys.readouterr().out.count("NOT SAVED") == 2
    assert torch.equal(weights_of(folder / "last.pt"), whole[0])


def test_a_run_whose_end_cannot_be_saved_fails_and_keeps_what_there_is(tiny, recipe, tmp_path):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match="No space left on device"):
        save = Run.save_checkpoints
        patch.setattr(Run, "save_checkpoints", lambda self: full() if len(self.history) > 1 else save(self))
        fit(tiny_network(), tiny, recipe, out=folder)
    assert len(load_checkpoint(folder / "last.pt")["history"]) == 1
    assert len(fit(tiny_network(), tiny, recipe, out=folder, resume=True)) == recipe.epochs


def weights_of(path):
    return torch.cat([tensor.double().flatten() for tensor in load_checkpoint(path)["weights"].values()])


def test_weights_that_are_no_numbers_are_not_saved_over_good_ones(network, tiny, recipe, tmp_path):
    def poison(self):
        if len(self.history) == 2:
            self.trainer.model[0].weight.data[0] = float("nan")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match=r"epoch 3.*0\.weight"):
        save = Run.save
        patch.setattr(Run, "save", lambda self: poison(self) or save(self))
        fit(network, tiny, recipe, out=tmp_path / "run")
    assert weights_of(tmp_path / "run" / "last.pt").isfinite().all()
    assert len(load_checkpoint(tmp_path / "run" / "last.pt")["history"]) == 1


def test_the_time_before_a_stop_counts(tiny, recipe, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 4, ctrl_c)
        patch.setattr(Run, "seconds", 100.0)
        fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    history = fit(tiny_network(), tiny, recipe, out=tmp_path / "run", resume=True)
    assert history[-1]["seconds"] >= 100


def test_a_run_from_before_a_field_was_there_is_resumed_by_its_default(tiny, recipe, tmp_path):
    folder = tmp_path / "run"
    fit(build_model("s7", classes=3), tiny, replace(recipe, epochs=1), out=folder)
    checkpoint = load_checkpoint(folder / "last.pt")
    checkpoint["model_arguments"].pop("width")
    checkpoint["recipe"].pop("crop")
    write_checkpoint(folder / "last.pt", checkpoint)
    assert len(fit(build_model("s7", classes=3), tiny, replace(recipe, epochs=1), out=folder, resume=True)) == 1
    with pytest.raises(InputError, match=r"recipe \(crop: 0 then, 2 now\)"):
        fit(build_model("s7", classes=3), tiny, replace(recipe, epochs=1, crop=2), out=folder, resume=True)
    checkpoint["model_arguments"].pop("classes")
    write_checkpoint(folder / "last.pt", checkpoint)
    with pytest.raises(InputError, match=r"model_arguments \(classes: 10 then, 3 now\)"):
        fit(build_model("s7", classes=3), tiny, replace(recipe, epochs=1), out=folder, resume=True)


def test_the_record_names_the_hardware_that_trained_and_not_that_which_looked(tiny, recipe, tmp_path, monkeypatch):
    def hardware_after(machine: str, epochs: int) -> str:
        monkeypatch.setattr(runs, "describe_hardware", lambda device: machine)
        with suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            stop_at(patch, STEPS * epochs, ctrl_c)
            fit(tiny_network(), tiny, recipe, out=tmp_path / "run", resume=True)
        return json.loads((tmp_path / "run" / "run.json").read_text())["hardware"]

    assert hardware_after("one", epochs=1) == "one"
    assert hardware_after("two", epochs=99) == "one, then two"
    assert hardware_after("three", epochs=99) == "one, then two"  # it was done


def test_another_version_of_torch_is_said_in_the_log(tiny, recipe, tmp_path, monkeypatch):
    fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    monkeypatch.setattr(runs, "package_version", lambda name: "9.9")
    fit(tiny_network(), tiny, recipe, out=tmp_path / "run", resume=True)
    assert "from here on with 9.9" in (tmp_path / "run" / "training.log").read_text()
