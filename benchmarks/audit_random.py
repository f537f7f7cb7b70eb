"""Random networks, audited: do the layer algebra and the footprint of gradients agree on the receptive field?

    python benchmarks/audit_random.py --networks 1000

Prints how many agree, and every network on which they do not.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor, nn

from utils.audit import Report, audit

CHANNELS = 4
AGREE = "layer algebra and gradient footprint agree"


class Branches(nn.Module):
    """The same map through several chains; their results added, or concatenated and mixed."""

    def __init__(self, branches: list[nn.Sequential], concatenate: bool):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.mix = nn.Conv2d(CHANNELS * len(branches), CHANNELS, 1) if concatenate else None

    def forward(self, x: Tensor) -> Tensor:
        results = [branch(x) for branch in self.branches]
        return sum(results) if self.mix is None else self.mix(torch.cat(results, 1))


def random_network(seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of two to seven random parts, and the shape of an image that it takes."""
    draw = random.Random(seed)
    shape = (CHANNELS, draw.randint(24, 48), draw.randint(24, 48))
    layers: list[nn.Module] = []
    x = torch.zeros(1, *shape)
    parts = draw.randint(2, 7)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        while len(layers) < parts:
            layer = random_branches(draw) if draw.random() < 0.3 else random_layer(draw)
            try:
                after = layer.eval()(x)
            except RuntimeError:  # the map is smaller than the kernel
                continue
            if min(after.shape[2:]) >= 1 and max(after.shape[2:]) <= 128:
                layers.append(layer)
                x = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)), shape


def random_layer(draw: random.Random) -> nn.Module:
    """A convolution (strided, dilated, grouped, not square), a pool, or an upsampling, with what usually follows."""
    kind = draw.choice(["conv"] * 6 + ["max", "average", "transposed", "nearest"])
    kernel = (draw.randint(1, 5), draw.randint(1, 5))
    stride = (draw.randint(1, 3), draw.randint(1, 3)) if draw.random() < 0.4 else (1, 1)
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, min(kernel) // 2, ceil_mode=draw.random() < 0.5)
    if kind == "average":
        return nn.AvgPool2d(kernel, stride, min(kernel) // 2, ceil_mode=draw.random() < 0.5)
    if kind == "nearest":
        return nn.Upsample(scale_factor=2, mode=draw.choice(["nearest", "bilinear"]))
    dilation = (draw.randint(1, 4), draw.randint(1, 4)) if draw.random() < 0.4 else (1, 1)
    padding, groups = draw.randint(0, 4), draw.choice([1, 1, 2, CHANNELS])
    if kind == "transposed":
        padding = min(padding, min(kernel) - 1)
        layer = nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=groups, dilation=dilation)
    else:
        layer = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, dilation, groups)
    return nn.Sequential(layer, nn.BatchNorm2d(CHANNELS), draw.choice([nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU()]))


def random_branches(draw: random.Random) -> Branches:
    """Two or three chains that shrink a map alike, one of them perhaps empty."""
    stride = draw.choice([1, 1, 2])
    branches = []
    for _ in range(draw.randint(2, 3)):
        strides = [1] * draw.randint(0, 2) + [stride]
        layers = [same_size(draw, s) for s in strides]
        branches.append(nn.Sequential(*(layers if stride > 1 or draw.random() < 0.8 else [])))
    return Branches(branches, concatenate=draw.random() < 0.5)


def same_size(draw: random.Random, stride: int) -> nn.Module:
    kernel, dilation = draw.choice([1, 3, 5, 7]), draw.randint(1, 3)
    if draw.random() < 0.2:
        return nn.MaxPool2d(3, stride, 1)
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, dilation * (kernel // 2), dilation)


def audited(seed: int) -> Report:
    network, shape = random_network(seed)
    return audit(network, input_shape=shape)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=1000, help="how many networks (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed (default: 0)")
    parsed = parser.parse_args(arguments)
    started = time.monotonic()
    agreeing = 0
    for seed in range(parsed.first, parsed.first + parsed.networks):
        report = audited(seed)
        if report.receptive_field_method == AGREE:
            agreeing += 1
        else:
            print(f"seed {seed}: {report.receptive_field_method}", *random_network(seed), sep="\n", flush=True)
    print(f"{agreeing} of {parsed.networks} agree, {time.monotonic() - started:.0f} s")
    return 0 if agreeing == parsed.networks else 1


if __name__ == "__main__":
    sys.exit(main())
