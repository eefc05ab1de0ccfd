"""What is kept between steps, seen from outside: the memory of a process that meets ever new shapes."""

import os
import subprocess
import sys

import pytest
import torch

_MEETS_NEW_SHAPES = """
import ctypes, sys
import torch
from lcl_core.common.device import limit_onednn_cache

class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Usage
if sys.argv[1] == "few":
    limit_onednn_cache()
weight = torch.ones(64, 32, dtype=torch.bfloat16)

def meet(sizes):
    for size in sizes:
        torch.ones(size, 64, dtype=torch.bfloat16) @ weight

meet(range(3, 300))
before = library.mallinfo2()
meet(range(300, 900))
after = library.mallinfo2()
print(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd)
"""


def _growth(how, environment):
    command = [sys.executable, "-c", _MEETS_NEW_SHAPES, how]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.extended
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc how much is in use")
@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="oneDNN multiplies bf16 on CPUs that can")
def test_shapes_of_steps_long_past_are_forgotten():
    variables = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    environment["OMP_NUM_THREADS"] = "1"
    everything = _growth("all", environment)
    assert _growth("few", environment) < 0.3 * everything
    asked_for = environment | dict.fromkeys(variables, "1024")
    assert _growth("few", asked_for) > 0.9 * everything
