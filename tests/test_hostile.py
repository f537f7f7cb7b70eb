"""Files that are traps, a handful of those that `python benchmarks/hostile_files.py` opens. Each in its own process."""

import io
import re
import signal
import sys
import time
import zipfile

import pyarrow as pa
import pytest
import torch

from benchmarks import hostile_files, traps
from utils.contents import check_archive, check_plain
from utils.errors import InputError

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")


@linux
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("checkpoint: a pickle that runs code", "it would call '__builtin__ exec'"),
        ("checkpoint: a bare pickle that runs code", "not a zip file"),
        ("checkpoint: a second pickle of nearly the same name", "no single pickle"),
        ("checkpoint: a pickle that allocates 100 GB", "it would call 'builtins bytearray'"),
        ("checkpoint: one number that claims to be 10^12", "extra is no ordinary tensor"),
        ("checkpoint: a list with 300^5 parts", "sides is nested too deeply"),
        ("checkpoint: weights are a text", "its weights cannot be read"),
        ("checkpoint: weights are not numbers", "its weights are not all numbers: output.2.weight"),
        ("checkpoint: history is a number", "its history cannot be read"),
        ("checkpoint: the model is a list", "its model cannot be read"),
        ("checkpoint: the model has 30,000,000 classes", "last.pt: classes=30000000 cannot be used"),
        ("checkpoint: fewer names than classes", "another number of classes than it names"),
        ("checkpoint: class names that the terminal obeys", "classes has text that cannot be printed"),
        ("checkpoint: a file of 1 TB", "(too large)"),
        ("checkpoint: a pipe", "no such checkpoint"),
        ("data: batches that run code", "data_batch_1 has md5"),
        ("data: an archive of 1 TB", "has 1,099,511,627,776 bytes"),
        ("data: a batch of 1 TB", "data_batch_1 has 1,099,511,627,776 bytes"),
        ("data: forged archive, a path with ..", "tar.gz/data_batch_1 has md5"),
        ("data: forged archive, a link to the outside", "tar.gz/data_batch_1 has md5"),
        ("data: Parquet, 1 TB in rows of one value", "row 0: 10,000,013 bytes"),
        ("data: Parquet, JSON nested 100,000 deep", "row 0: label 10"),
        ("data: Parquet of 1 TB", "has 1,099,511,627,776 bytes"),
        ("data: Parquet that is a pipe", "no train-*.parquet"),
        ("data: a picture that is a pipe", "1.png has a picture's name, but is no file"),
        ("data: a picture of 1 TB", "1.ppm has 1,099,511,627,776 bytes"),
        ("data: PostScript called PNG", "none of JPEG, PNG"),
        ("picture: a JPEG that says 65,000 x 65,000", "more than 89,478,485 pixels"),
        ("picture: a PPM with a comment of 1 TB", "has 1,099,511,627,776 bytes"),
        ("record: run.json nested 100,000 deep", "not a run's record (RecursionError"),
        ("record: run.json with a word for the accuracy", "could not convert string to float: 'good'"),
    ],
)
def test_a_trap_is_refused(name, why):
    (row,) = (row for row in hostile_files.rows() if row.name == name)
    outcome = hostile_files.outcome_of(row)
    assert outcome.what == hostile_files.REFUSED and why in outcome.detail, outcome
    assert outcome.megabytes < 500 and outcome.seconds < 30, outcome


@linux
@pytest.mark.parametrize(
    ("name", "make", "opens"),
    [
        ("last.pt", traps.checkpoint(), hostile_files.load_model),
        ("last.pt", traps.records(len), hostile_files.load_model),
        ("data", traps.parquet(pa.array([traps.png(32, 32)])), hostile_files.open_data),
        ("data", traps.in_a_folder("train/cat/1.png", traps.content(traps.png(32, 32))), hostile_files.open_data),
        ("cat.png", traps.content(traps.png(32, 32)), hostile_files.load_picture),
        ("run", traps.run_of(), hostile_files.Record),
    ],
)
def test_what_is_no_trap_is_opened(name, make, opens):
    outcome = hostile_files.outcome_of(hostile_files.Row("good", name, make, opens))
    assert outcome.what == "opened", outcome


def fails(_):
    raise InputError("two\nlines")


@linux
@pytest.mark.parametrize(
    ("make", "opens", "what"),
    [
        (traps.unsealed, lambda path: torch.load(path, weights_only=False), "RAN CODE"),
        (traps.folder, lambda path: path.with_name("escaped").touch(), "WROTE"),
        (traps.folder, lambda path: path.chmod(0o700), "WROTE"),
        (traps.folder, lambda path: path.with_name("cache").touch(), "WROTE"),
        (traps.folder, lambda path: (path.parent.parent / "cache" / "entry").touch(), "opened"),
        (traps.folder, lambda path: bytearray(2 * hostile_files.MEMORY), "CRASHED"),
        (traps.folder, lambda path: time.sleep(10), "TOOK TOO LONG"),
        (traps.folder, lambda path: signal.raise_signal(signal.SIGKILL), "ENDED BY SIGNAL 9"),
        (traps.folder, fails, "REFUSED IN SEVERAL LINES"),
        (fails, len, "NOT MADE"),
    ],
)
def test_what_happens_instead_of_a_refusal_is_named(make, opens, what, monkeypatch):
    monkeypatch.setattr(hostile_files, "SECONDS", 2)
    outcome = hostile_files.outcome_of(hostile_files.Row("bad", "trap", make, opens))
    assert outcome.what == what, outcome
    assert (outcome.seconds > 2) == (what == "TOOK TOO LONG")


@linux
def test_the_program_fails_unless_all_is_refused(monkeypatch, capsys):
    harmless = hostile_files.Row("picture: harmless", "run", traps.folder, bool)
    careless = hostile_files.Row("record: harmful", "run", traps.folder, lambda path: path.rmdir())
    rows = [*hostile_files.rows(), harmless, careless]
    monkeypatch.setattr(hostile_files, "rows", lambda: rows)
    assert hostile_files.main(["picture: a pipe", "record: run.json"]) == 0
    assert "3 of 3 refused, none ran code or wrote outside" in capsys.readouterr().out
    assert hostile_files.main(["picture: a pipe", "harmless", "harmful"]) == 1
    out = capsys.readouterr().out
    assert [re.split("  +", line)[3] for line in out.splitlines()[1:4]] == ["yes", "NO", "NO"]
    assert "1 of 3 refused, 1 ran code or wrote outside" in out
    with pytest.raises(SystemExit, match="2"):
        hostile_files.main(["no such words"])


def archive(compression=zipfile.ZIP_STORED, **records):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in records.items():
            file.writestr(f"archive/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def test_a_compressed_record_is_refused_before_it_is_unpacked():
    check_archive(archive(data_pkl=b"\x80\x02}."))
    with pytest.raises(ValueError, match="compressed"):
        check_archive(archive(zipfile.ZIP_DEFLATED, data_pkl=b"\x80\x02}."))


@pytest.mark.parametrize("reference", [b"cposix\nsystem\n", b"ctorch\nUntypedStorage\n", b"ctorch.hub\nload\n"])
def test_a_pickle_may_refer_to_nothing_but_tensors(reference):
    with pytest.raises(ValueError, match="it would call"):
        check_archive(archive(data_pkl=b"\x80\x02" + reference + b"."))


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"a": {1, 2}},
        {"a": b"bytes"},
        {(1, 2): 3},
        {"a": "\x1b[2J"},
        {"\x1b[2J": 1},
        {"a": torch.zeros(1).expand(9)},
        {"a": [[[[[[[[1]]]]]]]]},  # nine levels deep
    ],
)
def test_what_is_not_plain_is_refused(checkpoint):
    check_plain({"a": [1, 2.5, None, True, "text\n", torch.ones(3)], "b": {3: ("c",)}, "d": [[[[[[[1]]]]]]]})
    with pytest.raises(ValueError):
        check_plain(checkpoint)


@linux
def test_only_the_readers_of_the_usual_formats_are_asked():
    (row,) = (row for row in hostile_files.rows() if row.name == "data: PostScript called PNG")
    assert "none of JPEG, PNG" in hostile_files.outcome_of(row).detail
