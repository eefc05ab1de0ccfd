"""``LCL_EXECUTOR=ray pytest -n 0 tests/workers/test_*.py tests/chaos``: the local executor's suites on a Ray cluster.

The cluster has four raylets and lives as long as the tests. Tests marked ``local_executor`` are left out. They are
about what Ray does itself (leases of devices, gangs of workers), or about processes that end with their worker: on Ray
they go on, and another worker attaches to them (``tests/workers/executors/test_ray.py``).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ON_RAY = os.environ.get("LCL_EXECUTOR") == "ray"
_RAYLETS, _CPUS = 4, 2
_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session", autouse=ON_RAY)
def ray_suite(tmp_path_factory):
    """A cluster that workers find by ``LCL_RAY_ADDRESS``; this process is one of its drivers, for workers within it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'lcl[ray]'")
    from tests.workers.executors.ray_cluster import RayCluster, quick_imports
    from workers.executors.ray import RayExecutor
    from workers.settings import WorkerSettings

    quick = quick_imports(tmp_path_factory.mktemp("quick") / "imports")
    path = f"{quick}:{_ROOT / 'tests' / 'workers'}:{_ROOT}"
    cluster = RayCluster({"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}, cpus=_CPUS)
    try:
        cluster.grow(_RAYLETS)
        os.environ["LCL_RAY_ADDRESS"] = cluster.address
        os.environ["LCL_RAY_DETACH"] = "false"  # as on one machine, a worker that leaves hands its runs back
        with RayExecutor(WorkerSettings()).serving([]):
            yield
    finally:
        cluster.close()


@pytest.fixture(autouse=ON_RAY)
def skip_on_ray(request):
    if request.node.get_closest_marker("local_executor") is not None:
        pytest.skip("it is about the executor local")
