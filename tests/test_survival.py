"""What survival.py takes for the same run, and for damage that was noticed."""

import itertools
import random
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import tiny_network

from benchmarks import survival
from utils import runs
from utils.checkpoint import BEFORE, LAST, load_checkpoint, write_checkpoint
from utils.engine import fit


@pytest.fixture
def run(tiny, recipe, tmp_path):
    fit(tiny_network(), tiny, recipe, out=tmp_path / "run")
    return tmp_path / "run"


def one_weight(run):
    checkpoint = load_checkpoint(run / LAST)
    bias = checkpoint["weights"]["0.bias"]
    bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    write_checkpoint(run / LAST, checkpoint)


def an_accuracy(run):
    lines = (run / "history.csv").read_text().splitlines()
    cells = lines[2].split(",")
    cells[-2] = "12.5"
    (run / "history.csv").write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")


def a_line(run):
    lines = (run / "training.log").read_text().splitlines()
    (run / "training.log").write_text("\n".join([*lines[:-2], lines[-1]]) + "\n")


@pytest.mark.parametrize("change", [one_weight, an_accuracy, a_line])
def test_a_run_is_the_same_to_the_bit_or_not_at_all(run, tmp_path, change):
    whole = survival.outcome(run)
    other = shutil.copytree(run, tmp_path / "other")
    with open(other / "training.log", "a") as log:
        log.write("Resumed after epoch 1\n")
    assert survival.outcome(other) == whole
    change(other)
    assert survival.outcome(other) != whole


@pytest.fixture
def few():
    return survival.some_digits().subset(96, 40)


def test_a_killed_run_counts_if_it_ends_as_the_one_that_was_not(few, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_SECONDS", runs.SAVE_SECONDS)  # which the program changes
    recipe = replace(survival.RECIPE, epochs=1)
    assert survival.survived_kills(tmp_path / "same", few, recipe, 1, random.Random(0)) == 1
    outcomes = itertools.count()
    monkeypatch.setattr(survival, "train", lambda *_: None)
    monkeypatch.setattr(survival, "outcome", lambda run: next(outcomes))
    assert survival.survived_kills(tmp_path / "others", few, recipe, 1, random.Random(0)) == 0


def test_damage_counts_if_it_shows_and_the_checkpoint_before_is_taken(few, tmp_path, monkeypatch):
    assert survival.noticed(tmp_path / "seen", few, 4, random.Random(0)) == 4

    def silent(folder):
        shutil.copy(folder / BEFORE, folder / LAST)
        return {"history": [1]}, None

    monkeypatch.setattr(survival, "newest_checkpoint", silent)
    assert survival.noticed(tmp_path / "unseen", few, 2, random.Random(0)) == 0
