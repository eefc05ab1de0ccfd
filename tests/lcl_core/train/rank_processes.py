"""Processes that play the ranks of one training."""

from __future__ import annotations

from tests.module_process import run_together


def run_ranks(commands):
    """Start all, wait for all, leave none; each must succeed."""
    # the loopback interface alone: the machine's name may lead elsewhere
    for done in run_together(commands, GLOO_SOCKET_IFNAME="lo"):
        assert done.returncode == 0, done.stderr
