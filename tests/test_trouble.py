"""Runs that go wrong are stopped early, with what was seen and what to try."""

import os
import signal
from dataclasses import replace

import albumentations as A
import pytest
import torch
from conftest import tiny_network, tiny_split
from torch import nn

from utils import engine
from utils.data import ImageData
from utils.engine import fit
from utils.errors import InputError, TrainingError
from utils.evaluation import EVALUATION_BATCH
from utils.recipes import Recipe
from utils.tally import Tally
from utils.transforms import recipe_policy
from utils.trouble import check_learning


@pytest.mark.parametrize(("place", "label"), [("train", 3), ("train", -1), ("test", 7)])
def test_labels_that_are_no_class_are_refused_before_training(network, tiny, recipe, place, label):
    getattr(tiny, place).labels[5] = label
    with pytest.raises(InputError, match=rf"{place} split of .*expected labels 0..2, got .*{label}"):
        fit(network, tiny, recipe)


def test_a_mask_of_infinities_is_not_taken_for_weights_gone_wrong(network, tiny, recipe, tmp_path):
    network.register_buffer("mask", torch.full((2, 2), float("-inf")), persistent=False)
    fit(network, tiny, replace(recipe, epochs=1), out=tmp_path)
    network.register_buffer("other", network.mask)
    with pytest.raises(InputError, match="infinite numbers in other.*persistent=False"):
        fit(network, tiny, recipe)


@pytest.mark.parametrize(
    ("last", "doubted"),
    [(nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.Sigmoid(), False), (nn.Identity(), False)],
)
def test_answers_that_are_probabilities_are_doubted_in_the_log(network, tiny, recipe, tmp_path, last, doubted):
    fit(network.append(last), tiny, replace(recipe, epochs=1), out=tmp_path)
    says = "WARNING: the answers of Sequential are probabilities"
    assert (says in (tmp_path / "training.log").read_text()) is doubted


def test_images_that_are_no_squares_are_refused_before_training(network, tiny, recipe):
    narrow = [replace(split, images=split.images[:, :, :, 4:]) for split in (tiny.train, tiny.test)]
    with pytest.raises(InputError, match="images of 32 x 28 pixels; recipes train on squares"):
        fit(network, ImageData(*narrow), recipe)


def test_memory_that_runs_out_in_the_test_is_not_blamed_on_the_batches_of_training(tiny, recipe):
    class Greedy(nn.Sequential):
        def forward(self, images):
            if not self.training and len(images) > 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(images)

    with pytest.raises(TrainingError, match=f"out of memory in a test of {EVALUATION_BATCH} images at once"):
        fit(Greedy(*tiny_network()), tiny, recipe)


def test_images_of_one_colour_are_refused_before_training(network, tiny, recipe):
    tiny.train.images.fill_(7)
    with pytest.raises(InputError, match="all pixels of the training images are 7"):
        fit(network, tiny, recipe)


@pytest.mark.parametrize(("batch_size", "better"), [(3, 5), (4, 5), (12, 13)])
def test_a_last_batch_of_one_image_is_refused_before_training_if_the_network_cannot_take_it(
    network, tiny, recipe, tmp_path, batch_size, better
):
    thirteen, recipe = tiny.subset(13, 37), replace(recipe, epochs=1, batch_size=batch_size)
    picky = nn.Sequential(*network[:5], nn.BatchNorm1d(8), network[-1])
    before = {name: tensor.clone() for name, tensor in picky.state_dict().items()}
    with pytest.raises(InputError, match=rf"13 training images in .* last batch of one .* batch_size={better}\)"):
        fit(picky, thirteen, recipe, out=tmp_path)
    assert not list(tmp_path.iterdir())
    torch.testing.assert_close(picky.state_dict(), before, rtol=0, atol=0)
    assert len(fit(picky, thirteen, replace(recipe, batch_size=better))) == 1
    assert len(fit(network, thirteen, recipe)) == 1  # its maps are larger than a pixel


def test_a_last_batch_of_one_image_is_tried_on_the_smallest_images_of_the_recipe(tiny, recipe):
    reducing = nn.Sequential(nn.Conv2d(3, 8, 24, stride=8), *tiny_network()[1:])  # 24 pixels become one, 32 become 2x2
    with pytest.raises(InputError, match="last batch of one image"):
        fit(reducing, tiny.subset(13, 37), replace(recipe, batch_size=12))
    assert len(fit(reducing, tiny.subset(13, 37), replace(recipe, batch_size=12, epochs=1, sides=(32,)))) == 1


class Failing(nn.Module):
    """A small network that does `fail(images)` in its step number `step` (from 0)."""

    def __init__(self, step: int, fail):
        super().__init__()
        self.layers, self.step, self.fail, self.steps = tiny_network(), step, fail, 0

    def forward(self, images):
        if self.training:
            self.steps += 1
            if self.steps == self.step + 1:
                return self.fail(self, images)
        return self.layers(images)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_named_with_its_step(tiny, recipe, tmp_path, poison):
    model = Failing(4, lambda self, images: self.layers(images) * poison)
    with pytest.raises(
        TrainingError, match=r"the loss stopped being a number in epoch 2, at step 1 .*lower learning rate"
    ):
        fit(model, tiny, recipe, out=tmp_path)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2
    assert (tmp_path / "last.pt").is_file()


def test_the_step_of_a_constant_batch_is_named(network, tiny, recipe, monkeypatch):
    batches = engine.epoch_batches

    def one_black(*arguments):
        for step, (images, labels) in enumerate(batches(*arguments)):
            yield (images * 0 if step == 1 else images), labels

    monkeypatch.setattr(engine, "epoch_batches", one_black)
    with pytest.raises(TrainingError, match="all the images of a batch were the same in epoch 1, at step 1"):
        fit(network, tiny, recipe)


def test_what_is_wrong_is_looked_for_in_every_step_of_an_epoch():
    black, labels, nan = torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64), float("nan")
    one_blue = black.clone()
    one_blue[7, 2] = 1

    def check(*batches):
        tally = Tally(torch.device("cpu"))
        for images, loss in batches:
            tally.add(images, labels[: len(images)], torch.tensor(loss), torch.zeros(len(images), 3))
        tally.check(epoch=1)

    check((black[:7], 1.0), (one_blue, 1.0))  # seven that are the same may be an accident
    with pytest.raises(TrainingError, match="were the same in epoch 1, at step 1"):
        check((one_blue, 1.0), (black, 1.0), (one_blue, 1.0))
    with pytest.raises(TrainingError, match="stopped being a number in epoch 1, at step 1"):
        check((one_blue, 1.0), (one_blue, nan), (one_blue, 1.0))


def test_an_error_of_one_s_own_in_a_process_that_augments_is_shown_as_it_is(tiny, recipe):
    def wrong(image, **options):
        raise RuntimeError("my own mistake")

    policy = A.Compose(
        [A.Lambda(image=wrong, name="wrong", p=1), *recipe_policy(recipe, tiny.mean, tiny.std).transforms]
    )
    with pytest.raises(RuntimeError, match="my own mistake") as caught:
        fit(tiny_network(), tiny, replace(recipe, per_image=True, workers=1), policy=policy)
    assert not isinstance(caught.value, TrainingError)


def test_answers_that_are_not_finite_after_an_epoch_end_the_run(tiny, recipe, monkeypatch):
    def broken(*_, **__):
        raise InputError("the network's answers are not finite")

    monkeypatch.setattr(engine, "evaluate", broken)
    with pytest.raises(TrainingError, match="after epoch 1: .* not finite; try a lower learning rate"):
        fit(tiny_network(), tiny, recipe)


def test_a_network_that_only_guesses_is_given_up(tmp_path):
    train = tiny_split(3000, "train", 0)
    train.labels.copy_(train.labels[torch.randperm(3000)])  # they say nothing about the images any more
    recipe = Recipe("tiny", epochs=9, batch_size=500, learning_rate=0.01, sides=(8,), precision="fp32")
    with pytest.raises(TrainingError, match=r"after epoch 2 .* is right on 3\d\.\d\d %.*33\.33 %.*learning rate"):
        fit(tiny_network(), ImageData(train, tiny_split(30, "test", 1)), recipe, out=tmp_path)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("images", "accuracies", "given_up"),
    [
        (3000, (34, 34), True),
        (3000, (34, 37), False),
        (3000, (34,), False),
        (3000, (60, 30), False),
        (3000, (60, 34, 34), True),  # the last two only guess
        (2000, (34, 34), False),  # it has seen 4,000 images
        (2000, (34, 34, 34), True),
    ],
)
def test_it_takes_two_epochs_and_5000_images_to_give_up(images, accuracies, given_up):
    history = [{"train_accuracy": accuracy} for accuracy in accuracies]
    split = tiny_split(images, "train", 0)
    if given_up:
        with pytest.raises(TrainingError, match="learns nothing"):
            check_learning(history, split)
    else:
        check_learning(history, split)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_which_batch_would_fit(tiny, recipe, error):
    class Hungry(Failing):
        def forward(self, images):
            if self.training and images.numel() > 12 * 3 * 32 * 32:  # the recipe's greatest images, in a later epoch
                raise error
            return self.layers(images)

    with pytest.raises(TrainingError, match=r"out of memory with batches of 40.*batch_size=10\)"):
        fit(Hungry(0, None), tiny, recipe)


def test_out_of_memory_with_any_batch_says_so(tiny, recipe):
    class Greedy(Failing):
        def forward(self, images):
            if self.training:
                raise MemoryError
            return self.layers(images)

    with pytest.raises(TrainingError, match="not even a batch of 2 fits"):
        fit(Greedy(0, None), tiny, recipe)


def test_other_errors_of_a_network_are_its_own(tiny, recipe):
    def fail(self, images):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        fit(Failing(2, fail), tiny, recipe)


def test_a_worker_that_dies_is_named_and_the_run_resumes(tiny, recipe, tmp_path):
    recipe = replace(recipe, per_image=True, workers=1)
    main = os.getpid()

    def die(image, **options):
        if os.getpid() != main and (tmp_path / "die").exists():
            (tmp_path / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return image

    policy = A.Compose([A.Lambda(image=die, name="die", p=1), *recipe_policy(recipe, tiny.mean, tiny.std).transforms])
    whole = fit(tiny_network(), tiny, recipe, policy=policy)
    (tmp_path / "die").touch()
    with pytest.raises(TrainingError, match=r"a process that augments images died.*workers=0"):
        fit(tiny_network(), tiny, recipe, policy=policy, out=tmp_path / "run")
    again = fit(tiny_network(), tiny, recipe, policy=policy, out=tmp_path / "run", resume=True)
    assert [r | {"seconds": 0} for r in again] == [r | {"seconds": 0} for r in whole]
