"""Files that are traps, a handful of those that `python benchmarks/hostile_files.py` opens. Each in its own process."""

import io
import sys
import zipfile

import pytest
import torch

from benchmarks import hostile_files, traps
from utils.contents import check_archive, check_plain

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")


@linux
@pytest.mark.parametrize(
    "name",
    [
        "checkpoint: a pickle that runs code",
        "checkpoint: a bare pickle that runs code",
        "checkpoint: a second pickle of nearly the same name",
        "checkpoint: a pickle that allocates 100 GB",
        "checkpoint: one number that claims to be 10^12",
        "checkpoint: a list with 300^5 parts",
        "checkpoint: weights are a text",
        "checkpoint: weights are not numbers",
        "checkpoint: history is a number",
        "checkpoint: the model is a list",
        "checkpoint: the model has 30,000,000 classes",
        "checkpoint: fewer names than classes",
        "checkpoint: class names that the terminal obeys",
        "checkpoint: a file of 1 TB",
        "checkpoint: a pipe",
        "data: batches that run code",
        "data: an archive of 1 TB",
        "data: a batch of 1 TB",
        "data: forged archive, a path with ..",
        "data: forged archive, a link to the outside",
        "data: Parquet, 1 TB in rows of one value",
        "data: Parquet, JSON nested 100,000 deep",
        "data: Parquet of 1 TB",
        "data: Parquet that is a pipe",
        "data: a picture that is a pipe",
        "data: a picture of 1 TB",
        "data: PostScript called PNG",
        "picture: a JPEG that says 65,000 x 65,000",
        "picture: a PPM with a comment of 1 TB",
        "record: run.json nested 100,000 deep",
        "record: run.json with a word for the accuracy",
    ],
)
def test_a_trap_is_refused(name):
    (row,) = (row for row in hostile_files.rows() if row.name == name)
    outcome = hostile_files.outcome_of(row)
    assert outcome.what == hostile_files.REFUSED, outcome
    assert outcome.megabytes < 500 and outcome.seconds < 30, outcome


@linux
def test_what_is_no_trap_is_opened_and_what_runs_code_is_seen():
    good = hostile_files.Row("good", "last.pt", traps.checkpoint(), hostile_files.load_model)
    assert hostile_files.outcome_of(good).what == "opened"
    careless = hostile_files.Row("bad", "last.pt", traps.unsealed, lambda path: torch.load(path, weights_only=False))
    assert hostile_files.outcome_of(careless).what == "RAN CODE"
    untidy = hostile_files.Row("bad", "last.pt", traps.unsealed, lambda path: path.with_name("escaped").touch())
    assert hostile_files.outcome_of(untidy).what == "WROTE"


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
