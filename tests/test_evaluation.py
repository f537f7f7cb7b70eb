from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_split
from torch import nn

from utils.checkpoint import load_model
from utils.data import fingerprints
from utils.engine import fit
from utils.errors import InputError
from utils.evaluation import EVALUATION_BATCH, check_compatible, check_unseen, evaluate, normalize
from utils.models import build_model


class BrightestChannel(nn.Module):
    """Answers with the means of the three channels, times `scale`; right for every image of `tiny`."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.scale * x.mean((2, 3))


class AlwaysRed(BrightestChannel):
    def forward(self, x):
        return self.scale * torch.tensor([1.0, 0, 0]).expand(len(x), 3)


def test_all_right_is_100_percent_and_all_wrong_is_0(tiny):
    assert evaluate(BrightestChannel(), tiny.test, "fp32").accuracy == 100
    assert evaluate(BrightestChannel(-1.0), tiny.test, "fp32").accuracy == 0


def test_the_loss_is_a_mean_over_images_whatever_the_batches(tiny, monkeypatch):
    whole = BrightestChannel()(normalize(tiny.test.images, tiny.mean, tiny.std))
    monkeypatch.setattr("utils.evaluation.EVALUATION_BATCH", 10)  # 10, 10, 10 and 7
    result = evaluate(BrightestChannel(), tiny.test, "fp32")
    assert result.loss == pytest.approx(F.cross_entropy(whole, tiny.test.labels).item(), abs=1e-6)


def test_a_test_of_cifar10_has_no_short_last_batch():
    assert 10_000 % EVALUATION_BATCH == 0


def test_the_line_is_the_one_that_students_know(tiny):
    result = evaluate(BrightestChannel(), tiny.test, "fp32")
    assert str(result) == f"Test set: Average loss: {result.loss:.4f}, Accuracy: 37/37 (100.00%)"


def test_test_time_augmentation_is_the_mean_over_image_and_mirror_image_and_says_so(tiny):
    class LeftHalf(BrightestChannel):
        """Answers by the brightest channel of the left half, and on the mirror image of the right one."""

        def forward(self, x):
            return self.scale * x[..., :16].mean((2, 3))

    plain, both = (evaluate(LeftHalf(), tiny.test, "fp32", mirrored=mirrored) for mirrored in (False, True))
    whole = evaluate(BrightestChannel(), tiny.test, "fp32")
    torch.testing.assert_close(both.probabilities, whole.probabilities)
    assert not torch.allclose(plain.probabilities, whole.probabilities, atol=1e-4)
    assert "test-time augmentation" in str(both)
    assert "test-time augmentation" not in str(plain)


def test_the_confusion_matrix_has_the_truth_in_its_rows(tiny):
    result = evaluate(AlwaysRed(), tiny.test, "fp32")
    assert result.confusion.tolist() == [[13, 0, 0], [12, 0, 0], [12, 0, 0]]
    assert result.correct == 13


def test_mistakes_come_in_the_order_of_their_confidence(tiny):
    result = evaluate(BrightestChannel(-1.0), tiny.test, "fp32")
    confidence = result.probabilities[result.mistakes()].amax(1)
    assert len(confidence) == 37
    assert (confidence.diff() <= 0).all()
    assert len(result.mistakes(5)) == 5


def test_the_report_has_precision_and_recall_of_each_class(tiny):
    rows = [line.split() for line in evaluate(AlwaysRed(), tiny.test, "fp32").report.splitlines()]
    assert rows[0] == ["precision", "recall", "f1-score", "support"]
    assert rows[2][:3] == ["red", "0.3514", "1.0000"]  # 13 of 37 answers are right; all 13 reds are found
    assert rows[3][:3] == ["green", "0.0000", "0.0000"]


def test_images_are_normalised_by_the_mean_and_std_of_training(tiny):
    image = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)  # 51 / 255 = 0.2
    assert torch.allclose(normalize(image, (0.1, 0.2, 0.3), (0.1, 0.1, 0.2))[0, :, 0, 0], torch.tensor([1, 0, -0.5]))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_its_parts_keep_their_modes_and_its_batch_norm_statistics(network, tiny, training):
    network.train(training)
    network[1].train(not training)  # as of a batch norm that is frozen while the rest learns
    before = network[1].running_mean.clone()
    evaluate(network, tiny.test)
    assert [network.training, network[0].training, network[1].training] == [training, training, not training]
    assert torch.equal(network[1].running_mean, before)


def test_the_mode_is_put_back_after_a_failure(network, tiny):
    network.append(nn.Linear(7, 3)).train()  # fits nothing before it
    with pytest.raises(InputError, match="cannot take an image"):
        check_compatible(network, tiny.test)
    assert network.training


def test_answers_that_are_not_finite_are_refused(tiny):
    with pytest.raises(InputError, match="not finite"):
        evaluate(BrightestChannel(float("nan")), tiny.test)


def test_another_number_of_classes_is_refused(network, tiny):
    ten = replace(tiny.test, classes=tuple("abcdefghij"))
    with pytest.raises(InputError, match=r"answers with \(1, 3\); tiny colours needs \(1, 10\)"):
        evaluate(network, ten)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda images: (images, images), "its answer is a tuple, not a tensor of logits"),
        (lambda images: int("x"), "invalid literal"),
        (lambda images: exec("raise RuntimeError"), "RuntimeError"),
    ],
)
def test_a_network_that_answers_nothing_usable_is_refused(tiny, wrong, says):
    class Wrong(nn.Linear):
        def forward(self, images):
            return wrong(images)

    with pytest.raises(InputError, match=says):
        evaluate(Wrong(1, 1), tiny.test)


def test_data_or_a_name_instead_of_a_split_or_a_network_are_refused(network, tiny):
    with pytest.raises(InputError, match="a split of the data, such as data.test; got Sequential and ImageData"):
        evaluate(network, tiny)
    with pytest.raises(InputError, match="got str and Split"):
        evaluate("s7", tiny.test)


def test_a_precision_that_there_is_not_is_refused(network, tiny):
    with pytest.raises(InputError, match="unknown precision 'fp8'; there are: fp32, bf16, fp16"):
        evaluate(network, tiny.test, precision="fp8")


def test_an_image_that_the_network_cannot_take_is_refused(tiny):
    unpadded = nn.Sequential(nn.Conv2d(3, 3, 33), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"cannot take an image of \(3, 32, 32\)"):
        check_compatible(unpadded, tiny.test)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (nn.Module.half, "; its weights are float16, and images come as float32: model.float"),
        (nn.Module.double, "; its weights are float64, and images come as float32: model.float"),
        (lambda network: network.to("meta"), "it has no weights yet: its parameters are on the device 'meta'$"),
    ],
)
def test_weights_that_are_not_float32_or_not_there_are_refused(network, tiny, change, says):
    with pytest.raises(InputError, match=r"Sequential cannot take an image of \(3, 32, 32\): .*" + says):
        evaluate(change(network), tiny.test)


def test_a_network_that_squeezes_the_axis_of_the_images_away_is_told_so(tiny):
    class Squeezing(nn.Sequential):
        def forward(self, images):
            return super().forward(images).squeeze()

    with pytest.raises(InputError, match=r"answers with \(3,\).* needs \(1, 3\): squeeze\(\) takes .* flatten\(1\)"):
        check_compatible(Squeezing(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1)), tiny.test)


def test_a_network_that_cannot_view_a_map_as_it_comes_in_training_is_refused_at_once(tiny):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, stride=8), nn.Linear(4 * 4 * 4, 3)

        def forward(self, images):
            return self.linear(self.conv(images).view(len(images), -1))

    with pytest.raises(InputError, match=r"Viewing cannot take an image of \(3, 32, 32\): view .* Use .reshape"):
        check_compatible(Viewing(), tiny.test)


def test_training_images_are_not_let_through_as_a_test_set(tiny, recipe, tmp_path):
    network = build_model("s7", classes=3)
    fit(network, tiny, replace(recipe, epochs=1), out=tmp_path)
    loaded, _ = load_model(tmp_path / "last.pt")
    for model in (network, loaded):
        assert evaluate(model, tiny.train).total == 96  # under its own name it may be asked
        with pytest.raises(InputError, match="96 of these 96 images are among those that the network has learned from"):
            evaluate(model, replace(tiny.train, name="test"))


@pytest.mark.parametrize(("count", "refused"), [(1, False), (2, True)])
def test_one_image_in_a_hundred_may_have_been_learned(count, refused):
    split = tiny_split(100, "test", seed=5)
    seen = fingerprints(split.images[:count])
    with pytest.raises(InputError, match="2 of these 100 images") if refused else nullcontext():
        check_unseen(seen, split)


def test_held_out_images_that_were_learned_are_no_validation(network, tiny, recipe):
    fit(network, tiny, replace(recipe, epochs=1))
    held_out = tiny.hold_out(30)
    with pytest.raises(InputError, match="they are no validation set"):
        evaluate(network, held_out.test)
    with pytest.raises(InputError, match="they are no validation set"):
        fit(network, held_out, replace(recipe, epochs=1))
    evaluate(network, tiny.train)  # that is called what it is
    evaluate(network, replace(tiny.train, name="training"))


def test_fit_refuses_to_test_on_training_images(network, tiny, recipe, tmp_path):
    images = torch.cat([tiny.test.images, tiny.train.images[:2]])
    labels = torch.cat([tiny.test.labels, tiny.train.labels[:2]])
    overlapping = replace(tiny, test=replace(tiny.test, images=images, labels=labels))
    with pytest.raises(InputError, match="2 of these 39 images"):
        fit(network, overlapping, recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_without_parameters_is_refused(tiny):
    with pytest.raises(InputError, match="no parameters"):
        evaluate(nn.Flatten(), tiny.test)
