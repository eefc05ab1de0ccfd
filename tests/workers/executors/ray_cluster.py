"""A Ray cluster of several nodes on this machine, each with a raylet of its own; the head has no processors."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

# a busy machine must not look dead, and a dead one be seen in seconds
_SYSTEM = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "agent_register_timeout_ms": 120_000}
_STORE_BYTES = 80 << 20
# jsonschema, which each process of Ray imports, uses this library of the test tools where it is installed: it compiles
# a grammar for seconds
_SLOW_LIBRARY = "rfc3987_syntax"
_STARTS = 3  # Ray gives up after 30 s, which a node may need on a busy machine


class RayCluster:
    """Nodes of a few processors each.

    Args:
        environment: of the raylets, and of the processes below them.
        cpus: of each node.
    """

    def __init__(self, environment, cpus=1):
        self._environment, self._cpus = environment, cpus
        head: dict[str, Any] = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "_system_config": _SYSTEM}
        self._cluster = Cluster()
        self._start(**head)
        self.address: str = self._cluster.address

    @property
    def nodes(self):
        """Those that live, without the head."""
        return sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id))

    def grow(self, count):
        """Add nodes until there are so many."""
        while len(self._cluster.worker_nodes) < count:
            self._start(num_cpus=self._cpus, object_store_memory=_STORE_BYTES)

    def kill_raylet(self, node_id):
        """SIGKILL, as when the machine is switched off."""
        node = next(node for node in self._cluster.worker_nodes if node.node_id == node_id)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._cluster.worker_nodes.discard(node)
        node.kill_all_processes(check_alive=False, allow_graceful=False)

    def close(self):
        self._cluster.shutdown()

    def _start(self, **arguments):
        with self._in_environment():
            for trial in range(_STARTS):
                try:
                    self._cluster.add_node(**arguments)
                    return
                except Exception as error:  # Ray raises no other
                    if trial == _STARTS - 1:
                        pytest.skip(f"Ray does not start on this machine: {error}")

    @contextlib.contextmanager
    def _in_environment(self):
        before = dict(os.environ)
        os.environ.update(self._environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def quick_imports(folder):
    """A folder that makes Ray's processes start sooner when it is the first of their PYTHONPATH."""
    folder.mkdir()
    (folder / f"{_SLOW_LIBRARY}.py").write_text("raise ImportError('it is left out')\n")
    return folder


def free_processors():
    return float(ray.available_resources().get("CPU", 0.0))


def all_free(count):
    """Whether no bundle holds any of ``count`` processors."""
    return lambda: free_processors() == count
