"""The device of a run, and the number format that it computes fast."""

from __future__ import annotations

import ctypes
import itertools
import platform
from pathlib import Path

import torch
from torch import nn

from utils.errors import InputError, lookup, one_line

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """The named device, or the best one there is: cuda, then cpu.

    Raises:
        InputError: torch cannot use that device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.device(name).type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("known are cpu, cuda and mps")
        torch.empty(1, device=name)
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # the one of several on which CUDA graphs are made
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here ({one_line(error)}); try --device cpu") from error


def pick_precision(device: torch.device, wish: str = "auto") -> str:
    """The wish or, if that is "auto", what the device does well: "fp32", "bf16" or "fp16".

    bf16 where it is native (CPUs with AVX-512 BF16 or AMX, GPUs from compute capability 8.0), fp16 on older GPUs
    such as Colab's T4, fp32 elsewhere: emulated bf16 is slower than fp32.

    Raises:
        InputError: the wish is none of these.
    """
    if wish != "auto":
        lookup(DTYPES, wish, "precision")
        return wish
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and cpu_has_bf16():
        return "bf16"
    return "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; False where the system does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels last, in which convolutions are fast; the network's own where that is refused: with 5 axes somewhere."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return torch.preserve_format if any(tensor.dim() == 5 for tensor in tensors) else torch.channels_last


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is torch's way, on any device, to say that there is no memory left."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next tensors, instead of returning it to the system.

    Every step of a training on the CPU allocates and frees the same megabytes. Getting them from the system page
    by page took a fifth of the time: 443 us an image against 348, S7Net forward and backward on two cores.

    Returns:
        Whether it took effect; False where there is no glibc.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(trim_threshold, 1 << 30) and libc.mallopt(mmap_threshold, 32 << 20))
    except (OSError, AttributeError):
        return False


def autocast(device: torch.device, precision: str):
    """The context in which a forward pass runs in `precision` ("fp32": as it is)."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def describe_hardware(device: torch.device) -> str:
    """One line for logs: the GPU's name, or the CPU's with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a CPU that does not say: the plain name will do
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
