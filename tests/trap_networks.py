"""Small networks, each with something that a count of its layers by hand gets wrong, and their true receptive fields.

A field is (height, width) in pixels of the last map, before the global average. j is the jump: pixels between
neighbouring positions. A convolution adds (kernel - 1) * dilation * j, and its stride multiplies j afterwards.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def conv(kernel=3, inputs=3, outputs=3, **arguments) -> nn.Conv2d:
    """Padded to keep the size, unless `padding` says otherwise."""
    if "padding" not in arguments:
        sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
        dilation = arguments.get("dilation", 1)
        spread = (dilation, dilation) if isinstance(dilation, int) else dilation
        arguments["padding"] = tuple(d * (k - 1) // 2 for k, d in zip(sizes, spread, strict=True))
    return nn.Conv2d(inputs, outputs, kernel, **arguments)


class Net(nn.Module):
    """A network from a function `body(self, x)` and the modules it uses, then global average and linear layer."""

    def __init__(self, body, channels=3, **modules):
        super().__init__()
        self.body = body
        self.channels = channels
        for name, module in modules.items():
            setattr(self, name, module)
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        return self.fc(self.body(self, x).mean((2, 3)))


def chain(*layers, channels=3) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def filled(module: nn.Module, value: float) -> nn.Module:
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def reordered(self, x):
    """Columns in an order that is computed of whole numbers: nothing of the image, so no gradient of it either."""
    order = torch.arange(x.shape[-1], 0, -1).sort().indices
    assert order.max() + 1 == torch.maximum(order, order).amax() + 1 == x.shape[-1]
    return self.a(x[..., order])


def frozen(self, x):
    with torch.no_grad():
        x = self.a(x)
    return self.b(x)


def loop(self, x):
    for _ in range(3):
        x = F.relu(self.a(x))
    return x


def in_place(self, x):
    y = F.relu_(self.b(self.a(x).relu_()))
    y += x
    return y


def dead_branch(self, x):
    self.wide(x)
    return self.a(x)


def frozen_input(self, x):
    x -= 0.5
    return self.a(x)


def hand_written_concatenation(self, x):
    out = torch.zeros(x.size(0), 6, x.size(2), x.size(3), dtype=x.dtype)
    out[:, :3] = self.a(x)
    out[:, 3:] = self.b(x)
    return self.c(out)


def focus(self, x):
    return self.a(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1))


def larger_by_sum(x):
    """The larger of two neighbours, as a + relu(b - a)."""
    return x[..., ::2] + F.relu(x[..., 1::2] - x[..., ::2])


def larger_by_where(x):
    return torch.where(x[..., ::2] > x[..., 1::2], x[..., ::2], x[..., 1::2])


def rows_of_four(x):
    return x.unfold(3, 4, 4)


def blocks_by_reshape(self, x):
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
    return self.a(x)


def depth_to_space(self, x):
    n, c, h, w = self.a(x).shape
    x = self.a(x).reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
    return self.b(x)


def shuffle(self, x):
    n, c, h, w = self.a(x).shape
    return self.b(self.a(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def channels_last(self, x):
    x = self.a(x).permute(0, 2, 3, 1)
    return self.mix(self.norm(x)).permute(0, 3, 1, 2)


def columns(self, x):
    n, _, h, w = x.shape
    return self.mix(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).view(n, 3, h, w)


def gate(self, x):
    x = self.a(x)
    return self.b(x * torch.sigmoid(self.mix(F.adaptive_avg_pool2d(x, 1))))


def strip_gate(self, x):
    """Gates for rows and for columns, each of which sees its neighbours."""
    x = self.a(x)
    return x * torch.sigmoid(self.rows(x.mean(3, keepdim=True)) + self.columns(x.mean(2, keepdim=True)))


def coordinate_gate(self, x):
    """Gates for rows and for columns, made together."""
    x = self.a(x)
    strips = self.mix(torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2))
    rows, columns = torch.sigmoid(strips).split([x.shape[2], x.shape[3]], 2)
    return self.b(x * rows * columns.transpose(2, 3))


def attention(self, x):
    x = self.a(x)
    positions = x.flatten(2).transpose(1, 2)
    return x + self.attend(positions, positions, positions)[0].transpose(1, 2).view_as(x)


def kernels_by_image(self, x):
    """The mean of two kernels, weighted by what is in the image."""
    x = self.a(x)
    weights = self.mix(x.mean((2, 3))).softmax(1)
    return F.conv2d(x, (weights @ self.both.flatten(1)).view(3, 3, 3, 3), padding=1)


def spread(self, x, align_corners=True):
    x = self.a(x)
    mean = F.adaptive_avg_pool2d(x, 1)
    mean = F.interpolate(mean, x.shape[2:], mode="bilinear", align_corners=align_corners)
    return self.b(torch.cat([x, mean], 1))


def stretched(self, x):
    x = self.a(x)
    rows = F.adaptive_avg_pool2d(x, (None, 1))
    return self.b(x + F.interpolate(rows, x.shape[2:], mode="bilinear", align_corners=True))


def larger_of_neighbours(self, x):
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def past_and_future(self, x):
    return self.a(F.pad(x, (2, 0, 2, 0))) + self.b(F.pad(x, (0, 2, 0, 2)))


def halves(self, x):
    top, bottom = x.chunk(2, dim=1)[0], x.chunk(2, dim=1)[1]
    return torch.cat([self.a(top), self.b(bottom)], 1)


def dense(self, x):
    x = torch.cat([x, self.a(x)], 1)
    return self.b(x)


def relu6_stack(self, x):
    for layer in self.layers:
        x = x + F.relu6(layer(x))
    return x


class Masked(nn.Conv2d):
    """A causal convolution: the taps below, and to the right in the middle row, are masked."""

    def __init__(self):
        super().__init__(3, 3, 3, padding=1)
        self.register_buffer("mask", torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]]))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


def standardised(self, x):
    weight = self.a.weight - self.a.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, weight, padding=1)


def kernels(*shape) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


class Restless(nn.Module):
    """In training mode, with gradients, hooks, frozen weights, buffers that move; draws from every generator."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(), nn.BatchNorm2d(3), conv(3, 3, 10)
        self.b.weight.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1))
        self.norm.eval()
        self.a.register_forward_hook(lambda module, inputs, output: output + 0)
        self.norm.register_full_backward_hook(lambda module, before, after: None)

    def forward(self, x):
        self.calls += 1
        x = self.norm(self.a(x)) + torch.rand(1).item() + random.random() + np.random.rand()  # noqa: NPY002
        return self.b(x).mean((2, 3))


def state(model: nn.Module) -> dict:
    """Everything about a model and the random generators that running it could change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return {
        "tensors": {name: (id(t), t._version, t.numpy(force=True).tobytes()) for name, t in named_tensors(model)},
        "gradients": {n: p.grad is not None and p.grad.numpy().tobytes() for n, p in model.named_parameters()},
        "frozen": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: [dict(getattr(m, h)) for h in hooks] for name, m in model.named_modules()},
        "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "autograd": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def named_tensors(model):
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


SAME = nn.Conv2d(3, 3, 3, padding=1)  # one module at two places of one network

FIELDS = {
    # plain chains
    "one convolution": (chain(conv()), (3, 3)),
    "two convolutions": (chain(conv(), conv()), (5, 5)),  # 3 + 2
    "the last stride does not count": (chain(conv(), conv(stride=2)), (5, 5)),  # 3 + 2
    "the first stride does": (chain(conv(stride=2), conv()), (7, 7)),  # 3 + 2*2
    "dilation": (chain(conv(dilation=3)), (7, 7)),  # 1 + 2*3
    "dilation after a stride": (chain(conv(stride=2), conv(dilation=4)), (19, 19)),  # 3 + 2*4*2
    "stride and dilation in one": (chain(conv(stride=2, dilation=2), conv()), (9, 9)),  # 5 + 2*2
    "even kernels": (chain(conv(2, padding=0), conv(2, padding=0)), (3, 3)),  # 2 + 1
    "patches": (chain(conv(4, stride=4, padding=0), conv()), (12, 12)),  # 4 + 2*4
    "gaps between strided windows": (chain(conv(1, stride=4), conv()), (9, 9)),  # 1 + 2*4
    "a kernel that is not square": (chain(conv((3, 5))), (3, 5)),
    "a row and a column": (chain(conv((1, 7)), conv((5, 1))), (5, 7)),
    "a stride that is not square": (chain(conv(stride=(2, 1)), conv()), (7, 5)),  # 3 + 2*2, 3 + 2
    "a dilation that is not square": (chain(conv(dilation=(1, 3))), (3, 7)),
    "no padding": (chain(conv(padding=0), conv(5, padding=0)), (7, 7)),  # 3 + 4
    "more padding than needed": (chain(conv(padding=7)), (3, 3)),
    "padding='same' of an even kernel": (chain(nn.Conv2d(3, 3, 4, padding="same")), (4, 4)),
    "a kernel as large as the image": (chain(conv(31), conv()), (33, 33)),  # 31 + 2
    "grouped": (chain(conv(inputs=3, outputs=6, groups=3), conv(inputs=6)), (5, 5)),
    "padding by reflection": (chain(conv(padding_mode="reflect")), (3, 3)),
    "padding by repetition": (chain(conv(padding_mode="replicate"), conv()), (5, 5)),
    "padding around the corner": (chain(conv(padding_mode="circular"), conv()), (5, 5)),
    # pooling and resizing
    "max-pooling counts": (chain(nn.MaxPool2d(2), conv()), (6, 6)),  # 2 + 2*2
    "average pooling counts": (chain(nn.AvgPool2d(3, 2, 1), conv()), (7, 7)),  # 3 + 2*2
    "dilated max-pooling": (chain(nn.MaxPool2d(3, 1, 1, dilation=2)), (5, 5)),  # 1 + 2*2
    "max-pooling, rounded up": (chain(nn.MaxPool2d(3, 2, ceil_mode=True), conv()), (7, 7)),  # 3 + 2*2
    "L2 pooling": (chain(nn.LPPool2d(2, 2), conv()), (6, 6)),  # 2 + 2*2
    "adaptive pooling to 8": (chain(nn.AdaptiveAvgPool2d(8), conv()), (12, 12)),  # 4 + 2*4
    "adaptive pooling to 5": (chain(nn.AdaptiveAvgPool2d(5)), (8, 8)),  # floor(2*32/5) = 12 .. ceil(3*32/5) = 20
    "adaptive max-pooling": (chain(nn.AdaptiveMaxPool2d(16)), (2, 2)),
    "windows by unfold": (Net(lambda self, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))), (2, 2)),
    "maximum of slices": (Net(larger_of_neighbours), (2, 2)),
    "transposed, each pixel once": (chain(conv(stride=2), nn.ConvTranspose2d(3, 3, 2, 2)), (3, 3)),  # one tap a phase
    "transposed, windows overlap": (chain(conv(stride=2), nn.ConvTranspose2d(3, 3, 4, 2, 1)), (5, 5)),  # two: 3 + 2
    # even positions have one tap, odd ones two: 3 + 2
    "transposed, phases differ": (chain(conv(stride=2), nn.ConvTranspose2d(3, 3, 3, 2, 1, 1)), (5, 5)),
    # taps two apart on every second position: three pixels, or none
    "transposed and dilated": (chain(nn.ConvTranspose2d(3, 3, 3, 2, 2, dilation=2)), (3, 3)),
    "upsampling by copies": (chain(conv(), nn.Upsample(scale_factor=2), conv()), (4, 4)),  # j = 1/2: 3 + 1
    # three positions, half a pixel apart, each between two pixels: -1 .. 1
    "bilinear upsampling": (chain(nn.Upsample(scale_factor=2, mode="bilinear"), conv()), (3, 3)),
    "upsampling by 3/2": (chain(nn.Upsample(scale_factor=1.5), conv()), (3, 3)),  # floor(2o/3): 0 0 1 2 2 3
    "pixel shuffle": (chain(conv(stride=2, outputs=12), nn.PixelShuffle(2), conv()), (5, 5)),  # 3 + 2
    "pixel unshuffle": (chain(nn.PixelUnshuffle(2), conv(inputs=12)), (6, 6)),  # 2 + 2*2
    "down and up again": (
        Net(lambda s, x: s.c(x + F.interpolate(s.b(s.a(x)), scale_factor=2)), a=conv(stride=2), b=conv(), c=conv()),
        (9, 9),  # 3 + 2*2 = 7 at j = 2; copied, a 3x3 sees two neighbours: + 2
    ),
    # branches
    "a residual addition": (Net(lambda s, x: x + s.b(s.a(x)), a=conv(), b=conv()), (5, 5)),
    "a shortcut wider than its block": (Net(lambda s, x: s.b(x) + s.a(x), a=conv(), b=conv(7)), (7, 7)),
    "branches of different width, concatenated": (
        Net(lambda s, x: s.d(torch.cat([s.a(x), s.b(x), s.c(x)], 1)), a=conv(1), b=conv(), c=conv(5), d=conv(1, 9)),
        (5, 5),
    ),
    "a dense connection": (Net(dense, a=conv(), b=conv(inputs=6)), (5, 5)),
    # one sees 2 pixels to the left and up, the other 2 to the right and down
    "branches that look to different sides": (Net(past_and_future, a=conv(padding=0), b=conv(padding=0)), (5, 5)),
    "a crop to the same size": (Net(lambda s, x: s.a(x) + x[..., 2:-2, 2:-2], a=conv(5, padding=0)), (5, 5)),
    "a difference of two convolutions": (Net(lambda s, x: s.a(x) - s.b(x), a=conv(), b=conv()), (3, 3)),
    "channels split and joined": (Net(halves, channels=4, a=conv(3, 2, 2), b=conv(5, 1, 2)), (5, 5)),
    "a branch that leads nowhere": (Net(dead_branch, a=conv(), wide=conv(9, dilation=2)), (3, 3)),
    "a branch that is written into a tensor": (
        Net(hand_written_concatenation, a=conv(), b=conv(7), c=conv(1, 6)),
        (7, 7),
    ),
    # the same thing twice
    "a module called twice": (chain(SAME, nn.ReLU(), SAME), (5, 5)),
    "a module in a loop": (Net(loop, a=conv()), (7, 7)),  # 3 + 2 + 2
    "weights used twice": (
        Net(lambda s, x: F.conv2d(F.conv2d(x, s.w, padding=1), s.w, padding=2, dilation=2), w=kernels(3, 3, 3, 3)),
        (7, 7),  # 3 + 2*2
    ),
    # other ways to write it
    # 3 + 1
    "functions only": (Net(lambda s, x: F.max_pool2d(F.relu(F.conv2d(x, s.w)), 2), w=kernels(3, 3, 3, 3)), (4, 4)),
    "every second pixel by slicing": (Net(lambda s, x: s.a(x[..., ::2, ::2]), a=conv()), (5, 5)),  # 1 + 2*2
    "space to depth by slicing": (Net(focus, a=conv(inputs=12)), (6, 6)),  # 2 + 2*2
    "space to depth by reshaping": (Net(blocks_by_reshape, a=conv(inputs=12)), (6, 6)),  # 2 + 2*2
    "depth to space by reshaping": (Net(depth_to_space, a=conv(stride=2, outputs=12), b=conv()), (5, 5)),  # 3 + 2
    "channel shuffle": (Net(shuffle, a=conv(outputs=4), b=conv(inputs=4)), (5, 5)),
    "a linear layer as 1x1": (Net(channels_last, a=conv(), mix=nn.Linear(3, 3), norm=nn.LayerNorm(3)), (3, 3)),
    "a convolution by unfold": (Net(columns, mix=nn.Linear(27, 3)), (3, 3)),
    "mirrored": (Net(lambda s, x: s.a(x) + s.a(x.flip(3)).flip(3), a=conv((1, 5))), (1, 5)),
    "turned": (Net(lambda s, x: s.a(x.transpose(2, 3)), a=conv((1, 5))), (5, 1)),
    "in place": (Net(in_place, a=conv(), b=conv()), (5, 5)),
    "its own input in place": (Net(frozen_input, a=conv()), (3, 3)),
    "a part without gradients": (Net(frozen, a=conv(), b=conv()), (5, 5)),
    "a detached part": (Net(lambda s, x: s.b(s.a(x).detach()), a=conv(), b=conv()), (5, 5)),
    # what hides pixels from the gradients
    "weights that are zero": (chain(filled(conv(), 0.0)), (3, 3)),
    "negative weights before ReLU": (chain(filled(conv(), -1.0), nn.ReLU(), conv()), (5, 5)),
    "weights that are not numbers": (chain(filled(conv(), float("nan")), conv()), (5, 5)),
    "activations that saturate": (chain(conv(), nn.Sigmoid(), conv(), nn.Tanh(), conv(), nn.Hardswish()), (7, 7)),
    # 1 + 12*2
    "sums that outgrow ReLU6": (Net(relu6_stack, layers=nn.ModuleList(conv() for _ in range(12))), (25, 25)),
    "weights made of weights": (Net(standardised, a=conv()), (3, 3)),
    "weight norm": (chain(nn.utils.parametrizations.weight_norm(conv()), conv()), (5, 5)),
    "dropout that is never off": (Net(lambda s, x: F.dropout(s.a(x), 0.5, training=True), a=conv()), (3, 3)),
    "a mask over the kernel": (chain(Masked()), (2, 3)),
    # what chooses among positions, by values that are all alike behind an activation that saturates: 3 + 1, 3 + 3
    "the larger of two, by a sum": (Net(lambda s, x: larger_by_sum(F.relu(s.a(x))), a=conv()), (3, 4)),
    "the larger of two, by where": (Net(lambda s, x: larger_by_where(F.relu(s.a(x))), a=conv()), (3, 4)),
    "the last of four in order": (Net(lambda s, x: rows_of_four(F.relu(s.a(x))).sort()[0][..., -1], a=conv()), (3, 6)),
    "the best of four": (
        Net(lambda s, x: rows_of_four(F.relu(s.a(x))).topk(1, dim=4).values[..., 0], a=conv()),
        (3, 6),
    ),
    "the median of four": (Net(lambda s, x: rows_of_four(F.relu(s.a(x))).median(-1)[0], a=conv()), (3, 6)),
    "columns in a computed order": (Net(reordered, a=conv()), (3, 3)),
    "arguments by their names": (
        Net(lambda s, x: torch.kthvalue(input=rows_of_four(F.relu(s.a(x))), k=2, dim=-1).values, a=conv()),
        (3, 6),
    ),
    # what looks at everything besides
    "a gate over channels": (Net(gate, a=conv(), mix=conv(1), b=conv()), (5, 5)),
    "a gate over rows and columns": (Net(coordinate_gate, a=conv(), mix=conv(1), b=conv()), (5, 5)),
    "gates that see their neighbours": (Net(strip_gate, a=conv(), rows=conv((3, 1)), columns=conv((1, 3))), (5, 5)),
    "attention between all positions": (
        Net(attention, channels=4, a=conv(outputs=4), attend=nn.MultiheadAttention(4, 2, batch_first=True)),
        (3, 3),
    ),
    "kernels chosen by the image": (
        Net(kernels_by_image, a=conv(), mix=nn.Linear(3, 2), both=kernels(2, 3, 3, 3, 3)),
        (5, 5),
    ),
    "an average that is spread over the map again": (
        Net(lambda s, x: spread(s, x, align_corners=False), a=conv(), b=conv(31, inputs=6)),
        (33, 33),  # 3 + 30: wider than the image
    ),
    "an average that is spread, corners aligned": (Net(spread, a=conv(), b=conv(inputs=6)), (5, 5)),
    "rows that are spread, corners aligned": (Net(stretched, a=conv(), b=conv()), (5, 5)),
    "group norm": (chain(conv(), nn.GroupNorm(1, 3), nn.ReLU(), conv()), (5, 5)),
    "instance norm": (chain(conv(), nn.InstanceNorm2d(3), conv()), (5, 5)),
    "batch norm without memory": (chain(conv(), nn.BatchNorm2d(3, track_running_stats=False), conv()), (5, 5)),
}
