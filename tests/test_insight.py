"""What the weights see: Grad-CAM, calibration, confusions and corruptions, each against what it must be."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_plots import texts
from torch import nn

from utils import plots
from utils.errors import InputError
from utils.evaluation import Evaluation, evaluate, normalize
from utils.insight import (
    calibration,
    confusion_pairs,
    corrupted,
    corruptions,
    grad_cam,
    layers_with_maps,
    standard_error,
    under_corruption,
)
from utils.models import build_model


def answers(split, rows) -> Evaluation:
    """An evaluation with these probabilities for the first images of `split`."""
    few = replace(split, images=split.images[: len(rows)], labels=split.labels[: len(rows)])
    return Evaluation(few, torch.tensor(rows), loss=0.0)


def test_grad_cam_before_a_global_average_is_the_class_activation_map(tiny):
    """B. Zhou et al., arXiv 1512.04150: there, the gradient of a logit is its row of the last layer."""
    model = build_model("s7", classes=3).train()
    images, classes = tiny.test.images[:4], torch.tensor([0, 1, 2, 0])
    heat = grad_cam(model, images, tiny.test, classes)

    assert model.training
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    with torch.no_grad():
        maps = model.c4(model.c3(model.c2(model.c1(normalize(images, tiny.mean, tiny.std)))))
        expected = torch.einsum("nk,nkhw->nhw", model.output[-1].weight[classes], maps).relu()
    expected = F.interpolate(expected[:, None], (32, 32), mode="bilinear").squeeze(1)
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(heat, expected, rtol=1e-3, atol=1e-4)


def test_grad_cam_looks_at_the_layer_it_is_told_to(tiny, network):
    coarse = grad_cam(network, tiny.test.images[:2], tiny.test, torch.tensor([0, 1]), layer=network[0])
    fine = grad_cam(network, tiny.test.images[:2], tiny.test, torch.tensor([0, 1]), layer=network[2])
    assert coarse.shape == fine.shape == (2, 32, 32)
    assert not torch.allclose(coarse, fine)


@pytest.mark.parametrize(("name", "last"), [("s7", "c4"), ("s7_dilated", "c4")])
def test_the_last_map_is_the_last_block_s(name, last):
    model = build_model(name).eval()
    assert layers_with_maps(model, torch.zeros(1, 3, 32, 32))[-1] is getattr(model, last)


def test_a_network_without_maps_is_refused(tiny):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(InputError, match="none of its modules answers with a map"):
        grad_cam(flat, tiny.test.images[:1], tiny.test, torch.tensor([0]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": torch.zeros(2, 3, 32, 32)}, "expected uint8 images, got torch.float32"),
        ({"images": torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "classes": torch.arange(0)}, "at least one image"),
        ({"classes": torch.tensor([0])}, r"expected labels \(2,\), one per image"),
        ({"classes": torch.tensor([0, 3])}, r"expected labels 0\.\.2, got 0\.\.3"),
        ({"layer": nn.Conv2d(3, 3, 1)}, "the layer is none of its modules that answer with a map"),
        ({"layer": "c4"}, "the layer is none of its modules that answer with a map"),
    ],
)
def test_grad_cam_refuses_what_it_cannot_be_asked(tiny, network, changed, says):
    asked = {"images": tiny.test.images[:2], "split": tiny.test, "classes": torch.tensor([0, 1])} | changed
    with pytest.raises(InputError, match=says):
        grad_cam(network, **asked)


def test_calibration_by_hand(tiny):
    """Labels are 0, 1, 2, 0, 1: two answers at 75 %, one of them right; three at 90 %, all right."""
    result = answers(tiny.test, [[0.75, 0.25, 0], [0.75, 0.25, 0], [0, 0.1, 0.9], [0.9, 0.1, 0], [0.1, 0.9, 0]])
    found = calibration(result, bins=4)
    assert found.images.tolist() == [0, 0, 2, 3]  # 75 % is the upper edge of the third bin
    assert found.accuracy.tolist() == pytest.approx([0, 0, 50, 100])
    assert found.confidence.tolist() == pytest.approx([0, 0, 75, 90])
    assert found.error == pytest.approx((2 * 25 + 3 * 10) / 5)


@pytest.mark.parametrize("bins", [0, -1, 1.5, "ten"])
def test_calibration_needs_bins(tiny, bins):
    with pytest.raises(InputError, match="bins cannot be sorted into"):
        calibration(answers(tiny.test, [[0.75, 0.25, 0]]), bins)


def test_who_is_always_sure_and_always_right_has_no_calibration_error(tiny):
    assert calibration(answers(tiny.test, [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])).error == 0


def test_confusions_come_most_frequent_first_and_end_with_the_last(tiny):
    """Labels are 0, 1, 2, 0, 1, 2: both reds taken for green, one blue for red."""
    green, red, blue = [0.0, 1, 0], [1.0, 0, 0], [0.0, 0, 1]
    result = answers(tiny.test, [green, green, red, green, green, blue])
    assert confusion_pairs(result) == [("red", "green", 2), ("blue", "red", 1)]


def test_corruptions_grow_from_little_to_much(tiny):
    table = corruptions()
    changes = {
        name: (corrupted(tiny.test, name, transform).images.float() - tiny.test.images).abs().mean().item()
        for name, transform in table.items()
    }
    for kind in ("noise", "blur", "JPEG", "brightness -", "brightness +"):
        grown = [change for name, change in changes.items() if name.startswith(kind)]
        if kind == "brightness -":
            grown.reverse()  # -40 % comes first
        assert len(grown) >= 2
        assert 0 < grown[0] < grown[-1]
    assert changes["brightness +20 % of the range"] == pytest.approx(0.2 * 255, rel=0.35)  # less where it is cut off
    assert changes["noise, 10 % of the range"] == pytest.approx(0.1 * 255 * (2 / torch.pi) ** 0.5, rel=0.2)


def test_only_noise_is_drawn_and_every_image_is_changed(tiny):
    for name, transform in corruptions().items():
        first, second = (corrupted(tiny.test, name, transform, seed).images for seed in (0, 1))
        assert (first != tiny.test.images).flatten(1).any(1).all(), name
        assert torch.equal(first, second) != name.startswith("noise"), name


def test_a_corruption_is_as_strong_as_its_name_says(tiny):
    grey = torch.full_like(tiny.test.images, 127)
    point = torch.zeros_like(grey)
    point[:, :, 16, 16] = 255
    squares = (torch.arange(32.0) - 16) ** 2
    for name, transform in corruptions().items():
        (amount,) = (float(number) for number in re.findall(r"[+-]?[\d.]+", name))
        picture = point if name.startswith("blur") else grey
        spoiled = corrupted(replace(tiny.test, images=picture), name, transform).images.float()
        if name.startswith("noise"):
            assert spoiled.std().item() == pytest.approx(amount / 100 * 255, rel=0.1)
        elif name.startswith("brightness"):
            assert spoiled.mean().item() - 127 == pytest.approx(amount / 100 * 255, abs=1)
        elif name.startswith("blur"):
            columns = spoiled.sum((0, 1, 2))
            assert (columns @ squares / columns.sum()).sqrt().item() == pytest.approx(amount, rel=0.1)


def test_a_corrupted_split_is_the_same_each_time_and_says_what_it_is(tiny):
    name, transform = next(iter(corruptions().items()))
    first, second = (corrupted(tiny.test, name, transform, seed=3) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, corrupted(tiny.test, name, transform, seed=4).images)
    assert first.images.dtype == torch.uint8
    assert name in first.origin
    assert torch.equal(first.labels, tiny.test.labels)


def test_the_figures_say_what_was_found(tiny, network):
    result = evaluate(network, tiny.test, "fp32")
    pairs = confusion_pairs(result)
    assert f"{pairs[0][0]} taken for {pairs[0][1]}: {pairs[0][2]}" in texts(plots.frequent_mistakes(result))
    found = calibration(result)
    figure = plots.reliability(result)
    assert f"expected calibration error {found.error:.1f} %" in texts(figure)
    left, right = ([bar.get_height() for bar in axis.patches] for axis in figure.axes)
    assert left == pytest.approx(found.accuracy.tolist())
    assert right == found.images.tolist()
    dots = figure.axes[0].lines[1].get_xydata()
    assert dots.tolist() == torch.stack([found.confidence, found.accuracy], 1)[found.images > 0].tolist()

    results = under_corruption(network, tiny.test, images=30, seed=5)
    assert list(results) == ["as it is", *corruptions()]
    assert {r.total for r in results.values()} == {30}
    assert results["as it is"].correct == int((result.predictions == result.labels)[:30].sum())
    figure = plots.robustness(results)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([r.accuracy for r in results.values()])
    (whisker, *_) = figure.axes[0].containers[0].lines[2][0].get_segments()
    clean = results["as it is"]
    assert whisker[1][0] - whisker[0][0] == pytest.approx(2 * standard_error(clean.accuracy, 30))
    few = replace(tiny.test, images=tiny.test.images[:30], labels=tiny.test.labels[:30])
    name, transform = list(corruptions().items())[2]
    expected = evaluate(network, corrupted(few, name, transform, seed=5)).probabilities
    assert torch.equal(results[name].probabilities, expected)
    assert not torch.equal(results["as it is"].probabilities, expected)


def test_frequent_mistakes_are_examples_of_what_stands_above_them(tiny):
    """Labels are 0, 1, 2, 0, 1, 2, 0: three reds, of which two were taken for green and one for blue."""
    green, less_sure, blue = [0.1, 0.9, 0], [0.2, 0.8, 0], [0.0, 0, 1]
    result = answers(tiny.test, [less_sure, green, blue, blue, green, blue, green])
    figure = plots.frequent_mistakes(result, examples=2)
    assert [axis.get_title(loc="left") for axis in figure.axes[::2]] == [
        "red taken for green: 2",
        "red taken for blue: 1",
    ]
    images = [torch.as_tensor(axis.images[0].get_array()) if axis.images else None for axis in figure.axes]
    for shown, place in zip(images, (6, 0, 3), strict=False):  # the surest first
        assert torch.equal(shown, tiny.test.images[place].permute(1, 2, 0))
    assert images[3] is None


def test_attention_asks_about_the_answer_and_about_the_truth(tiny, network):
    result = evaluate(network, tiny.test, "fp32")
    figure = plots.attention(network, result, count=2)
    rows = [figure.axes[row * 2 : row * 2 + 2] for row in range(5)]
    wrong = result.mistakes(2)
    names = tiny.classes
    right = [index for index in range(len(tiny.test)) if result.predictions[index] == result.labels[index]][:2]
    assert [axis.get_title() for axis in rows[0]] == [axis.get_title() for axis in rows[1]]
    assert [axis.get_title() for axis in rows[0]] == [names[k] for k in result.labels[right].tolist()]
    assert torch.equal(torch.as_tensor(rows[0][1].images[0].get_array()), tiny.test.images[right[1]].permute(1, 2, 0))
    assert [axis.get_title() for axis in rows[2]] == [names[k] for k in result.labels[wrong].tolist()]
    assert [axis.get_title() for axis in rows[3]] == [names[k] for k in result.predictions[wrong].tolist()]
    assert [axis.get_title() for axis in rows[4]] == [names[k] for k in result.labels[wrong].tolist()]
    heat = grad_cam(network, tiny.test.images[wrong], tiny.test, result.labels[wrong])
    assert torch.allclose(torch.as_tensor(rows[4][1].images[1].get_array()), heat[1])
