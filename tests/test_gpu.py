"""What happens on a GPU, as far as one that is only pretended can show it: see pretend_gpu.py."""

import gc
import random
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_network
from pretend_gpu import GPU, OnGPU, PretendedGPU, pretended_gpu
from torch import Tensor, nn

from utils import audit, build_model, evaluate, fit
from utils.data import ImageData
from utils.engine import AHEAD, epoch_batches
from utils.graphs import EAGER, Graphed
from utils.insight import grad_cam
from utils.predict import predict
from utils.recipes import OPTIMIZERS, Recipe
from utils.trainer import Trainer
from utils.transforms import recipe_policy
from utils.trouble import largest_batch

EVERYTHING = {"optimizer": "muon", "mirror_symmetric": True, "coarse_dropout": 0.2, "crop": 2, "color_jitter": 0.5}


@pytest.fixture
def gpu():
    with pretended_gpu() as gpu:
        yield gpu


@pytest.fixture
def recipe() -> Recipe:
    """Two epochs of 96 images: ten batches of 9 and one that is short, at two image sides."""
    return Recipe("tiny", epochs=2, batch_size=9, sides=(24, 32), precision="fp32", cuda_graphs=False)


def run(data: ImageData, recipe: Recipe, **options) -> tuple[list[dict], dict[str, Tensor]]:
    """What fit returns, without its seconds, and the weights, on the CPU."""
    network = tiny_network()
    history = fit(network, data, recipe, **options)
    weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history], weights


def assert_same(one: tuple[list[dict], dict[str, Tensor]], other: tuple[list[dict], dict[str, Tensor]]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("changes", [{"optimizer": name} for name in OPTIMIZERS] + [EVERYTHING, {"per_image": True}])
def test_a_gpu_learns_what_a_cpu_learns(tiny, recipe, monkeypatch, changes):
    recipe = replace(recipe, workers=0, **changes)
    on_cpu = run(tiny, recipe, device="cpu")
    monkeypatch.setattr("utils.engine.AHEAD", 1)  # so that the same numbers are drawn
    with pretended_gpu() as gpu:
        assert_same(run(tiny, recipe), on_cpu)
    assert gpu.operations["convolution_backward"] == 22


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_of_cuda_graphs_is_the_same_to_the_bit(tiny, recipe, gpu, monkeypatch, optimizer, precision):
    changes = {**EVERYTHING, "optimizer": optimizer, "precision": precision, "cuda_graphs": True}
    recipe = replace(recipe, epochs=3, sides=(24, 32, 32), **changes)
    as_graphs = run(tiny, recipe)
    assert gpu.replayed == 3 * 10 - 2 * EAGER  # the short batch after each epoch is none
    monkeypatch.setattr("utils.graphs.EAGER", 1000)
    assert_same(run(tiny, recipe), as_graphs)
    assert gpu.replayed == 3 * 10 - 2 * EAGER


def test_a_stopped_run_of_cuda_graphs_goes_on_to_the_same_end(tiny, recipe, gpu, tmp_path):
    recipe = replace(recipe, **EVERYTHING, cuda_graphs=True)
    whole = run(tiny, recipe)
    run(tiny, recipe, out=tmp_path, until=0.0)  # ends after an epoch
    assert_same(run(tiny, recipe, out=tmp_path, resume=True), whole)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("begun", ["cpu", "cuda"])
def test_a_run_goes_on_where_there_is_no_gpu_and_back(tiny, recipe, tmp_path, monkeypatch, begun, optimizer, precision):
    monkeypatch.setattr("utils.engine.AHEAD", 1)  # so that the same numbers are drawn
    recipe = replace(recipe, optimizer=optimizer, precision=precision, cuda_graphs=True)
    whole, _ = run(tiny, recipe, device="cpu")
    for device, options in ((begun, {"until": 0.0}), ({"cpu": "cuda", "cuda": "cpu"}[begun], {"resume": True})):
        with pretended_gpu() if device == "cuda" else nullcontext():
            history, _ = run(tiny, recipe, out=tmp_path, device=device, **options)
    assert [record["epoch"] for record in history] == [1, 2]
    for record, expected in zip(history, whole, strict=True):
        assert record == pytest.approx(expected, rel=0.02, abs=1e-4)  # fused optimisers round otherwise


def test_the_rates_of_a_graph_follow_the_recipe(tiny, recipe, gpu):
    history, _ = run(tiny, replace(recipe, schedule="steps", drops=(1,), optimizer="sgd", cuda_graphs=True))
    assert [record["learning_rate"] for record in history] == pytest.approx([0.1, 0.01])
    assert gpu.replayed


@pytest.mark.parametrize("graphs", [False, True])
def test_a_loaded_state_brings_its_rates(tiny, recipe, gpu, graphs):
    old, new = (Trainer(tiny_network(), replace(recipe, **EVERYTHING, cuda_graphs=graphs), GPU) for _ in range(2))
    old.step(torch.rand(9, 3, 32, 32, device=GPU), torch.zeros(9, dtype=torch.long, device=GPU), progress=0.9)
    new.load_state_dict(old.state_dict())
    for one, other in zip(old.optimizers, new.optimizers, strict=True):
        assert float(other.param_groups[0]["lr"]) == float(one.param_groups[0]["lr"]) < 0.02
        assert other.defaults["lr"] == one.defaults["lr"]
        assert other.param_groups[0]["lr"] is not one.param_groups[0]["lr"] or not graphs


def test_the_graphs_of_one_training_are_gone_in_the_next(recipe, gpu):
    recipe = replace(recipe, cuda_graphs=True)
    gc.disable()
    try:
        graphs = weakref.ref(Trainer(tiny_network(), recipe, GPU).learn)
        Trainer(tiny_network(), recipe, GPU)
        assert graphs() is None
    finally:
        gc.enable()


def test_nothing_of_a_step_is_kept_for_gradients(recipe):
    """Else a later step would add to them on the stream of this one, and no CUDA graph could be made of it."""
    trainer = Trainer(tiny_network(), replace(recipe, **EVERYTHING), torch.device("cpu"))
    weight = trainer.model[0].weight

    def adds_to_gradient() -> torch.autograd.graph.Node:
        return weight.expand_as(weight).grad_fn.next_functions[0][0]

    trainer.model[0].register_forward_hook(lambda *_: adds_to_gradient().metadata.update(kept=True))
    returned = trainer.step(torch.rand(9, 3, 32, 32), torch.zeros(9, dtype=torch.long), progress=0.9)
    assert "kept" not in adds_to_gradient().metadata
    assert len(returned) == 2


def test_a_step_that_is_a_graph_asks_for_little(tiny, recipe, gpu):
    """Each operation asked for takes Python longer than the GPU."""
    trainer = Trainer(build_model("s7", width=0.25), replace(recipe, **EVERYTHING, cuda_graphs=True), GPU)
    images = torch.rand(9, 3, 32, 32, device=GPU)
    labels = torch.zeros(9, dtype=torch.long, device=GPU)

    def asked() -> int:
        before = gpu.operations.total()
        trainer.tally.add(images, labels, *trainer.step(images, labels, progress=0.9))
        return gpu.operations.total() - before

    counts = [asked() for _ in range(EAGER + 3)]
    assert counts[EAGER - 1] > 600
    assert counts[-1] < 40


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_looks_at_the_gpu(tiny, recipe, gpu, precision):
    trainer = Trainer(tiny_network(), replace(recipe, **EVERYTHING, precision=precision), GPU)
    batches = epoch_batches(
        tiny.to(GPU).train, recipe_policy(trainer.recipe, tiny.mean, tiny.std), trainer.recipe, 0, 1
    )
    gpu.operations.clear()
    for images, labels in batches:
        trainer.tally.add(images, labels, *trainer.step(images, labels, progress=0.25))
    assert gpu.looks == 0
    trainer.tally.check(epoch=1)
    assert gpu.looks > 0  # this has to wait


def test_a_gpu_augments_many_batches_at_once(tiny, recipe, gpu):
    policy = recipe_policy(recipe, tiny.mean, tiny.std)
    small = replace(recipe, batch_size=2)
    ahead = list(epoch_batches(tiny.to(GPU).train, policy, small, 0, 1))
    assert gpu.operations["flip"] == 48 / AHEAD  # once for each HorizontalFlip
    order = torch.randperm(96, generator=torch.Generator().manual_seed(1))  # of epoch 1 of seed 0
    assert torch.cat([labels for _, labels in ahead]).tolist() == tiny.train.labels[order].tolist()
    assert [len(images) for images, _ in ahead] == [2] * 48
    brightest = torch.cat([images.mean((2, 3)).argmax(1) for images, _ in ahead])
    assert brightest.tolist() == tiny.train.labels[order].tolist()  # each image has its own label
    left = list(epoch_batches(tiny.to(GPU).train, policy, small, 0, 1, start=17))
    assert len(left) == 31
    assert all(torch.equal(a.cpu(), b.cpu()) for (a, _), (b, _) in zip(left, ahead[17:], strict=True))


class Drawing(nn.Module):
    """A network that does something in its forward pass."""

    def __init__(self, draw: Callable[[Tensor], float]):
        super().__init__()
        self.network, self.draw = tiny_network(), draw

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) * (1 + 0.1 * self.draw(images))


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda images: torch.rand(()).item(), "draws random numbers on the CPU"),
        (lambda images: random.random(), "draws random numbers on the CPU"),
        (lambda images: np.random.rand(), "draws random numbers on the CPU"),  # noqa: NPY002
        (lambda images: images.mean().item(), "operation failed due to a previous error during capture"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_that_cannot_be_a_graph_is_trained_without(tiny, recipe, gpu, draw, reason, precision):
    recipe = replace(recipe, **EVERYTHING, cuda_graphs=True, precision=precision)
    with pytest.warns(UserWarning, match=f"training goes on without CUDA graphs, slower: .*{reason}") as warned:
        history = fit(Drawing(draw), tiny, recipe)
    assert len(history) == 2
    assert sum("CUDA graphs" in str(one.message) for one in warned) == 1
    assert gpu.replayed == 0


def test_after_a_failed_graph_it_is_still_said_what_fits_into_memory(recipe, gpu, monkeypatch):
    def empty_cache() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED, please report a bug to PyTorch")

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    assert largest_batch(Trainer(tiny_network(), recipe, GPU)) == 4  # half of 9


def test_an_attempt_at_a_graph_changes_nothing(gpu):
    weight = torch.ones(3, device=GPU)

    def step(x: Tensor) -> tuple[Tensor]:
        weight.add_(x)
        if len(calls) == EAGER:
            weight.sum().item()
        calls.append(1)
        return (weight * 1,)

    calls, undone = [], []
    step = Graphed(step, failed=lambda: undone.append(True))
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        for count in range(1, 9):
            assert step(torch.ones(3, device=GPU))[0].tolist() == [1.0 + count] * 3
    assert undone == [True]


def test_a_graph_is_of_one_shape_and_one_set_of_keywords(gpu):
    step = Graphed(lambda x, factor: (x * factor,))
    for number in range(EAGER + 4):
        for length in (2, 3):
            for factor in (2.0, 5.0):
                values = torch.full((length,), float(number), device=GPU)
                assert step(values, factor=factor)[0].tolist() == [number * factor] * length
    assert len(step.graphs) == 4
    assert gpu.replayed == 16


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_network_on_a_gpu_is_asked_and_examined_as_one_on_the_cpu(tiny, gpu, mirrored):
    network = build_model("s7_mirror" if mirrored else "s7", classes=3, width=0.25, seed=0)
    expected = evaluate(network, tiny.test, precision="fp32")
    images = tiny.test.images[:5]
    answers, report = predict(network, images, tiny.mean, tiny.std), str(audit(network))
    heat = grad_cam(network, tiny.test.images[:3], tiny.test, torch.arange(3))
    network.to(GPU)
    assert isinstance(next(network.parameters()), OnGPU)
    for split in (tiny.test, tiny.to(GPU).test):
        asked = evaluate(network, split, precision="fp32")
        assert torch.equal(asked.probabilities, expected.probabilities)
        assert torch.equal(asked.confusion, expected.confusion)
        torch.testing.assert_close(grad_cam(network, split.images[:3], split, torch.arange(3)), heat)
    assert torch.allclose(predict(network, images, tiny.mean, tiny.std), answers, atol=0.01)
    assert str(audit(network)) == report


def test_a_pretended_gpu_refuses_what_a_gpu_would(gpu: PretendedGPU):
    here, there = torch.ones(3), torch.ones(3, device=GPU)
    with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
        here + there
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there.numpy()
    with pytest.raises(AssertionError, match="a generator elsewhere"):
        torch.rand(3, generator=torch.Generator(GPU))
    assert (there.cpu() + here).tolist() == [2, 2, 2]
    assert gpu.looks == 0
    assert there.sum().item() == 3
    assert gpu.looks == 1
