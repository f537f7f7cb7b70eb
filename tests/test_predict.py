import numpy as np
import pytest
import torch
from PIL import Image

from utils.errors import InputError
from utils.evaluation import evaluate
from utils.predict import load_picture, predict


def test_a_picture_becomes_its_middle_square(tmp_path):
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    wide.save(tmp_path / "wide.png")
    picture = load_picture(tmp_path / "wide.png")
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 32, 32)
    assert picture[:, 16, 16].tolist() == [0, 0, 255]
    assert picture[2].min() > 230  # no red from the sides, but for the filter's ringing
    assert load_picture(tmp_path / "wide.png", side=24).shape == (3, 24, 24)


def test_a_large_picture_is_averaged_and_not_thinned_out(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # black and white pixels in turn
    Image.fromarray(board).save(tmp_path / "board.png")
    assert (load_picture(tmp_path / "board.png").float() - 127.5).abs().max() < 30


@pytest.mark.parametrize(("mode", "color", "pixel"), [("L", 77, [77] * 3), ("RGBA", (0, 0, 0, 0), [255] * 3)])
def test_grey_and_transparent_pictures_are_read(tmp_path, mode, color, pixel):
    Image.new(mode, (40, 40), color).save(tmp_path / "picture.png")
    assert load_picture(tmp_path / "picture.png")[:, 5, 5].tolist() == pixel


def test_a_picture_of_the_right_size_is_not_touched(tmp_path, tiny):
    image = tiny.test.images[0]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "same.png")
    assert torch.equal(load_picture(tmp_path / "same.png"), image)


def test_predictions_are_those_of_the_evaluation(network, tiny):
    expected = evaluate(network, tiny.test).probabilities
    answers = predict(network, tiny.test.images, tiny.mean, tiny.std)
    assert torch.allclose(answers, expected, atol=1e-6)
    assert not answers.requires_grad


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pictures": torch.zeros(1, 3, 32, 32)}, r"uint8 pictures \(N, 3, H, W\), got torch.float32"),
        ({"pictures": torch.zeros(3, 32, 32, dtype=torch.uint8)}, r"got torch.uint8 \(3, 32, 32\)"),
        ({"mean": (0.5,)}, "three means and three deviations"),
        ({"std": (0.2, 0, 0.2)}, "three means and three deviations above 0"),
    ],
)
def test_pictures_and_their_normalisation_have_to_fit(network, tiny, changed, says):
    asked = {"pictures": tiny.test.images, "mean": tiny.mean, "std": tiny.std} | changed
    with pytest.raises(InputError, match=f"predict needs .*{says}"):
        predict(network, **asked)


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"\x89PNG\r\n\x1a\n cut"])
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"picture\.png: (no such picture|not a picture)"):
        load_picture(path)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_picture_of_more_than_8_bits_is_refused_instead_of_clipped(tmp_path, mode):
    Image.new(mode, (40, 40), 300).save(tmp_path / "deep.tiff")
    with pytest.raises(InputError, match=rf"deep\.tiff: mode {mode}.*, expected 8-bit colours"):
        load_picture(tmp_path / "deep.tiff")
