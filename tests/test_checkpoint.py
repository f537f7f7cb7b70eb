"""Checkpoint files: what is damaged shows, and what is whole is read by torch.load as well."""

import io
import random
import zipfile
from pathlib import Path

import pytest
import torch

from utils import checkpoint as checkpoints
from utils.checkpoint import load_checkpoint, load_model, write_checkpoint
from utils.errors import InputError
from utils.files import write
from utils.models import build_model

CONTENT = {
    "model": "s7",
    "model_arguments": {},
    "recipe": {},
    "seed": 0,
    "data": {"name": "tiny", "provenance": "made by the tests", "train_images": 3, "test_images": 2},
    "classes": ["a"],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "history": [],
    "seconds": 1.5,
    "weights": {"a": torch.arange(300.0)},
    "learned_from": torch.arange(3),
    "torch": "2.0",
}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "last.pt", CONTENT)
    return tmp_path / "last.pt"


def test_it_is_a_file_that_torch_and_zip_programs_read(path):
    assert torch.equal(torch.load(path, weights_only=True)["weights"]["a"], torch.arange(300.0))
    assert zipfile.ZipFile(path).testzip() is None
    assert torch.equal(load_checkpoint(path)["weights"]["a"], torch.arange(300.0))


def test_every_flipped_bit_and_every_cut_is_noticed(path):
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        place, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(path)
    for _ in range(100):
        path.write_bytes(whole[: chance.randrange(len(whole))])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)
    path.write_bytes(whole)
    load_checkpoint(path)


def test_one_of_another_version_is_refused(path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    with pytest.raises(InputError, match=r"not a checkpoint of this version \(format 99\)"):
        load_checkpoint(path)


def test_a_file_without_the_checksum_is_refused(path):
    buffer = io.BytesIO()
    torch.save(load_checkpoint(path), buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="damaged, or not a checkpoint of this version"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [125.3, 123.0, 113.9]},
        {"std": [0.5, 0.5, 0.0]},
        {"seconds": True},
        {"history": [{"epoch": 1}]},
        {"data": {"name": "tiny"}},
    ],
    ids=str,
)
def test_what_no_run_would_write_is_refused(path, wrong):
    write_checkpoint(path, CONTENT | wrong)
    with pytest.raises(InputError, match="not a checkpoint of this package"):
        load_checkpoint(path)


def test_weights_in_another_precision_do_not_fit(path):
    weights = build_model("s7", classes=1).state_dict()
    write_checkpoint(path, CONTENT | {"model_arguments": {"classes": 1}, "weights": weights})
    load_model(path)
    halves = {name: tensor.half() for name, tensor in weights.items()}
    write_checkpoint(path, CONTENT | {"model_arguments": {"classes": 1}, "weights": halves})
    with pytest.raises(InputError, match="its weights do not fit the network 's7'"):
        load_model(path)


def test_a_file_is_on_the_disk_before_it_has_its_name(path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(f"utils.files.os.{name}", lambda *_, name=name: done.append(name))
    write(path, b"new")
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize("broken_step", [0, 1])
def test_a_stop_in_the_middle_of_writing_leaves_one_that_is_whole(path, monkeypatch, broken_step):
    steps, replace = iter(range(9)), checkpoints.os.replace

    def stopping(*names):
        if next(steps) == broken_step:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr("utils.files.os.replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, CONTENT | {"seed": 7}, keep="previous.pt")
    monkeypatch.undo()
    assert checkpoints.newest_checkpoint(path.parent)[0]["seed"] == 0
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt"]


@pytest.mark.parametrize("error", [OSError("input/output error"), MemoryError()])
def test_one_that_cannot_be_read_now_is_not_given_up_for_the_one_before(path, monkeypatch, error):
    write_checkpoint(path, CONTENT | {"seed": 7}, keep="previous.pt")
    read = Path.read_bytes

    def failing(file):
        if file == path:
            raise error
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(InputError, match="cannot be read now .*; try again"):
        checkpoints.newest_checkpoint(path.parent)
    monkeypatch.undo()
    assert checkpoints.newest_checkpoint(path.parent)[0]["seed"] == 7
