"""Where does the time of a training step go, and how far is that from what the machine can do?

    python benchmarks/throughput.py                       # s7 under fast
    python benchmarks/throughput.py residual --side 24

Prints images per second of every stage, next to ceilings measured in the same run: large matrix products in bfloat16
and float32, copies of memory. Then the share of those that the training step reaches, counting the multiply-adds of
convolutions and linear layers only, and the assignment's policy on whole batches against the same Albumentations
Compose image by image. Medians over rounds in which every stage takes its turn. Writes images/throughput.png.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F

from benchmarks.program import program
from benchmarks.readme import of_data
from utils import RECIPES, ImageData, build_model, evaluate, load_cifar10
from utils.data import Split
from utils.device import autocast, cpu_has_bf16, describe_hardware, pick_device
from utils.engine import epoch_batches, suited
from utils.optim import set_rate
from utils.plots import stacked_bar
from utils.systems import multiply_adds
from utils.tables import as_table
from utils.trainer import Trainer, resize
from utils.transforms import BatchPolicy, per_image_loader, recipe_policy

STAGES = ("gather", "augment", "forward", "backward", "optimiser")
PRODUCTS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@program
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="s7")
    parser.add_argument("--recipe", default="fast", choices=sorted(RECIPES))
    parser.add_argument("--side", type=int, default=32, help="of the images that the network gets (default: 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="auto")
    parsed = parser.parse_args(arguments)
    device = pick_device()
    data = load_cifar10(parsed.data).to(device)
    model = build_model(parsed.model, classes=len(data.classes))
    recipe = suited(replace(RECIPES[parsed.recipe], sides=(parsed.side,), per_image=False), model)
    trainer = Trainer(model, recipe, device)
    print(f"{parsed.model}, recipe {recipe.name}, {parsed.side} pixels, batches of {recipe.batch_size}")
    print(f"{describe_hardware(device)}, {trainer.precision}, torch {torch.__version__}\n{data.origin}\n")

    rounds = [
        stage_seconds(trainer, data) | {"in training": training_seconds(trainer, data)} | ceilings(device)
        for _ in range(parsed.rounds)
    ]
    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    step = sum(middle[stage] for stage in STAGES)
    rows = [("stage", "us an image", "images a second", "share of a step")]
    for stage in (*STAGES, "evaluation"):
        share = f"{100 * middle[stage] / step:.1f} %" if stage in STAGES else "-"
        rows.append((stage, f"{1e6 * middle[stage]:.1f}", f"{1 / middle[stage]:,.0f}", share))
    rows.append(("all stages of a step", f"{1e6 * step:.1f}", f"{1 / step:,.0f}", "100 %"))
    training = middle["in training"]
    rows.append(
        ("a step in training", f"{1e6 * training:.1f}", f"{1 / training:,.0f}", f"{100 * training / step:.0f} %")
    )
    print(as_table(rows))

    flops = 6 * multiply_adds(model.cpu(), (3, parsed.side, parsed.side))  # two operations each; backward twice forward
    matrix = middle[trainer.precision]
    products = ", ".join(f"{middle[name] / 1e9:,.0f} GFLOP/s in {name}" for name in PRODUCTS if name in middle)
    print(
        f"\nmatrix products: {products}; copies: {middle['copy'] / 1e9:.0f} GB/s\n"
        f"a step in training: {flops / training / 1e9:,.0f} GFLOP/s, {100 * flops / training / matrix:.0f} % of the "
        "matrix products; "
        f"forward and backward alone: {100 * flops / (middle['forward'] + middle['backward']) / matrix:.0f} %\n"
        f"peak memory: {peak_memory() / 1e9:.2f} GB\n"
    )
    print(as_table(policy_rows(data)))
    title = f"A training step of {parsed.model}, {1e6 * step:.0f} us an image"
    figure = stacked_bar({stage: 1e6 * middle[stage] for stage in STAGES}, title, "us an image", data.origin)
    figure.savefig(ROOT / "images" / f"throughput{of_data(data)}.png")


def peak_memory() -> int:
    """The most bytes of the host's memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # which counts in bytes there, in kibibytes elsewhere


def seconds(action: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Of one call, over `times` of them in a row."""
    wait(device)
    started = time.perf_counter()
    for _ in range(times):
        action()
    wait(device)
    return (time.perf_counter() - started) / times


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stage_seconds(trainer: Trainer, data: ImageData, batches: int = 30) -> dict[str, float]:
    """Seconds an image of each stage, over some batches of one epoch."""
    recipe, device, model = trainer.recipe, trainer.device, trainer.model
    augment, generator = BatchPolicy(recipe_policy(recipe, data.mean, data.std)), torch.Generator(device).manual_seed(0)
    order = torch.randperm(len(data.train), generator=generator, device=device).split(recipe.batch_size)
    total = dict.fromkeys(STAGES, 0.0)
    model.train()

    def measured(stage: str, action: Callable[[], object]) -> object:
        wait(device)
        started = time.perf_counter()
        result = action()
        wait(device)
        total[stage] += time.perf_counter() - started
        return result

    def forward():
        with autocast(device, trainer.precision):
            logits = model(resize(pictures, model_side).contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), labels)

    model_side = recipe.sides[0]
    images = 0
    for number, chosen in enumerate(order[: batches + 5]):
        if number == 5:  # the first ones warm up
            total, images = dict.fromkeys(STAGES, 0.0), 0
        pictures, labels = measured("gather", lambda: (data.train.images[chosen], data.train.labels[chosen]))  # noqa: B023
        pictures = measured("augment", lambda: augment(pictures, generator))  # noqa: B023
        loss = measured("forward", forward)
        model.zero_grad()
        measured("backward", trainer.scaler.scale(loss).backward)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                set_rate(group, 1e-4)
        measured("optimiser", trainer.update)
        images += len(labels)
    result = {stage: spent / images for stage, spent in total.items()}
    result["evaluation"] = seconds(lambda: evaluate(model, data.test, precision=trainer.precision), device) / len(
        data.test
    )
    return result


def training_seconds(trainer: Trainer, data: ImageData, batches: int = 30) -> float:
    """Seconds an image of steps as `fit` takes them, one after the other: a GPU is not waited for in between."""
    policy = recipe_policy(trainer.recipe, data.mean, data.std)

    def steps() -> None:
        trainer.begin_epoch()
        for images, labels in islice(epoch_batches(data.train, policy, trainer.recipe, seed=0, epoch=1), batches):
            trainer.tally.add(images, labels, *trainer.step(images, labels, progress=0.5))

    trainer.model.train()
    steps()  # until a GPU has its graph
    return seconds(steps, trainer.device) / trainer.tally.images


def ceilings(device: torch.device, side: int = 2048) -> dict[str, float]:
    """Floating-point operations a second of square matrix products, and bytes a second copied (read and written)."""
    result, times = {}, 20 if device.type == "cuda" else 1  # one product takes it no longer than to begin it
    for name, dtype in PRODUCTS.items():
        if device.type == "cpu" and (name == "fp16" or (name == "bf16" and not cpu_has_bf16())):
            continue  # no network is trained in it there, and some CPUs take minutes
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        result[name] = 2 * side**3 / min(seconds(lambda: a @ b, device, times) for _ in range(4))  # noqa: B023
    source = torch.zeros(64 << 20, device=device)
    target = torch.empty_like(source)
    result["copy"] = 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device, times) for _ in range(4))
    return result


def policy_rows(data: ImageData, images: int = 5000) -> list[tuple]:
    """The assignment's policy on whole batches and image by image: a table, heading first.

    Once with one thread each, and with loader workers as training would use them; where the data are on a GPU, there.
    """
    recipe = replace(RECIPES["fast"], flip=0.5, shift_scale_rotate=0.5, coarse_dropout=0.5)
    small = data.to(torch.device("cpu")).subset(images, 1)
    policy, images = recipe_policy(recipe, data.mean, data.std), len(small.train)

    def whole_batches(split: Split = small.train) -> None:
        for _ in epoch_batches(split, policy, recipe, seed=0, epoch=1):
            pass

    def one_by_one(workers: int) -> None:
        order = torch.arange(images)
        for _ in per_image_loader(small.train, policy, recipe.batch_size, 0, 1, order, workers):
            pass

    threads = torch.get_num_threads()
    ways = {"whole batches, 1 thread": whole_batches, "Albumentations, 1 thread": lambda: one_by_one(0)}
    ways |= {f"whole batches, {threads} threads": whole_batches}
    ways |= {f"Albumentations, loader workers: {n}": lambda n=n: one_by_one(n) for n in (1, 2)}
    rates = {}
    for name, way in ways.items():
        torch.set_num_threads(1 if "1 thread" in name else threads)
        rates[name] = images / statistics.median(seconds(way, torch.device("cpu")) for _ in range(3))
    torch.set_num_threads(threads)
    device = data.train.images.device
    if device.type == "cuda":
        rates["whole batches, on the GPU"] = len(data.train) / statistics.median(
            seconds(lambda: whole_batches(data.train), device) for _ in range(3)
        )
    single = rates["Albumentations, 1 thread"]
    rows = [("the assignment's policy", "images a second", "times Albumentations in one thread")]
    return rows + [(name, f"{rate:,.0f}", f"{rate / single:.1f}") for name, rate in rates.items()]


if __name__ == "__main__":
    sys.exit(main())
