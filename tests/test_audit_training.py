"""The rows on augmentation, data and accuracy: each fault is found and named, and what is as demanded passes."""

import json
from dataclasses import replace

import albumentations as A
import numpy as np
import pytest
import torch
from conftest import tiny_network, tiny_split

from utils.audit import audit
from utils.data import ImageData, Split, fingerprints
from utils.errors import InputError
from utils.evaluation import Evaluation, evaluate, normalize
from utils.history import history_csv
from utils.recipes import RECIPES, Recipe

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FILL = tuple(255 * m for m in MEAN)


def policy(*, flip=True, move=None, hole=None, normalize_first=False, **dropout) -> A.Compose:
    """The demanded policy, with something else in it."""
    right = {"num_holes_range": (1, 1), "hole_height_range": (16, 16), "hole_width_range": (16, 16), "fill": FILL}
    transforms = [A.HorizontalFlip()] if flip else []
    transforms.append(move or A.Affine(translate_percent=0.06, scale=(0.9, 1.1), rotate=15))
    transforms.append(hole or A.CoarseDropout(**(right | dropout)))
    transforms.insert(0 if normalize_first else 3, A.Normalize(MEAN, STD))
    return A.Compose(transforms)


def augment(recipe, data=None):
    return audit(tiny_network(), recipe, data)["augment"]


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "digits"])
def test_our_recipes_augment_as_demanded(name):
    found = augment(RECIPES[name])
    assert found.passed, found.measured
    assert found.where[0] == "HorizontalFlip"


def test_digits_are_not_mirrored():
    assert augment(RECIPES["digits"]).measured == "HorizontalFlip with p=0 is never applied (recipe digits)"


def test_epochs_without_augmentation_are_said():
    found = augment(Recipe("mine", epochs=8, plain=0.5))
    assert found.passed and found.measured == "all three as demanded (recipe mine; the last 4 of 8 epochs only flip)"


def test_the_mean_is_that_of_the_data(tiny):
    right = policy(fill=tuple(255 * m for m in tiny.mean))
    assert augment(right, tiny).passed
    assert not augment(right).passed
    assert augment(RECIPES["fast"], tiny).passed


def test_the_fill_after_normalize_is_zero():
    assert augment(policy(normalize_first=True, fill=0.0)).passed
    wrong = augment(policy(normalize_first=True))
    assert "wrong units: the pixels are normalised there, their mean is (0, 0, 0)" in wrong.measured


def test_the_fill_after_to_float_counts_pixels_as_0_to_1():
    parts = policy(fill=MEAN).transforms
    assert augment(A.Compose([A.ToFloat(max_value=255), *parts[:3]])).passed


def test_normalize_after_to_float_counts_pixels_as_0_to_1_too():
    normalized = [A.ToFloat(max_value=255), A.Normalize(MEAN, STD, max_pixel_value=1.0)]
    assert augment(A.Compose([*normalized, *policy(fill=0.0).transforms[:3]])).passed
    wrong = augment(A.Compose([*normalized, *policy(fill=MEAN).transforms[:3]]))
    assert "not the mean (0, 0, 0)" in wrong.measured


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case of Affine")
def test_shift_scale_rotate_by_its_name_and_nested_transforms_are_found():
    parts = policy(move=A.ShiftScaleRotate()).transforms
    assert augment(A.Compose([A.Sequential(parts[:2]), A.OneOf(parts[2:3]), parts[3]])).passed


WRONG = {
    "no flip": (policy(flip=False), "no HorizontalFlip"),
    "no move": (A.Compose([policy().transforms[i] for i in (0, 2, 3)]), "no ShiftScaleRotate"),
    "no hole": (A.Compose([policy().transforms[i] for i in (0, 1, 3)]), "no CoarseDropout"),
    "rotates only": (policy(move=A.Affine(rotate=15)), "Affine does not shift or scale"),
    "does not rotate": (
        policy(move=A.Affine(translate_px=2, scale=0.9, rotate=0)),
        "Affine does not rotate",
    ),
    "fill in 0..1": (
        policy(fill=MEAN),
        "fill=(0.491, 0.482, 0.447) is in the wrong units: the pixels are in 0..255 there, their mean is (125",
    ),
    "black fill": (policy(fill=0), "fill=0, not the mean (125, 123, 114)"),
    "random fill": (policy(fill="random"), "fill='random', not the mean"),
    "another mean": (policy(fill=(128, 128, 128)), "fill=(128, 128, 128), not the mean"),
    "nearly the mean": (policy(fill=(129, 127, 118)), "fill=(129, 127, 118), not the mean"),
    "a hole of 8": (policy(hole_height_range=(8, 8), hole_width_range=(8, 8)), "a hole of 8 x 8 pixels, not 16 x 16"),
    "a hole of 8 to 16": (policy(hole_width_range=(8, 16)), "a hole of 16 x 8 to 16 pixels, not 16 x 16"),
    "a share of the image": (
        policy(hole_height_range=(0.25, 0.5), hole_width_range=(0.5, 0.5)),
        "a hole of 8 to 16 x 16 pixels",
    ),
    "a share for the height alone": (policy(hole_height_range=(0.5, 0.5)), "a hole of 16 x 512 pixels"),
    "three holes": (policy(num_holes_range=(1, 3)), "1 to 3 holes, not 1"),
    "a filled mask": (policy(fill_mask=0), "fill_mask=0, not None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_policy_is_named(name):
    wrong, says = WRONG[name]
    found = augment(wrong)
    assert found.passed is False
    assert says in found.measured
    assert found.measured.count(";") == 0


def test_half_the_image_is_16_pixels():
    assert augment(policy(hole_height_range=(0.5, 0.5), hole_width_range=(0.5, 0.5))).passed


def test_a_width_that_is_a_share_beside_a_height_in_pixels_makes_no_hole():
    hole = A.CoarseDropout((1, 1), (16, 16), (0.5, 0.5), fill=FILL, p=1)
    assert not hole(image=np.zeros((32, 32, 3), np.uint8))["image"].any()
    assert augment(policy(hole=hole)).measured == "a hole of 16 x 0 pixels, not 16 x 16"


def test_old_argument_names_that_albumentations_2_ignores_are_named():
    with pytest.warns(UserWarning, match="are not valid for transform CoarseDropout"):
        old = A.CoarseDropout(
            max_holes=1, max_height=16, max_width=16, min_holes=1, min_height=16, min_width=16, fill_value=FILL
        )
    found = augment(policy(hole=old))
    assert found.passed is False
    assert found.measured.startswith("CoarseDropout ignores max_holes, max_height, max_width, min_holes, min_height")
    assert "1 to 2 holes, not 1" in found.measured
    assert "a hole of 3.2 to 6.4 x 3.2 to 6.4 pixels" in found.measured
    assert "fill=0, not the mean" in found.measured


def test_a_hole_after_a_normalize_in_other_units_is_judged_in_those():
    cifar10 = A.Normalize(FILL, [255 * s for s in STD], max_pixel_value=1.0)
    hole = A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=0)
    assert audit(tiny_network(), A.Compose([A.HorizontalFlip(), A.ShiftScaleRotate(), cifar10, hole]))["augment"].passed


def test_what_is_never_applied_as_a_whole_is_missing():
    never = A.OneOf([A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=(125, 123, 114))], p=0)
    measured = audit(tiny_network(), A.Compose([A.HorizontalFlip(), A.ShiftScaleRotate(), never]))["augment"].measured
    assert measured == "no CoarseDropout"


def test_what_is_no_policy_is_refused():
    with pytest.raises(InputError, match="a Recipe or an Albumentations policy to judge, got str"):
        audit(tiny_network(), "fast")


# Data and accuracy: a data set in which the class is the brightest channel, called as CIFAR-10 is.


def named(split: Split) -> Split:
    return replace(split, dataset="CIFAR-10", provenance="of the tests")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ImageData(named(tiny_split(300, "train", seed=2)), named(tiny_split(200, "test", seed=3)))


@pytest.fixture
def right(monkeypatch):
    """A network that is always right, and so many test images as there are here."""
    monkeypatch.setattr("utils.auditing.result_rows.TEST_IMAGES", 200)
    return Brightest()


class Brightest(torch.nn.Module):
    """Knows the class by the brightest channel; `noise` stands for dropout, `p` for what training taught it."""

    def __init__(self, noise: float = 0.0):
        super().__init__()
        self.scale, self.noise = torch.nn.Parameter(torch.ones(1)), noise

    def forward(self, x):
        y = self.scale * x.mean((2, 3))
        return y + self.noise * torch.randn_like(y) if self.training else y


def judged(model, data, result, run=None):
    report = audit(model, data=data, result=result, run=run)
    return report["data"], report["accuracy"]


def test_an_honest_result_passes(right, data):
    on, accuracy = judged(right, data, evaluate(right, data.test, "fp32"))
    assert (on.passed, on.measured) == (True, "200 images of CIFAR-10, test set; of the tests")
    assert (accuracy.passed, accuracy.measured) == (True, "100.00 %, 200 of 200")


def test_without_a_result_nothing_is_judged(data):
    report = audit(tiny_network(), data=data)
    assert (report["data"].passed, report["accuracy"].passed) == (None, None)


@pytest.mark.parametrize(("wrong", "passed"), [(30, True), (31, False)])
def test_85_percent_are_enough(right, data, wrong, passed):
    labels = data.test.labels.clone()
    labels[:wrong] = (labels[:wrong] + 1) % 3
    split = replace(data.test, labels=labels)
    assert judged(right, None, evaluate(right, split, "fp32"))[1].passed is passed


def test_training_images_are_found_by_content(right, data):
    mixed = replace(data.test, images=torch.cat([data.test.images[:150], data.train.images[:50]]))
    on, accuracy = judged(right, data, evaluate(right, mixed, "fp32"))
    assert on.passed is False
    assert "50 of the images are training images" in on.measured
    assert "not in the data set" not in on.measured
    assert accuracy.passed is False
    assert accuracy.measured.endswith("but see data")


@pytest.mark.parametrize(("count", "named"), [(2, False), (3, True)])
def test_one_training_image_in_a_hundred_is_let_pass(right, data, count, named):
    images = data.test.images.clone()
    images[:count] = data.train.images[:count]
    on, _ = judged(right, data, evaluate(right, replace(data.test, images=images), "fp32"))
    assert (f"{count} of the images are training images" in on.measured) is named


def test_the_training_set_is_no_test_set(right, data):
    part = Split(data.train.images[:200], data.train.labels[:200], *vars_of(data.train))
    assert "they are the training images" in judged(right, None, evaluate(right, part, "fp32"))[0].measured


def test_held_out_training_images_are_not_the_test_images(right, data):
    held_out = data.hold_out(200).test
    measured = judged(right, None, evaluate(right, held_out, "fp32"))[0].measured
    assert "not CIFAR-10" in measured
    measured = judged(right, None, evaluate(right, named(held_out), "fp32"))[0].measured
    assert "they are the validation images" in measured


def vars_of(split: Split) -> tuple:
    return split.classes, split.mean, split.std, split.name, split.dataset, split.provenance


def test_what_a_network_says_that_it_learned_from_is_believed(right, data):
    result = evaluate(right, data.test, "fp32")
    right.learned_from = fingerprints(data.test.images)
    assert "200 of the images are training images" in judged(right, None, result)[0].measured


def test_too_few_images_and_other_data_are_named(data):
    model = Brightest()
    on, _ = judged(model, None, evaluate(model, replace(data.test, dataset="embedded digits, not CIFAR-10"), "fp32"))
    assert "not CIFAR-10" in on.measured
    assert "200 images, not 10,000" in on.measured


def test_one_image_many_times_is_named(right, data):
    again = replace(data.test, images=data.test.images[:3].repeat(67, 1, 1, 1)[:200])
    assert "only 3 different images" in judged(right, None, evaluate(right, again, "fp32"))[0].measured


def test_augmentation_left_on_is_found_in_the_images(right, data):
    mirrored = replace(data.test, images=data.test.images.flip(3))
    on, _ = judged(right, data, evaluate(right, mirrored, "fp32"))
    assert "200 images are not in the data set as they are: augmented, or of another source" in on.measured
    mirrored = replace(data.test, images=torch.cat([data.test.images[:1].flip(3), data.test.images[1:]]))
    on, _ = judged(right, data, evaluate(right, mirrored, "fp32"))
    assert "1 images are not in the data set" in on.measured


def test_augmentation_left_on_is_found_in_the_answers(right, data):
    shifted = normalize(data.test.images, data.test.mean, data.test.std).roll(1, 1)  # as if channels were shuffled
    result = Evaluation(data.test, right(shifted).softmax(1).detach(), 0.1)
    on, _ = judged(right, data, result)
    assert "other answers to 200 of these images in evaluation mode: measured on augmented images" in on.measured


@pytest.mark.parametrize(("others", "named"), [(4, False), (5, True)])
def test_a_few_answers_may_turn_with_the_precision_and_no_more(right, data, others, named):
    result = evaluate(right, data.test, "fp32")
    probabilities = result.probabilities.clone()
    probabilities[:others] = probabilities[:others].roll(1, 1)
    on, _ = judged(right, data, replace(result, probabilities=probabilities))
    assert (f"other answers to {others} of these images" in on.measured) is named


def test_training_mode_left_on_is_found_in_the_answers(data, monkeypatch):
    monkeypatch.setattr("utils.auditing.result_rows.TEST_IMAGES", 200)
    # batch norm: in training mode by the batch itself, in evaluation mode by what it has seen, which is far off
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with torch.no_grad():
        model[0].running_mean.copy_(torch.tensor([2.0, 0.0, -2.0]))
        answers = model.train()(normalize(data.test.images, data.test.mean, data.test.std))
    model[0].running_mean.copy_(torch.tensor([2.0, 0.0, -2.0]))
    on, _ = judged(model, data, Evaluation(data.test, answers.softmax(1), 0.1))
    assert "they look like those of a model left in training mode" in on.measured


def test_a_result_that_the_network_cannot_repeat_is_named(right, data):
    result = evaluate(right, data.test, "fp32")
    assert "the network cannot repeat it" in judged(torch.nn.Linear(5, 3), data, result)[0].measured


def test_a_network_that_views_its_map_can_be_asked_again(data):
    class Viewing(Brightest):
        def forward(self, images):
            return super().forward(images.view(len(images), -1).view(images.shape))

    with torch.no_grad():
        pixels = normalize(data.test.images, data.test.mean, data.test.std).contiguous()
        answers = Viewing()(pixels).softmax(1)
    on, _ = judged(Viewing(), data, Evaluation(data.test, answers, 0.1))
    assert "repeat" not in on.measured and "other answers" not in on.measured


def run_folder(folder, claimed: float, accuracies=(70.0, 91.0, 90.0)):
    rows = [
        {"epoch": e, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 50.0, "test_loss": 1.0}
        | {"test_accuracy": a, "seconds": 1.0}
        for e, a in enumerate(accuracies, 1)
    ]
    (folder / "history.csv").write_text(history_csv(rows))
    record = {"data": {"name": "CIFAR-10", "provenance": "of the tests", "test_images": 10_000}}
    (folder / "run.json").write_text(json.dumps(record | {"results": {"test_accuracy": claimed}}))
    return folder


def test_a_run_that_reports_its_last_epoch_passes(tmp_path):
    on, accuracy = judged(tiny_network(), None, None, run_folder(tmp_path, 90.0))
    assert (on.passed, on.measured) == (True, "10,000 test images of CIFAR-10; of the tests")
    assert (accuracy.passed, accuracy.measured) == (True, "90.00 %, 9,000 of 10,000")


def test_the_best_epoch_picked_on_the_test_images_is_named(tmp_path):
    on, accuracy = judged(tiny_network(), None, None, run_folder(tmp_path, 91.0))
    assert on.passed is accuracy.passed is False
    assert "the best epoch, 2 of 3, was picked on the test images: 91.00 %; the last has 90.00 %" in on.measured


@pytest.mark.parametrize("claimed", [95.0, 90.01])
def test_an_accuracy_from_nowhere_is_named(tmp_path, claimed):
    on, _ = judged(tiny_network(), None, None, run_folder(tmp_path, claimed))
    assert f"{claimed:.2f} % is not in its history, whose last epoch has 90.00 %" in on.measured


def test_a_run_on_other_data_or_on_few_images_is_named(tmp_path):
    record = json.loads((run_folder(tmp_path, 90.0) / "run.json").read_text())
    record["data"] |= {"name": "embedded digits, not CIFAR-10", "test_images": 360}
    (tmp_path / "run.json").write_text(json.dumps(record))
    on, accuracy = judged(tiny_network(), None, None, tmp_path)
    assert on.passed is accuracy.passed is False
    assert on.measured.endswith("of the tests; not CIFAR-10; 360 images, not 10,000")


def test_a_result_is_held_against_its_run(right, data, tmp_path):
    on, _ = judged(right, data, evaluate(right, data.test, "fp32"), run_folder(tmp_path, 90.0))
    assert "100.00 % is not in its history" in on.measured


@pytest.mark.parametrize("damage", ["missing", "{", "[]", '{"data": {}}'])
def test_a_damaged_run_is_refused(tmp_path, damage):
    run_folder(tmp_path, 90.0)
    (tmp_path / "run.json").unlink() if damage == "missing" else (tmp_path / "run.json").write_text(damage)
    with pytest.raises(InputError, match=r"run\.json"):
        audit(tiny_network(), run=tmp_path)


def test_a_result_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"result must be what evaluate\(\) returns, got float"):
        audit(tiny_network(), result=0.9)
