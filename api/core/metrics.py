"""Prometheus metrics: those of this process, and those of the deployment, read from the database at the scrape.

Every process of the api reports the same deployment metrics: take the ``max`` over instances, never the ``sum``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from lcl_core.db import runs
from lcl_core.db.artifacts import pending_uploads
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.webhooks import pending_deliveries
from lcl_core.db.workers import gpu_usage, lost_runs, queue_depths, worker_stats
from lcl_core.jobs import JOB_KINDS, RESOURCE_CLASSES

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER_METHOD = "other"  # label of every method that is not in METHODS: clients may send any token, series are kept


class ProcessMetrics:
    """One registry an application, so that a process may have several applications."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._seconds = Histogram(
            "lcl_request_seconds",
            "Time from request to answer",
            ("method", "route", "status"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._inference = Histogram(
            "lcl_inference_seconds",
            "Time from when an item was handed to an encoder to its answer, waiting for company included",
            ("what",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "lcl_inference_batch_items",
            "Items that went through an encoder together",
            ("what",),
            buckets=BATCH_SIZE_BUCKETS,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. ``status`` 0: the client disconnected before the response began."""
        label = method if method in METHODS else OTHER_METHOD
        self._seconds.labels(label, route, str(status)).observe(seconds)

    def observe_batch(self, what: str, waited: list[float]) -> None:
        """Count one batch of an encoder. ``waited``: seconds from arrival to result of each item."""
        self._batch.labels(what).observe(len(waited))
        for seconds in waited:
            self._inference.labels(what).observe(seconds)

    def register(self, collector: Collector) -> None:
        self.registry.register(collector)

    def export_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Export a gauge whose value ``read`` returns at each scrape."""
        Gauge(name, description, registry=self.registry).set_function(read)

    def export_disks(self, folders: Sequence[Path]) -> None:
        """Export ``lcl_disk_bytes`` and ``lcl_disk_free_bytes`` for the disk of each folder: its size, and what is free
        for this process. NaN where the system reports an error.
        """
        figures = {"total": ("lcl_disk_bytes", "Size of the disk"), "free": ("lcl_disk_free_bytes", "Free disk space")}
        for figure, (name, description) in figures.items():
            gauge = Gauge(name, description, ("folder",), registry=self.registry)
            for folder in folders:
                gauge.labels(str(folder)).set_function(partial(_read_disk, folder, figure))


def _read_disk(folder: Path, figure: str) -> float:
    try:
        return float(getattr(shutil.disk_usage(folder), figure))
    except OSError:
        return math.nan


log = structlog.get_logger(__name__)
_GPU_GAUGES = {
    "utilization": ("lcl_gpu_utilization", "Share of the time in which the GPU computed, 0 to 1"),
    "memory_used": ("lcl_gpu_memory_used_bytes", "Memory of the GPU that is taken"),
    "memory_total": ("lcl_gpu_memory_bytes", "Memory of the GPU"),
}


class DatabaseCollector(Collector):
    """Queries the database at each scrape. Without a database only ``lcl_database_up`` is exported."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        """Empty, so that registration does not query the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._database.reading() as session:
                metrics = [metric for section in _SECTIONS for metric in section(session)]
        except UNREACHABLE as error:
            log.warning("database_unreachable", error=str(error))
            metrics = []
        yield GaugeMetricFamily("lcl_database_up", "Whether the database answers", value=float(bool(metrics)))
        yield from metrics


def _runs(session: Session) -> Iterator[Metric]:
    family = GaugeMetricFamily("lcl_runs", "Runs in the database", labels=("state",))
    for state, number in runs.count_runs_by_state(session).items():
        family.add_metric((state,), number)
    yield family
    words = "Unfinished runs whose last attempt ended with the loss of their worker"
    yield GaugeMetricFamily("lcl_runs_lost", words, value=lost_runs(session))


def _queues(session: Session) -> Iterator[Metric]:
    labels = ("kind", "class")
    depth = GaugeMetricFamily("lcl_queue_depth", "Runs that a worker may take", labels=labels)
    oldest = GaugeMetricFamily(
        "lcl_queue_oldest_seconds", "Time for which the first of them could have been taken", labels=labels
    )
    queues = queue_depths(session)
    for key in product(JOB_KINDS, RESOURCE_CLASSES):  # all: an intermittent series has no rate and raises no alert
        runs_queued, seconds = queues.get(key, (0, 0.0))
        depth.add_metric(key, runs_queued)
        oldest.add_metric(key, seconds)
    yield from (depth, oldest)


def _workers(session: Session) -> Iterator[Metric]:
    found = worker_stats(session)
    yield GaugeMetricFamily("lcl_workers", "Workers that gave a sign of life lately", value=found.workers)
    yield GaugeMetricFamily("lcl_worker_slots", "Runs that they can be at together", value=found.slots)
    yield GaugeMetricFamily("lcl_worker_slots_used", "Runs that some worker holds", value=found.slots_used)


def _gpus(session: Session) -> Iterator[Metric]:
    labels, found = ("worker", "gpu", "name"), gpu_usage(session)
    for figure, (name, words) in _GPU_GAUGES.items():
        family = GaugeMetricFamily(name, words, labels=labels)
        for worker, number, use in found:
            if use[figure] is not None:
                family.add_metric((worker, str(number), use["name"]), use[figure])
        yield family


def _webhooks(session: Session) -> Iterator[Metric]:
    count, seconds = pending_deliveries(session)
    yield GaugeMetricFamily("lcl_webhook_pending", "Messages to webhooks that have not been delivered", value=count)
    yield GaugeMetricFamily("lcl_webhook_oldest_seconds", "Time since the first of them was written", value=seconds)


def _artifacts(session: Session) -> Iterator[Metric]:
    count, seconds = pending_uploads(session)
    words = "Folders of runs and what they made that are not in the store of artifacts yet"
    yield GaugeMetricFamily("lcl_artifacts_pending", words, value=count)
    words = "Time since the first of them was enqueued"
    yield GaugeMetricFamily("lcl_artifacts_oldest_seconds", words, value=seconds)


_SECTIONS = (_runs, _queues, _workers, _gpus, _artifacts, _webhooks)
