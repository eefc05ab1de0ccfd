"""Prometheus metrics: those of this process, and those of the deployment, read from the database at the scrape.

Every process of the api reports the same deployment metrics: take the ``max`` over instances, never the ``sum``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

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

log = structlog.get_logger(__name__)
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # clients may send any token, series are kept
GPU_GAUGES = {
    "utilization": ("lcl_gpu_utilization", "Share of the time in which the GPU computed, 0 to 1"),
    "memory_used": ("lcl_gpu_memory_used_bytes", "Memory of the GPU that is taken"),
    "memory_total": ("lcl_gpu_memory_bytes", "Memory of the GPU"),
}


class ServiceMetrics:
    """One registry an application, so that a process may have several applications.

    Args:
        home: whose disk is reported.
        encoder_bytes: memory of loaded encoders.
    """

    def __init__(self, database: Database, home: Path, encoder_bytes: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        words = "Time from request to answer"
        labels = ("method", "route", "status")
        self._seconds = Histogram("lcl_request_seconds", words, labels, buckets=LATENCY_BUCKETS, registry=registry)
        words = "Time from when an item was handed to an encoder to its answer, waiting for company included"
        self._inference = Histogram(
            "lcl_inference_seconds", words, ("what",), buckets=LATENCY_BUCKETS, registry=registry
        )
        words = "Items that went through an encoder together"
        self._batch = Histogram(
            "lcl_inference_batch_items", words, ("what",), buckets=BATCH_SIZE_BUCKETS, registry=registry
        )
        memory = Gauge("lcl_encoder_memory_bytes", "Memory that loaded encoders take", registry=registry)
        memory.set_function(encoder_bytes)
        size = Gauge("lcl_disk_bytes", "Size of the disk", ("folder",), registry=registry)
        size.labels(str(home)).set_function(lambda: shutil.disk_usage(home).total)
        free = Gauge("lcl_disk_free_bytes", "Free disk space", ("folder",), registry=registry)
        free.labels(str(home)).set_function(lambda: shutil.disk_usage(home).free)
        registry.register(DatabaseCollector(database))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. ``status`` 0: the client disconnected before the response began."""
        self._seconds.labels(method if method in METHODS else "other", route, str(status)).observe(seconds)

    def observe_batch(self, what: str, waited: list[float]) -> None:
        """Count one batch of an encoder. ``waited``: seconds from arrival to result of each item."""
        self._batch.labels(what).observe(len(waited))
        for seconds in waited:
            self._inference.labels(what).observe(seconds)


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
                metrics = list(_deployment_metrics(session))
        except UNREACHABLE as error:
            log.warning("database_unreachable", error=str(error))
            metrics = []
        yield _gauge("lcl_database_up", "Whether the database answers", float(bool(metrics)))
        yield from metrics


def _deployment_metrics(session: Session) -> Iterator[Metric]:
    states = {(state,): count for state, count in runs.count_runs_by_state(session).items()}
    yield _gauge("lcl_runs", "Runs in the database", states, "state")
    words = "Unfinished runs whose last attempt ended with the loss of their worker"
    yield _gauge("lcl_runs_lost", words, lost_runs(session))
    found = queue_depths(session)  # of every queue below: an intermittent series has no rate and raises no alert
    queues = {queue: found.get(queue, (0, 0.0)) for queue in product(JOB_KINDS, RESOURCE_CLASSES)}
    depths = {queue: depth for queue, (depth, _) in queues.items()}
    yield _gauge("lcl_queue_depth", "Runs that a worker may take", depths, "kind", "class")
    waits = {queue: seconds for queue, (_, seconds) in queues.items()}
    words = "Time for which the first of them could have been taken"
    yield _gauge("lcl_queue_oldest_seconds", words, waits, "kind", "class")
    workers = worker_stats(session)
    yield _gauge("lcl_workers", "Workers that gave a sign of life lately", workers.workers)
    yield _gauge("lcl_worker_slots", "Runs that they can be at together", workers.slots)
    yield _gauge("lcl_worker_slots_used", "Runs that some worker holds", workers.slots_used)
    gpus = {(worker, str(number), use["name"]): use for worker, number, use in gpu_usage(session)}
    for figure, (name, words) in GPU_GAUGES.items():
        values = {gpu: use[figure] for gpu, use in gpus.items() if use[figure] is not None}
        yield _gauge(name, words, values, "worker", "gpu", "name")
    count, seconds = pending_uploads(session)
    words = "Folders of runs and what they made that are not in the store of artifacts yet"
    yield _gauge("lcl_artifacts_pending", words, count)
    yield _gauge("lcl_artifacts_oldest_seconds", "Time since the first of them was enqueued", seconds)
    count, seconds = pending_deliveries(session)
    yield _gauge("lcl_webhook_pending", "Messages to webhooks that have not been delivered", count)
    yield _gauge("lcl_webhook_oldest_seconds", "Time since the first of them was written", seconds)


def _gauge(name: str, words: str, values: float | Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """Of one value, or of one for each tuple of the labels' values."""
    family = GaugeMetricFamily(name, words, labels=labels)
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        family.add_metric(key, value)
    return family
