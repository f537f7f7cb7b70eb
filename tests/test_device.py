import ctypes
import subprocess
import sys

import pytest
import torch

from utils.device import DTYPES, cpu_has_bf16, describe_hardware, pick_device, pick_precision
from utils.errors import InputError

CPU = torch.device("cpu")


def test_precision_follows_the_device():
    assert pick_precision(CPU) == ("bf16" if cpu_has_bf16() else "fp32")
    assert pick_precision(CPU, "fp32") == "fp32"
    assert set(DTYPES) == {"fp32", "bf16", "fp16"}


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_t4_computes_in_fp16_and_newer_gpus_in_bf16(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision(torch.device("cuda")) == precision


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="device 'tpu'"):
        pick_device("tpu")


def test_the_hardware_line_says_how_many_threads():
    assert describe_hardware(CPU).endswith(f", {torch.get_num_threads()} threads")


def has_glibc() -> bool:
    try:
        ctypes.CDLL("libc.so.6").gnu_get_libc_version()
    except (OSError, AttributeError):
        return False
    return True


@pytest.mark.skipif(not has_glibc(), reason="only glibc gives freed memory back too early")
def test_freed_memory_is_kept_for_the_next_tensor():
    program = """
import resource, sys, torch
from utils.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for step in range(10):
    activations = [torch.ones(1 << 20) for layer in range(40)]  # 4 MiB each, 1024 pages
    del activations
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", program, mode], capture_output=True, text=True).stdout)
        for mode in ("keep", "return")
    }
    assert faults["keep"] < 1000 < 100_000 < faults["return"]  # 5 steps of 40,960 pages
