"""Parts on a Ray cluster of several raylets: the bytes of one process, also when a machine is lost."""

import errno
import os
import signal
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.part_runners import MAX_ATTEMPTS, RAY_ADDRESS, PartTask, task_threads

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'lcl[ray]'")

from lcl_core.collections.file_format import MANIFEST  # noqa: E402
from lcl_core.collections.index_job import run_index_job  # noqa: E402
from lcl_core.data.shards.convert import convert_parts  # noqa: E402
from lcl_core.parts_ray import RayRunner, start_ray_runner  # noqa: E402
from tests.lcl_core.collections.test_index_job import prepare  # noqa: E402
from tests.lcl_core.data.shards.part_sources import (  # noqa: E402
    LENGTHS,
    PART_ITEMS,
    SHARD_BYTES,
    NumberedSource,
    contents,
)
from tests.lcl_core.test_part_runners import Sample, nothing  # noqa: E402
from tests.workers.executors.ray_cluster import RayCluster, all_free, quick_imports  # noqa: E402

ROOT = Path(__file__).parents[2]
NODES = 2


@pytest.fixture(scope="module")
def connected(tmp_path_factory):
    """A cluster with this process as a driver."""
    quick = quick_imports(tmp_path_factory.mktemp("quick") / "imports")
    cluster = RayCluster({"PYTHONPATH": f"{quick}:{ROOT}", "RAY_USAGE_STATS_ENABLED": "0"})
    cluster.grow(NODES)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.close()


@pytest.fixture
def cluster(connected, eventually):
    connected.grow(NODES)
    eventually(all_free(NODES), "free nodes")
    return connected


class Placed(Sample):
    """Also tells where it is, and may wait there to be lost."""

    def __call__(self, arguments, report):
        if arguments["act"] == "be lost":
            wait_to_be_lost(arguments["file"], arguments["but"])
        return super().__call__(arguments, report) | {"node": ray.get_runtime_context().get_node_id()}


def wait_to_be_lost(file, but):
    """The first time on a machine that is not ``but``: write which one it is, and do nothing more."""
    node = ray.get_runtime_context().get_node_id()
    if node == but:
        return
    try:
        with Path(file).open("x") as opened:
            opened.write(node)
    except FileExistsError:
        return
    signal.pause()


class Loss:
    """As a report of progress: switches a machine off when a task waits for that.

    Attributes:
        but: the machine that this process is connected to.
    """

    def __init__(self, cluster, file):
        self._cluster, self.file, self.lost = cluster, file, ""
        self.but = ray.get_runtime_context().get_node_id()

    def __call__(self, items):
        if not self.lost and self.file.exists() and (node := self.file.read_text()):
            self.lost = node
            self._cluster.kill_raylet(node)


def run(runner, tasks, report=nothing):
    """Results by the order of the tasks."""
    waiting = [PartTask(task, f"task {number}") for number, task in enumerate(tasks)]
    labels = [task.label for task in waiting]
    results = {}
    with runner:
        while len(results) < len(labels):
            while waiting and runner.idle:
                runner.submit(waiting.pop(0))
            results.update((task.label, result) for task, result in runner.wait(report))
    return [results[label] for label in labels]


def test_tasks_run_on_several_machines_and_deaths_cost_one_task(cluster, tmp_path):
    tasks = [{"act": "echo", "value": number} for number in range(8)]
    tasks[3] = {"act": "die once", "value": str(tmp_path / "died")}
    results = run(RayRunner(2, cluster.address, 0, Placed), tasks)
    assert [result["value"] for result in results] == [0, 1, 2, str(tmp_path / "died"), 4, 5, 6, 7]
    assert {result["node"] for result in results} == {node.node_id for node in cluster.nodes}
    assert os.getpid() not in {result["pid"] for result in results}


@pytest.mark.parametrize(
    ("act", "check"),
    [
        ("user", lambda error: (error.code, error.field, error.file, error.line) == ("bad", "f", "x", 3)),
        ("disk", lambda error: (error.errno, error.filename) == (errno.ENOSPC, "/x")),
        ("bug", lambda error: "ValueError: a bug" in str(error) and "task 0" in str(error)),
        ("die", lambda error: error.code == "part_failed" and f"{MAX_ATTEMPTS} times" in error.message),
    ],
)
def test_errors_arrive_as_they_were_raised(cluster, act, check):
    with pytest.raises((UserError, OSError, RuntimeError)) as caught:
        run(RayRunner(1, cluster.address, 0, Sample), [{"act": act}])
    assert check(caught.value), caught.value


def test_a_lost_machine_costs_its_own_tasks(cluster, tmp_path):
    loss = Loss(cluster, tmp_path / "lost")
    tasks = [{"act": "be lost", "value": number, "file": str(loss.file), "but": loss.but} for number in range(8)]
    results = run(RayRunner(2, cluster.address, 0, Placed), tasks, loss)
    assert [result["value"] for result in results] == list(range(8))
    assert loss.lost
    assert results[-1]["node"] != loss.lost


def test_without_a_place_the_calling_process_does_the_work(cluster, monkeypatch):
    monkeypatch.setattr("lcl_core.parts_ray.PLACE_SECONDS", 0.5)
    blocked = [_occupy.remote() for _ in range(NODES)]
    try:
        results = run(start_ray_runner(2, cluster.address, 0, Sample), [{"act": "echo"}] * 3)
    finally:
        for reference in blocked:
            ray.cancel(reference, force=True)
    assert {result["pid"] for result in results} == {os.getpid()}


@ray.remote(num_cpus=1, max_retries=0)
def _occupy():
    signal.pause()


def test_what_report_raises_gives_the_places_back(cluster, eventually, tmp_path):
    started = tmp_path / "started"

    def stop(items):
        if started.exists():
            raise KeyboardInterrupt

    def interrupted():
        with RayRunner(1, cluster.address, 0, Endless) as runner:
            runner.submit(PartTask({"file": str(started)}, "one"))
            while not runner.wait(stop):
                pass

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    eventually(all_free(NODES), "free nodes")


class Endless:
    """Never finishes."""

    def __call__(self, arguments, report):
        Path(arguments["file"]).touch()
        signal.pause()
        return {}


class LostSource(NumberedSource):
    """One of the machines on which it is read is lost."""

    def __init__(self, observed, file, but):
        super().__init__(LENGTHS, observed)
        self._file, self._but = file, but

    def _item(self, key, number):
        if key == "a" and number > 20 and number % PART_ITEMS == 2:
            wait_to_be_lost(self._file, self._but)
        return super()._item(key, number)


def test_a_conversion_that_loses_a_machine_has_the_bytes_of_one_process(cluster, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    convert_parts(NumberedSource(LENGTHS), whole, tmp_path / "alone", SHARD_BYTES, part_items=PART_ITEMS)
    monkeypatch.setenv(RAY_ADDRESS, cluster.address)
    assert task_threads(2) == 1
    loss, observed = Loss(cluster, tmp_path / "lost"), tmp_path / "observed"
    convert_parts(
        LostSource(observed, str(loss.file), loss.but),
        tmp_path / "made",
        tmp_path / "work",
        SHARD_BYTES,
        processes=2,
        on_progress=loss,
        part_items=PART_ITEMS,
    )
    assert loss.lost
    assert contents(tmp_path / "made") == contents(whole)
    read = observed.read_text().splitlines()
    assert len(read) - len(set(read)) <= PART_ITEMS


def test_an_index_run_has_the_bytes_of_a_pool(cluster, tmp_path, sample_zip, encoder, monkeypatch):
    made = []
    for name in ("pool", "ray"):
        if name == "ray":
            monkeypatch.setenv(RAY_ADDRESS, cluster.address)
        run_dir = prepare(tmp_path / name, sample_zip, encoder, splits=["val"], processes=2)
        run_index_job(run_dir, part_items=64)
        made.append(contents(run_dir.artifacts / "collection"))
        made[-1].pop(MANIFEST)  # it has the time
    assert made[0] == made[1]
