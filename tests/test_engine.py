"""The loop, on a small network and data set."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import albumentations as A
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_network
from PIL import Image
from torch import nn

from utils.engine import epoch_batches, fit, suited
from utils.errors import InputError, TrainingError
from utils.evaluation import evaluate
from utils.models import build_model
from utils.recipes import OPTIMIZERS
from utils.symmetry import MirrorSymmetry
from utils.trainer import Trainer, resize
from utils.transforms import check_normalized, recipe_policy

CPU = torch.device("cpu")


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def test_it_learns(network, tiny, recipe):
    history = fit(network, tiny, replace(recipe, epochs=8))
    assert history[-1]["test_accuracy"] > 90
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_the_history_ends_with_what_the_network_can_do(network, tiny, recipe):
    history = fit(network, tiny, recipe)
    result = evaluate(network, tiny.test, "fp32")
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert (history[-1]["test_accuracy"], history[-1]["test_loss"]) == (result.accuracy, result.loss)
    assert [r["seconds"] for r in history] == sorted(r["seconds"] for r in history)


def test_the_rate_of_an_epoch_is_that_of_the_middle_of_its_last_step(network, tiny, recipe):
    rates = [record["learning_rate"] for record in fit(network, tiny, recipe)]
    assert rates == pytest.approx([recipe.learning_rate * recipe.rate_at(step / 9) for step in (2.5, 5.5, 8.5)])


def test_the_same_seed_gives_the_same_bits(tiny, recipe):
    first, again, other = (tiny_network() for _ in range(3))
    one, two = fit(first, tiny, recipe, seed=3), fit(again, tiny, recipe, seed=3)
    fit(other, tiny, recipe, seed=4)
    assert [r | {"seconds": 0} for r in one] == [r | {"seconds": 0} for r in two]
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_a_network_in_evaluation_mode_is_trained_like_any_other(tiny, recipe):
    """As one that `load_model` has read: else it would learn without dropout, and its batch norms nothing."""
    one, other = tiny_network(), tiny_network().eval()
    for network in (one, other):
        fit(network, tiny, recipe)
    assert torch.equal(weights(one), weights(other))


def test_every_step_drops_units_of_its_own(tiny, recipe):
    policy = recipe_policy(recipe, tiny.mean, tiny.std)

    def seeds(seed: int, epoch: int, start: int = 0) -> list[int]:
        return [torch.initial_seed() for _ in epoch_batches(tiny.train, policy, recipe, seed, epoch, start)]

    drawn = [number for seed in (0, 1) for epoch in (1, 2) for number in seeds(seed, epoch)]
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 3
    assert seeds(1, 2, start=1) == drawn[-2:]


def test_it_trains_in_a_thread_too(tiny, recipe):
    """Where Python has no say about Ctrl-C."""
    with ThreadPoolExecutor(1) as thread:
        history = thread.submit(fit, tiny_network(), tiny, recipe).result()
    assert history[-1]["test_accuracy"] == fit(tiny_network(), tiny, recipe)[-1]["test_accuracy"]


def test_on_a_cpu_freed_memory_is_kept(recipe, monkeypatch):
    calls = []
    monkeypatch.setattr("utils.trainer.keep_freed_memory", lambda: calls.append(1))
    Trainer(tiny_network(), recipe, CPU)
    assert calls == [1]


def test_what_was_drawn_before_makes_no_difference(tiny, recipe):
    first, again = tiny_network(), tiny_network()
    fit(first, tiny, recipe)
    torch.rand(7)
    fit(again, tiny, recipe)
    assert torch.equal(weights(first), weights(again))


def test_an_epoch_meets_every_image_once(tiny, recipe):
    batches = list(epoch_batches(tiny.train, recipe_policy(recipe, tiny.mean, tiny.std), recipe, seed=0, epoch=1))
    assert [len(labels) for _, labels in batches] == [40, 40, 16]
    assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [32, 32, 32]


def test_the_last_epochs_of_a_run_only_flip(tiny, recipe, monkeypatch):
    drawn = []

    def spy(split, policy, *rest):
        drawn.append({type(t).__name__: t.p for t in policy.transforms})
        return epoch_batches(split, policy, *rest)

    monkeypatch.setattr("utils.engine.epoch_batches", spy)
    changed = {"flip": 0.5, "shift_scale_rotate": 0.4, "coarse_dropout": 0.2, "crop": 2, "color_jitter": 0.6}
    recipe = replace(recipe, epochs=3, plain=0.3, **changed)
    fit(tiny_network(), tiny, recipe)
    seen = ("HorizontalFlip", "ShiftScaleRotate", "CoarseDropout", "RandomCrop", "ColorJitter")
    changes = [tuple(p.get(name) for name in seen) for p in drawn]
    assert changes == [(0.5, 0.4, 0.2, 1.0, 0.6)] * 2 + [(0.5, 0.0, 0.0, None, None)]
    own = recipe_policy(replace(recipe, plain=0), tiny.mean, tiny.std)
    fit(tiny_network(), tiny, recipe, policy=own)
    assert drawn[3:] == [{type(t).__name__: t.p for t in own.transforms}] * 3  # a policy of one's own stays


def test_epochs_differ_in_order_and_repeat_by_seed(tiny, recipe):
    def order(seed, epoch):
        batches = epoch_batches(tiny.train, recipe_policy(recipe, tiny.mean, tiny.std), recipe, seed, epoch)
        return torch.cat([images for images, _ in batches])

    assert torch.equal(order(0, 1), order(0, 1))
    assert not torch.equal(order(0, 1), order(0, 2))
    assert not torch.equal(order(0, 1), order(1, 1))


def test_the_training_means_count_images_not_batches(tiny, recipe):
    # A rate of almost nothing: the network stays as it is, so its mean can be computed at once for all images.
    slow = replace(recipe, learning_rate=1e-12, weight_decay=0, sides=(32,), batch_size=36)
    still = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    trainer = Trainer(still, slow, CPU)
    batches = list(epoch_batches(tiny.train, recipe_policy(slow, tiny.mean, tiny.std), slow, 0, 1))
    line = trainer.train(batches, 1, len(tiny.train))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logits = still(images)
    assert [len(labels) for _, labels in batches] == [36, 36, 24]
    assert trainer.tally.loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    assert trainer.tally.accuracy == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
    last_loss = F.cross_entropy(logits[72:], labels[72:]).item()
    assert float(line.split()[1].removeprefix("Loss=")) == pytest.approx(last_loss, abs=1e-4)
    assert f"Accuracy={trainer.tally.accuracy:.2f}" in line


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_is_sgd_at_the_rate_of_its_place(tiny, recipe, nesterov):
    recipe = replace(recipe, sides=(32,), warmup=0.5, weight_decay=0.01, label_smoothing=0.1, nesterov=nesterov)
    ours, theirs = tiny_network().eval(), tiny_network().eval()  # eval: no dropout, batch norm as it is
    images, labels = next(iter(epoch_batches(tiny.train, recipe_policy(recipe, tiny.mean, tiny.std), recipe, 0, 1)))
    trainer = Trainer(ours, recipe, CPU)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    for progress in (0.25, 0.75):  # half of the peak rate both times
        trainer.step(images, labels, progress)
        optimizer.zero_grad()
        F.cross_entropy(theirs(images), labels, label_smoothing=0.1).backward()
        optimizer.step()
    assert torch.allclose(weights(ours), weights(theirs), atol=1e-6)


def test_pictures_grow_with_the_run(tiny, recipe):
    seen = []

    class Watching(nn.Sequential):
        def forward(self, x):
            if self.training:
                seen.append(tuple(x.shape[2:]))
            return super().forward(x)

    fit(Watching(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), tiny, replace(recipe, epochs=2))
    assert seen == [(24, 24)] * 3 + [(32, 32)] * 3


def test_resizing_is_that_of_pillow_with_antialiasing(tiny):
    channel = tiny.train.images[0, 0].float()
    pillow = Image.fromarray(channel.numpy()).resize((20, 20), Image.Resampling.BILINEAR)
    torch.testing.assert_close(resize(channel.expand(1, 3, 32, 32), 20)[0, 1], torch.from_numpy(np.array(pillow)))


def test_it_stops_at_the_accuracy_asked_for(network, tiny, recipe):
    history = fit(network, tiny, replace(recipe, epochs=30), until=90)
    assert history[-1]["test_accuracy"] >= 90
    assert all(record["test_accuracy"] < 90 for record in history[:-1])
    assert len(history) < 30


def test_both_paths_of_the_data_train_the_same_network(tiny, recipe):
    for workers in (0, 1):
        history = fit(tiny_network(), tiny, replace(recipe, epochs=6, per_image=True, workers=workers))
        assert history[-1]["test_accuracy"] > 80


@pytest.mark.parametrize(
    "normalize",
    [[], [A.Normalize()], [A.Normalize((0.33,) * 3, (0.33,) * 3)] * 2],  # the default is ImageNet's
)
def test_a_policy_that_normalises_otherwise_than_the_test_is_refused(network, tiny, recipe, normalize):
    with pytest.raises(InputError, match=r"has to normalise .* A.Normalize\(mean=\(0.33, 0.33, 0.33\), std="):
        fit(network, tiny, recipe, policy=A.Compose([A.HorizontalFlip(), *normalize]))


def test_imagenet_s_mean_and_std_are_not_cifar10_s():
    with pytest.raises(InputError, match="has to normalise every image as the test does"):
        check_normalized(A.Compose([A.Normalize()]), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


@pytest.mark.parametrize("p", [{"policy": 0.5}, {"normalize": 0.5}])
def test_a_policy_that_normalises_some_images_only_is_refused(network, tiny, recipe, p):
    normalize = A.Normalize(tiny.mean, tiny.std, p=p.get("normalize", 1))
    policy = A.Compose([A.HorizontalFlip(), normalize], p=p.get("policy", 1))
    with pytest.raises(InputError, match="has to normalise every image"):
        fit(network, tiny, replace(recipe, per_image=True, workers=0), policy=policy)


def test_a_policy_that_normalises_floats_is_not_refused(tiny, recipe):
    floats = A.Compose([A.ToFloat(255), A.Normalize(tiny.mean, tiny.std, max_pixel_value=1.0)])
    whole = A.Compose([A.Normalize(tiny.mean, tiny.std)])
    recipe = replace(recipe, per_image=True, workers=0)
    one, other = (fit(tiny_network(), tiny, recipe, policy=policy) for policy in (floats, whole))
    assert one[-1]["train_loss"] == pytest.approx(other[-1]["train_loss"], rel=1e-3)


def test_after_to_float_the_error_asks_for_the_missing_scale(network, tiny, recipe):
    twice = A.Compose([A.ToFloat(), A.Normalize(tiny.mean, tiny.std)])
    with pytest.raises(InputError, match=r"max_pixel_value=1\)"):
        fit(network, tiny, recipe, policy=twice)


def test_a_policy_that_returns_to_whole_numbers_is_not_refused(network, tiny, recipe):
    there_and_back = A.Compose([A.ToFloat(), A.FromFloat(dtype="uint8"), A.Normalize(tiny.mean, tiny.std)])
    fit(network, tiny, replace(recipe, epochs=1, per_image=True, workers=0), policy=there_and_back)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": nn.Linear}, "a network, a torch.nn.Module, got <class"),
        ({"data": "digits"}, r"data as load_cifar10\(\) returns it, got 'digits'"),
        ({"recipe": "fast"}, "a recipe, as in RECIPES, got 'fast'"),
        ({"policy": [A.HorizontalFlip()]}, "an Albumentations Compose as policy, got "),
        ({"until": "85"}, "a number as until, got '85'"),
        ({"report_every": "often"}, "a whole number as report_every, got 'often'"),
    ],
)
def test_what_cannot_be_meant_is_refused(network, tiny, recipe, changed, says):
    with pytest.raises(InputError, match=f"fit needs {says}"):
        fit(**({"model": network, "data": tiny, "recipe": recipe} | changed))


@pytest.mark.parametrize("rate", [None, 0.0, 0.3])
def test_the_log_says_that_a_recipe_takes_the_network_s_dropout_away(tiny, recipe, tmp_path, rate):
    model = nn.Sequential(*tiny_network(), nn.Dropout(0.3))
    fit(model, tiny, replace(recipe, epochs=1, dropout=rate), out=tmp_path)
    said = "Dropout 0 instead of the network's 0.1, 0.3: with dropout=None" in (tmp_path / "training.log").read_text()
    assert said == (rate == 0.0)
    assert model[-1].p == (rate if rate is not None else 0.3)


def test_a_policy_of_ones_own_is_used(network, tiny, recipe):
    black = A.Compose([A.CoarseDropout((1, 1), (32, 32), (32, 32), fill=0, p=1), A.Normalize(tiny.mean, tiny.std)])
    with pytest.raises(TrainingError, match=r"all the images of a batch were the same in epoch 1, at step 0"):
        fit(network, tiny, replace(recipe, epochs=1, sides=(32,)), policy=black)


def test_sides_that_the_network_cannot_take_are_raised_to_the_next_that_it_can(tiny, recipe, capsys):
    unpadded = nn.Sequential(nn.Conv2d(3, 3, 21), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    recipe = replace(recipe, sides=(16, 20, 24, 28, 32))
    assert suited(recipe, unpadded).sides == (24, 24, 24, 28, 32)
    assert suited(recipe, tiny_network()) == recipe
    fit(unpadded, tiny, replace(recipe, epochs=1))
    assert "Image sides (24, 24, 24, 28, 32) instead of (16, 20, 24, 28, 32)" in capsys.readouterr().out


def test_a_recipe_whose_pictures_are_all_too_small_is_refused_before_training(tiny, recipe):
    unpadded = nn.Sequential(nn.Conv2d(3, 3, 21), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="cannot take images of 20 pixels"):
        fit(unpadded, tiny, replace(recipe, sides=(16, 20)))


def test_the_recipe_s_dropout_replaces_the_network_s(recipe):
    def rate(dropout):
        return Trainer(tiny_network(), replace(recipe, dropout=dropout), CPU).model[5].p

    assert [rate(None), rate(0.0), rate(0.4)] == [0.1, 0.0, 0.4]


def test_a_line_every_so_many_batches_and_a_report_every_epoch_on_request(network, tiny, recipe, tmp_path):
    fit(network, tiny, replace(recipe, epochs=2), out=tmp_path, report_every=2, class_report=True)
    log = (tmp_path / "training.log").read_text()
    assert re.findall(r"Epoch (\d), Batch (\d): Train Loss: \d\.\d{4}, Train Accuracy: [\d.]+%", log) == [
        ("1", "2"),
        ("2", "2"),
    ]
    assert log.count("precision    recall  f1-score   support") == 2
    assert evaluate(network, tiny.test, "fp32").report in log


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_network_with_nothing_to_train_is_refused(network, tiny, recipe, optimizer):
    with pytest.raises(InputError, match="no parameter that requires a gradient"):
        fit(network.requires_grad_(False), tiny, replace(recipe, optimizer=optimizer))


def test_a_second_answer_in_training_alone_is_refused(tiny, recipe):
    class Auxiliary(nn.Sequential):
        def forward(self, images):
            logits = super().forward(images)
            return (logits, logits) if self.training else logits

    with pytest.raises(InputError, match="Auxiliary answers with a tuple in training"):
        fit(Auxiliary(*tiny_network()), tiny, recipe)


def test_muon_may_have_all_the_parameters(tiny, recipe):
    kernels = nn.Sequential(nn.Conv2d(3, 3, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    history = fit(kernels, tiny, replace(recipe, optimizer="muon"))
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_adam_is_adamw_at_the_recipe_s_rate(tiny, recipe):
    recipe = replace(recipe, optimizer="adam", learning_rate=0.01, weight_decay=0.1, schedule="steps", sides=(32,))
    ours, theirs = tiny_network().eval(), tiny_network().eval()
    images, labels = next(iter(epoch_batches(tiny.train, recipe_policy(recipe, tiny.mean, tiny.std), recipe, 0, 1)))
    Trainer(ours, recipe, CPU).step(images, labels, progress=0.9)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    F.cross_entropy(theirs(images), labels).backward()
    optimizer.step()
    assert torch.allclose(weights(ours), weights(theirs), atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_batch_norms_and_biases_may_be_spared_weight_decay(tiny, recipe, optimizer):
    recipe = replace(recipe, optimizer=optimizer, weight_decay=0.1, warmup=0.5, sides=(32,))
    images, labels = next(iter(epoch_batches(tiny.train, recipe_policy(recipe, tiny.mean, tiny.std), recipe, 0, 1)))

    def learned(**changes) -> list[torch.Tensor]:
        network = tiny_network().eval()
        Trainer(network, replace(recipe, **changes), CPU).step(images, labels, progress=0.25)
        return [p.detach() for p in network.parameters()]

    decayed, free = learned(), learned(weight_decay=0.0)
    for spared, with_decay, without in zip(learned(decay_norms=False), decayed, free, strict=True):
        assert torch.equal(spared, with_decay if spared.ndim > 1 else without)
    assert not all(torch.equal(*both) for both in zip(decayed, free, strict=True) if both[0].ndim == 1)


def test_the_tqdm_line_is_the_one_that_students_know(network, tiny, recipe, capsys):
    fit(network, tiny, replace(recipe, epochs=1))
    assert "Train: Loss=" in (shown := capsys.readouterr().out)
    line = shown[shown.rindex("Train: Loss=") :].split(":  ")[0].split("\n")[0]
    assert "Batch_id=2 Accuracy=" in line
    assert " LR=0.0" in line


def test_a_run_begun_in_another_precision_goes_on_in_fp16(tiny, recipe, tmp_path, monkeypatch):
    auto = replace(recipe, precision="auto")
    fit(tiny_network(), tiny, auto, out=tmp_path, until=0.0)  # ends after an epoch
    monkeypatch.setattr("utils.trainer.pick_precision", lambda device, wish: "fp16")  # as on another machine
    assert len(fit(tiny_network(), tiny, auto, out=tmp_path, resume=True)) == 3


def test_fp16_runs_under_a_gradient_scaler(network, recipe):
    trainer, resumed = (Trainer(network, replace(recipe, precision="fp16"), CPU) for _ in range(2))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.scaler.get_scale() == 8.0
    assert not Trainer(network, replace(recipe, precision="bf16"), CPU).scaler.is_enabled()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_training_and_test_compute_in_the_recipe_s_precision(network, tiny, recipe, precision, dtype):
    seen = []
    network.register_forward_hook(lambda model, _, logits: seen.append((model.training, logits.dtype)))
    fit(network, tiny, replace(recipe, epochs=1, precision=precision))
    assert set(seen) == {(True, dtype), (False, dtype), (False, torch.float32)}  # the last, to see whether it fits
    loss, _ = Trainer(network, replace(recipe, precision=precision), CPU).step(
        tiny.train.images[:9].float(), tiny.train.labels[:9], progress=0.5
    )
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_layers_that_are_frozen_or_never_run_stay_as_they_are(tiny, recipe, optimizer):
    class Partly(nn.Sequential):
        """Its first layer is frozen, its second never runs."""

        def forward(self, images):
            return nn.Sequential(self[0], *self[2:])(images)

    kernels = nn.Conv2d(3, 8, 3).requires_grad_(False), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    model = Partly(*kernels, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    MirrorSymmetry(model).impose()
    before = [kernel.weight.detach().clone() for kernel in kernels]
    fit(model, tiny, replace(recipe, epochs=1, optimizer=optimizer, mirror_symmetric=True))
    same = [torch.equal(kernel.weight, weight) for kernel, weight in zip(kernels, before, strict=True)]
    assert same == [True, True, False]


def step_of(recipe, tiny, scale=2.0**16, **changes) -> tuple[Trainer, list[torch.Tensor]]:
    """A trainer after its first step, and what that has added to the parameters."""
    network = tiny_network()
    before = [p.detach().clone() for p in network.parameters()]
    trainer = Trainer(network, replace(recipe, dropout=0.0, **changes), CPU)
    if trainer.scaler.is_enabled():
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.step(tiny.train.images[:40].float() / 255, tiny.train.labels[:40], progress=0.25)
    return trainer, [p.detach() - old for p, old in zip(network.parameters(), before, strict=True)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_in_fp16_is_nearly_one_in_fp32(tiny, recipe, optimizer):
    _, exact = step_of(recipe, tiny, optimizer=optimizer)
    trainer, rounded = step_of(recipe, tiny, optimizer=optimizer, precision="fp16")
    assert trainer.scaler.get_scale() == 2**16  # nothing was too large
    for one, other in list(zip(rounded, exact, strict=True))[-2:]:  # of the linear layer: no sums that should be 0
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_too_large_for_fp16_change_nothing_but_the_scale(tiny, recipe, optimizer):
    undecayed = replace(recipe, optimizer=optimizer, weight_decay=0.0, muon_weight_decay=0.0)
    trainer, added = step_of(undecayed, tiny, scale=2.0**40, precision="fp16")
    assert trainer.scaler.get_scale() == 2.0**39
    assert not any(change.any() for change in added)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "0"])
def test_a_seed_that_torch_would_not_take_is_refused(network, tiny, recipe, seed):
    with pytest.raises(InputError, match="a whole number from 0 to 4294967295"):
        fit(network, tiny, recipe, seed=seed)
    with pytest.raises(InputError, match="a whole number from 0 to 4294967295"):
        build_model("s7", seed=seed)
