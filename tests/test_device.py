import ctypes
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.device import (
    DTYPES,
    cpu_has_bf16,
    describe_hardware,
    keep_freed_memory,
    memory_format,
    pick_device,
    pick_precision,
)
from utils.engine import fit
from utils.errors import InputError

CPU = torch.device("cpu")


def test_precision_follows_the_device():
    assert pick_precision(CPU) == ("bf16" if cpu_has_bf16() else "fp32")
    assert pick_precision(CPU, "fp32") == "fp32"
    assert {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16} == DTYPES


@pytest.mark.parametrize(("flags", "has"), [("avx2 avx512_bf16", True), ("amx_bf16", True), ("avx2 avx512f", False)])
def test_bf16_is_where_the_cpu_has_it(monkeypatch, flags, has):
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags : {flags}")
    assert cpu_has_bf16() is has
    assert pick_precision(CPU) == ("bf16" if has else "fp32")


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_t4_computes_in_fp16_and_newer_gpus_in_bf16(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision(torch.device("cuda")) == precision


def test_a_network_with_a_tensor_of_five_axes_keeps_its_memory_format(tiny, recipe, network):
    assert memory_format(network) is torch.channels_last
    network.append(nn.Unflatten(1, (3, 1, 1, 1))).append(nn.Conv3d(3, 3, 1)).append(nn.Flatten())
    assert memory_format(network) is torch.preserve_format
    fit(network, tiny, recipe)
    assert network[0].weight.is_contiguous()


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="device 'tpu'"):
        pick_device("tpu")


@pytest.mark.parametrize(("threads", "says"), [(1, ", 1 thread"), (3, ", 3 threads")])
def test_the_hardware_line_says_how_many_threads(monkeypatch, threads, says):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert describe_hardware(CPU).endswith(says)


def test_glibc_accepts_to_keep_freed_memory():
    try:
        ctypes.CDLL("libc.so.6").gnu_get_libc_version()
    except (OSError, AttributeError):
        assert not keep_freed_memory()  # another system: nothing is done
    else:
        assert keep_freed_memory()


def test_a_system_without_glibc_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(f"no {name}")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not keep_freed_memory()


def test_one_of_several_gpus_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cuda") == torch.device("cuda")
    assert chosen == [torch.device("cuda:1")]
