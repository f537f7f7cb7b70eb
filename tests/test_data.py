"""utils/data.py: what a split is, and where `load_cifar10` looks in which order. Without the network."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils import data, pictures, sources
from utils.arrays import CIFAR10_CLASSES
from utils.data import ImageData, Split, channel_statistics, fingerprints, load_cifar10
from utils.download import NoNetwork
from utils.errors import InputError

REAL = os.environ.get("CIFAR10_DIR")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working folder, an empty cache, no variables of the user's, and no network."""

    def offline(*_, **__):
        raise NoNetwork("no network to download cifar-10-python.tar.gz")

    for variable in ("S7_DATA", "CIFAR10_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("S7_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "fetch", offline)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def picture_folder(path, name):
    """A data set of one picture a split, known by the name of its only class."""
    for split in ("train", "test"):
        (path / split / name).mkdir(parents=True)
        pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
        Image.fromarray(pixels).save(path / split / name / "1.png")
    return path


def split(**changes):
    fields = {
        "images": torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
        "labels": torch.tensor([0, 1, 2, 1]),
        "classes": ("a", "b", "c"),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 1.0),
        "name": "train",
        "dataset": "tiny",
        "provenance": "made by the tests",
    }
    return Split(**(fields | changes))


# Split and ImageData


def test_a_split_is_as_long_as_its_images():
    assert len(split()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 3, 32, 32)}, "expected uint8 images, got torch.float32"),
        ({"images": torch.zeros(4, 1, 32, 32, dtype=torch.uint8)}, "got (4, 1, 32, 32)"),
        (
            {"images": torch.zeros(4, 32, 32, dtype=torch.uint8)},
            "expected images (N, 3, H, W), got (4, 32, 32)",
        ),
        ({"labels": torch.zeros(4)}, "expected int64 labels, got torch.float32"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "expected labels (4,), one per image, got (5,)"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, "got (4, 1)"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "expected labels 0..2, got 0..3"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, "expected labels 0..2, got -1..2"),
        ({"images": torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "labels": torch.zeros(0).long()}, "got none"),
        ({"classes": ("a", "b", "c\N{NO-BREAK SPACE}d")}, "expected class names that can be printed"),
        ({"mean": (0.5, 0.5)}, "three means in 0..1"),
        ({"mean": (125.3, 123.0, 113.9)}, "three means in 0..1"),
        ({"std": (0.2, 0.2, 0.0)}, "three deviations above 0"),
        ({"std": (63.0, 62.1, 66.7)}, "three deviations above 0, to 1"),
    ],
)
def test_a_split_whose_parts_do_not_fit_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        split(**change)
    assert message in str(caught.value) and str(caught.value).startswith("train split of 'tiny': ")


def test_to_moves_images_and_labels_and_keeps_the_rest():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = ImageData(split(), split(name="test")).to(device)
    for part, name in ((moved.train, "train"), (moved.test, "test")):
        assert part.images.device.type == part.labels.device.type == device
        assert (part.name, part.classes, part.provenance) == (name, ("a", "b", "c"), "made by the tests")


@pytest.mark.parametrize("field", ["classes", "mean", "std", "dataset", "provenance"])
def test_train_and_test_must_be_of_one_data_set(field):
    other = {"classes": ("a", "b", "d"), "dataset": "other", "provenance": "other"}.get(field, (0.9, 0.9, 0.9))
    with pytest.raises(InputError, match=f"the same {field}"):
        ImageData(split(), split(name="test", **{field: other}))


def test_a_data_set_describes_itself():
    images = ImageData(split(), split(name="test"))
    assert str(images) == "tiny: made by the tests (4 train, 4 test images)"
    assert images.to_dict() == {
        "name": "tiny",
        "provenance": "made by the tests",
        "train_images": 4,
        "test_images": 4,
    }
    assert (images.name, images.provenance, images.classes) == ("tiny", "made by the tests", ("a", "b", "c"))
    assert (images.mean, images.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 1.0))


def cifar10_sized(train=50_000, test=10_000, **changes):
    def part(count, name):
        images, labels = torch.zeros(count, 3, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
        fields = {"classes": CIFAR10_CLASSES, "dataset": "CIFAR-10"} | changes
        return split(images=images, labels=labels, name=name, **fields)

    return ImageData(part(train, "train"), part(test, "test"))


def test_only_all_of_cifar10_is_cifar10():
    assert cifar10_sized().is_cifar10
    assert cifar10_sized(dataset="CIFAR-10, JPEG copy").is_cifar10
    assert not cifar10_sized(test=50_000).is_cifar10
    assert not cifar10_sized(train=49_999).is_cifar10
    assert not cifar10_sized(classes=CIFAR10_CLASSES[::-1]).is_cifar10
    assert not cifar10_sized(dataset="own pictures, not CIFAR-10 as published").is_cifar10


@pytest.mark.parametrize("names", [["a", "b", "c"], np.array(["a", "b", "c"])])
def test_class_names_become_plain_texts_that_a_checkpoint_can_hold(names):
    assert split(classes=names).classes == ("a", "b", "c")
    assert all(type(name) is str for name in split(classes=names).classes)


def test_means_and_deviations_become_plain_numbers():
    thirds = split(mean=np.full(3, 1 / 3), std=np.full(3, 1 / 3))
    assert all(type(number) is float for number in (*thirds.mean, *thirds.std))


@pytest.mark.parametrize(
    "change",
    [
        {"images": torch.ones(4, 3, 32, 32, dtype=torch.uint8)},
        {"labels": torch.tensor([0, 1, 2, 2])},
        {"classes": ("a", "b", "d")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_tells_pixels_labels_and_class_names_apart(change):
    assert ImageData(split(), split(name="test")).digest == ImageData(split(), split(name="test")).digest
    shared = change if "classes" in change else {}
    digests = {
        ImageData(split(**train), split(name="test", **test)).digest
        for train, test in (({}, {}), (change, shared), (shared, change))
    }
    assert len(digests) == (2 if shared else 3)


def test_images_that_lie_one_a_column_have_the_same_fingerprints():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    columns = images.flatten(1).T.contiguous().T.unflatten(1, (3, 32, 32))
    assert torch.equal(fingerprints(columns), fingerprints(images))


# Channel statistics


def test_statistics_agree_with_float64_over_all_pixels():
    images = torch.randint(0, 256, (50, 3, 7, 5), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_statistics_by_hand():
    images = torch.tensor([[0, 255], [255, 255], [51, 51]], dtype=torch.uint8).view(1, 3, 1, 2)
    assert channel_statistics(images) == ((0.5, 1.0, 0.2), (0.5, 0.0, 0.0))


def test_both_splits_carry_the_statistics_of_the_training_images():
    digits = load_cifar10("digits", verbose=False)
    assert digits.test.mean == digits.train.mean == channel_statistics(digits.train.images)[0]
    assert digits.test.mean != channel_statistics(digits.test.images)[0]


# Where load_cifar10 looks


def test_the_given_path_wins_over_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("S7_DATA", str(picture_folder(tmp_path / "a", "from_s7_data")))
    assert load_cifar10(picture_folder(tmp_path / "b", "given")).classes == ("given",)
    assert load_cifar10(str(tmp_path / "b")).classes == ("given",)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_cifar10("~/b").classes == ("given",)


def test_auto_takes_the_first_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "fetch", lambda *_, **__: picture_folder(tmp_path / "c", "downloaded"))
    assert load_cifar10().classes == ("downloaded",)
    picture_folder(Path("data"), "in_data")
    assert load_cifar10().classes == ("in_data",)
    monkeypatch.setenv("CIFAR10_DIR", str(picture_folder(tmp_path / "b", "from_cifar10_dir")))
    assert load_cifar10().classes == ("from_cifar10_dir",)
    monkeypatch.setenv("S7_DATA", str(picture_folder(tmp_path / "a", "from_s7_data")))
    assert load_cifar10().classes == ("from_s7_data",)
    monkeypatch.setenv("S7_DATA", "auto")
    assert load_cifar10().classes == ("from_cifar10_dir",)
    monkeypatch.setenv("S7_DATA", "digits")
    assert load_cifar10().classes[0] == "zero"


def test_a_data_folder_with_something_else_in_it_is_passed_over():
    Path("data", "notes").mkdir(parents=True)
    assert load_cifar10().name == "embedded digits, not CIFAR-10"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions are another matter on Windows")
def test_a_data_folder_that_may_not_be_read_is_an_error_and_never_skipped():
    Path("data").mkdir(mode=0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything, nobody may not
    try:
        with pytest.raises(InputError, match="^data cannot be read .*check the files and their permissions$"):
            load_cifar10()
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("variable", ["S7_DATA", "CIFAR10_DIR"])
@pytest.mark.parametrize("value", ["missing", "."])
def test_a_variable_that_cannot_be_used_is_an_error_and_never_skipped(monkeypatch, variable, value):
    picture_folder(Path("data"), "in_data")
    (Path("data") / "train").rename("elsewhere")
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=rf"^\${variable}: "):
        load_cifar10()


@pytest.mark.parametrize("word", ["digits", "auto"])
def test_cifar10_dir_is_a_path_and_no_word(monkeypatch, word):
    monkeypatch.setenv("CIFAR10_DIR", word)
    with pytest.raises(InputError, match=f"CIFAR10_DIR: '{word}' does not exist"):
        load_cifar10()


def test_an_unknown_word_is_refused_with_what_is_accepted():
    with pytest.raises(InputError, match="'cifar' does not exist; expected 'auto', 'digits', or .*parquet"):
        load_cifar10("cifar")


def test_the_archive_is_fetched_into_the_cache_from_the_mirrors(tmp_path, monkeypatch):
    calls = []

    def fetch(urls, destination, md5, size, progress):
        calls.append((urls, destination, md5, size))
        return picture_folder(tmp_path / "c", "downloaded")

    monkeypatch.setattr(data, "fetch", fetch)
    load_cifar10(cache=tmp_path / "here")
    ((urls, destination, md5, size),) = calls
    assert urls[0].startswith("https://zenodo.org/") and urls[-1].startswith("https://www.cs.toronto.edu/")
    assert destination == tmp_path / "here" / "cifar-10-python.tar.gz"
    assert (md5, size) == ("c58f30108f718f92721af3b95e74349a", 170_498_071)


def test_without_a_network_the_digits_are_taken_and_it_is_said_aloud(capsys):
    digits = load_cifar10(verbose=False)
    assert digits.name == "embedded digits, not CIFAR-10" and not digits.is_cifar10
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING: no network") and warning.count("\n") == 1
    assert "embedded digits, not CIFAR-10" in warning


def test_a_download_that_fails_otherwise_is_an_error(monkeypatch):
    def failed(*_, **__):
        raise InputError("could not download")

    monkeypatch.setattr(data, "fetch", failed)
    with pytest.raises(InputError, match="could not download"):
        load_cifar10()


def test_one_line_says_which_source_was_taken(capsys):
    line = str(load_cifar10("digits"))
    assert capsys.readouterr().out == line + "\n"
    assert line == (
        "embedded digits, not CIFAR-10: scikit-learn's handwritten digits (UCI), 8x8 grey scaled to 32x32 RGB "
        "(1,437 train, 360 test images)"
    )


def test_not_verbose_means_silent(tmp_path, capsys):
    load_cifar10(picture_folder(tmp_path / "a", "cat"), verbose=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_cache_is_where_it_was_asked_to_be(tmp_path, monkeypatch):
    folder = picture_folder(tmp_path / "a", "cat")
    load_cifar10(folder)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    load_cifar10(folder, cache=tmp_path / "argument")
    assert len(list((tmp_path / "argument").iterdir())) == 1
    monkeypatch.delenv("S7_CACHE")
    monkeypatch.setattr(data.platformdirs, "user_cache_path", lambda name, **_: tmp_path / "user" / name)
    load_cifar10(folder)
    assert len(list((tmp_path / "user" / "s7-cifar10").iterdir())) == 1


@pytest.mark.skipif(not REAL, reason="CIFAR10_DIR is not set: no real CIFAR-10 here")
def test_the_real_pictures_are_complete_and_decoded_once(monkeypatch):
    real = load_cifar10(REAL)
    assert real.is_cifar10
    assert torch.equal(real.train.labels.bincount(), torch.full((10,), 5_000))
    assert torch.equal(real.test.labels.bincount(), torch.full((10,), 1_000))
    if real.name == "CIFAR-10, JPEG copy":
        assert [round(m, 4) for m in real.mean] == [0.4913, 0.4821, 0.4465]
        assert [round(s, 4) for s in real.std] == [0.2452, 0.2428, 0.2606]
    monkeypatch.setattr(pictures, "_decode_picture", None)
    monkeypatch.setattr(sources, "_from_batches", None)
    again = load_cifar10(REAL)
    assert torch.equal(again.test.images, real.test.images) and str(again) == str(real)


def test_held_out_images_are_training_images_that_are_no_longer_learned_from():
    digits = load_cifar10("digits", verbose=False)
    parts = digits.hold_out(200, seed=1)
    assert (parts.train.name, parts.test.name) == ("train", "validation")
    assert len(parts.test) == 200
    both = torch.cat([fingerprints(parts.train.images), fingerprints(parts.test.images)])
    assert torch.equal(both.sort().values, fingerprints(digits.train.images).sort().values)
    assert "200 training images held out (seed 1)" in parts.name
    assert parts.mean == digits.mean
    assert torch.equal(parts.test.images, digits.hold_out(200, seed=1).test.images)
    assert not torch.equal(parts.test.images, digits.hold_out(200, seed=2).test.images)


@pytest.mark.parametrize("count", [0, -1, 1437, 2000, 3.5])
def test_so_many_cannot_be_held_out(count):
    digits = load_cifar10("digits", verbose=False)
    with pytest.raises(InputError, match="cannot be held out"):
        digits.hold_out(count)


@pytest.mark.parametrize(("train", "test"), [(-1, 5), (5, 0), (1e3, 5)])
def test_a_subset_of_so_many_images_is_refused(train, test):
    with pytest.raises(InputError, match="take whole numbers from 1 on"):
        load_cifar10("digits").subset(train, test)


def test_a_subset_is_the_first_images_and_says_so():
    digits = load_cifar10("digits", verbose=False)
    few = digits.subset(train=100, test=1000)
    assert torch.equal(few.train.images, digits.train.images[:100])
    assert torch.equal(few.test.labels, digits.test.labels)  # there are no 1000
    assert few.name == "embedded digits, not CIFAR-10, the first 100 and 360 images"
    assert not few.is_cifar10


def test_fingerprints_are_equal_for_equal_pixels_only():
    images = torch.randint(0, 256, (50, 3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[7] = images[3]
    images[8] = images[3]
    images[8, 2, 4, 6] ^= 1  # the last pixel alone
    found = fingerprints(images)
    assert found[7] == found[3]
    assert len(found.unique()) == 49
