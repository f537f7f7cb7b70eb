"""utils/sources.py against small archives and batches made here, whole and broken. test_pictures.py has the rest."""

import hashlib
import pickle
import shutil
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from test_pictures import assert_same_pixels, names, random_pictures, refused
from torchvision.datasets import CIFAR10

from utils import sources
from utils.arrays import CIFAR10_CLASSES
from utils.errors import InputError
from utils.sources import read, read_digits, recognises


@pytest.fixture
def ten():
    """20 training and 10 test pictures, (N, 32, 32, 3), with their labels."""
    return {"train": (random_pictures(20), [*range(10)] * 2), "test": (random_pictures(10), [*range(10)])}


@pytest.fixture
def extracted(tmp_path, ten, monkeypatch):
    """The original's folder of pickled batches, in small, with torchvision's md5 lists replaced by theirs."""
    folder = tmp_path / "original" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = {"data_batch_1": ("train", slice(0, 10)), "data_batch_2": ("train", slice(10, 20))}
    md5 = {}
    for name, (split, part) in (batches | {"test_batch": ("test", slice(None))}).items():
        pixels, labels = ten[split]
        rows = pixels[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels[part]}))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in batches])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    return folder


@pytest.fixture
def archive(extracted, monkeypatch):
    path = extracted.parent.with_name("cifar-10-python.tar.gz")
    with tarfile.open(path, "w:gz") as file:
        file.add(extracted, extracted.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# The original, whole


def test_an_archive_gives_its_pixels_and_says_that_they_are_the_original(archive, cache, ten):
    arrays = read(archive, cache, progress=False)
    assert_same_pixels(arrays, ten)
    assert (arrays.name, arrays.provenance) == ("CIFAR-10", "original pixels, md5-checked")
    assert arrays.classes == CIFAR10_CLASSES


@pytest.mark.parametrize("level", ["the folder", "its parent"])
def test_an_extracted_archive_gives_the_same(extracted, cache, ten, level):
    arrays = read(extracted if level == "the folder" else extracted.parent, cache, progress=False)
    assert_same_pixels(arrays, ten)
    assert (arrays.name, arrays.provenance) == ("CIFAR-10", "original pixels, md5-checked")


def test_a_folder_with_the_archive_in_it_will_do(archive, cache, ten):
    shutil.rmtree(archive.parent / "original")
    assert_same_pixels(read(archive.parent, cache, progress=False), ten)


# What cannot be used


def test_a_folder_with_nothing_recognisable_is_told_what_was_looked_for(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    assert not recognises(tmp_path / "empty")
    line = refused(tmp_path / "empty", cache, "empty holds nothing recognisable")
    for form in ("cifar-10-python.tar.gz", "cifar-10-batches-py", "train-*.parquet", "train/<class>/"):
        assert form in line


def test_the_original_is_recognised(archive, extracted):
    assert all(recognises(path) for path in (archive.parent, extracted, extracted.parent))


def test_a_wrong_archive_is_refused_with_both_md5s(archive, cache):
    expected = CIFAR10.tgz_md5
    archive.write_bytes(archive.read_bytes()[:-10])
    got = hashlib.md5(archive.read_bytes()).hexdigest()
    refused(archive, cache, f"cifar-10-python.tar.gz has md5 {got}, expected {expected}")


def test_an_html_page_saved_as_the_archive_is_called_one(archive, cache):
    archive.write_text("\n<!DOCTYPE html><html>Sign in</html>")
    refused(archive, cache, "is an HTML page")


def test_a_batch_with_a_wrong_md5_is_refused_and_never_unpickled(extracted, cache, tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (extracted / "data_batch_2").write_bytes(pickle.dumps(Attack()))
    got = hashlib.md5((extracted / "data_batch_2").read_bytes()).hexdigest()
    refused(extracted, cache, f"data_batch_2 has md5 {got}, expected {CIFAR10.train_list[1][1]}")
    assert not (tmp_path / "executed").exists()


def test_a_missing_batch_is_named(extracted, cache):
    (extracted / "data_batch_2").unlink()
    refused(extracted, cache, "cifar-10-batches-py lacks data_batch_2")


def test_a_single_parquet_file_is_referred_to_its_folder(tmp_path, cache):
    file = tmp_path / "train-00000-of-00001.parquet"
    file.touch()
    refused(file, cache, "is one Parquet file; name the folder")


# The cache


@pytest.mark.parametrize("first, second", [*product(("archive", "extracted"), repeat=2)])
def test_the_original_is_unpacked_once_in_whichever_form_it_comes(first, second, request, cache, ten, monkeypatch):
    paths = {form: request.getfixturevalue(form) for form in ("archive", "extracted")}
    unpacked = read(paths[first], cache, progress=False)
    monkeypatch.setattr(sources, "_from_batches", None)
    again = read(paths[second], cache, progress=False)
    assert_same_pixels(again, ten)
    assert again[4:] == unpacked[4:]
    assert len(names(cache)) == 1


@pytest.mark.parametrize("form", ["archive", "extracted"])
def test_an_original_damaged_later_is_refused_in_spite_of_the_cache(form, request, cache):
    path = request.getfixturevalue(form)
    read(path, cache, progress=False)
    file = path / "data_batch_2" if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{file.name} has md5 "):
        read(path, cache, progress=False)


# The digits


def test_the_digits_look_like_cifar10_and_never_change():
    digits, again = read_digits(), read_digits()
    assert digits.train_images.shape == (1437, 3, 32, 32) and digits.train_images.dtype == np.uint8
    assert digits.test_images.shape == (360, 3, 32, 32) and digits.test_labels.dtype == np.int64
    assert np.unique(digits.train_images).tolist() == [round(255 * grey / 16) for grey in range(17)]
    for now, then in zip(digits[:4], again[:4], strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_digits_are_split_with_equal_shares():
    digits = read_digits()
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    np.testing.assert_allclose(test, (train + test) * 360 / 1797, atol=1)


def test_the_digits_never_pass_for_cifar10():
    digits = read_digits()
    assert digits.name == "embedded digits, not CIFAR-10"
    assert digits.provenance == "scikit-learn's handwritten digits (UCI), 8x8 grey scaled to 32x32 RGB"
    assert digits.classes[:3] == ("zero", "one", "two") and len(digits.classes) == 10
