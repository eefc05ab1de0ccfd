"""Processes that play the ranks of one training."""

from __future__ import annotations

from contextlib import contextmanager

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.module_process import run_together


def run_ranks(commands):
    """Start all, wait for all, leave none; each must succeed."""
    # the loopback interface alone: the machine's name may lead elsewhere
    for done in run_together(commands, GLOO_SOCKET_IFNAME="lo"):
        assert done.returncode == 0, done.stderr


@contextmanager
def fake_group(rank, size):
    """A process group without other processes."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
