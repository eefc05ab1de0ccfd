"""Prometheus figures of the whole house, read from the database at the moment of the scrape.

Every api of a deployment tells the same ones: take the ``max`` over instances, never the ``sum``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, product

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from lcl_core.kinds import CLASSES, KINDS
from lcl_core.runs import store
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.deposits import count_pending
from lcl_core.runs.figures import crew, gpus_in_use, queues
from lcl_core.runs.outbox import pending
from lcl_core.runs.tallies import FAMILIES, INFINITE, Family, Series, read_tallies

log = structlog.get_logger(__name__)
_OF_A_GPU = {
    "utilization": ("lcl_gpu_utilization", "Share of the time in which the GPU computed, 0 to 1"),
    "memory_used": ("lcl_gpu_memory_used_bytes", "Memory of the GPU that is taken"),
    "memory_total": ("lcl_gpu_memory_bytes", "Memory of the GPU"),
}


class Census(Collector):
    """Asks the database once a scrape. One that does not answer costs these figures, not the scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._database.reading() as session:
                found = [metric for part in _PARTS for metric in part(session)]
        except UNREACHABLE as error:
            log.warning("database_unreachable", error=str(error))
            found = []
        yield GaugeMetricFamily("lcl_database_up", "Whether the database answers", value=float(bool(found)))
        yield from found


def _runs(session: Session) -> Iterator[Metric]:
    family = GaugeMetricFamily("lcl_runs", "Runs in the database", labels=("state",))
    for state, number in store.count_by_state(session).items():
        family.add_metric((state,), number)
    yield family


def _queues(session: Session) -> Iterator[Metric]:
    labels = ("kind", "class")
    depth = GaugeMetricFamily("lcl_queue_depth", "Runs that a worker may take", labels=labels)
    oldest = GaugeMetricFamily(
        "lcl_queue_oldest_seconds", "Time for which the first of them could have been taken", labels=labels
    )
    found = {(queue.kind, queue.resource): queue for queue in queues(session)}
    for place in product(KINDS, CLASSES):  # all of them: a series that comes and goes has no rate and raises no alert
        queue = found.get(place)
        depth.add_metric(place, queue.depth if queue else 0)
        oldest.add_metric(place, queue.oldest_seconds if queue else 0.0)
    yield from (depth, oldest)


def _crew(session: Session) -> Iterator[Metric]:
    found = crew(session)
    yield GaugeMetricFamily("lcl_workers", "Workers that gave a sign of life lately", value=found.workers)
    yield GaugeMetricFamily("lcl_worker_slots", "Runs that they can be at together", value=found.slots)
    yield GaugeMetricFamily("lcl_worker_slots_used", "Runs that some worker holds", value=found.slots_used)
    if found.consumed_seconds is not None:
        words = "Time since a worker last took a message off the broker"
        yield GaugeMetricFamily("lcl_broker_consumed_seconds", words, value=found.consumed_seconds)


def _gpus(session: Session) -> Iterator[Metric]:
    labels, found = ("worker", "gpu", "name"), gpus_in_use(session)
    for figure, (name, words) in _OF_A_GPU.items():
        family = GaugeMetricFamily(name, words, labels=labels)
        for worker, number, use in found:
            if use[figure] is not None:
                family.add_metric((worker, str(number), use["name"]), use[figure])
        yield family


def _tallies(session: Session) -> Iterator[Metric]:
    found = read_tallies(session)
    for family in FAMILIES:
        series = found.get(family.name) or ([] if set(family.labels) != {"kind"} else _zeros())
        yield _histogram(family, series) if family.bounds else _counter(family, series)


def _webhooks(session: Session) -> Iterator[Metric]:
    count, seconds = pending(session)
    yield GaugeMetricFamily("lcl_webhook_pending", "Messages to webhooks that have not been delivered", value=count)
    yield GaugeMetricFamily("lcl_webhook_oldest_seconds", "Time since the first of them was written", value=seconds)


def _artifacts(session: Session) -> Iterator[Metric]:
    words = "Folders of runs and what they made that are not in the store of artifacts yet"
    yield GaugeMetricFamily("lcl_artifacts_pending", words, value=count_pending(session))


def _zeros() -> list[Series]:
    """Counters begin at zero, so that the first loss already is a rise."""
    return [Series({"kind": kind}, {}, 0.0) for kind in KINDS]


def _counter(family: Family, found: list[Series]) -> Metric:
    metric = CounterMetricFamily(family.name, family.words, labels=family.labels)
    for series in found:
        metric.add_metric([series.labels[name] for name in family.labels], series.total)
    return metric


def _histogram(family: Family, found: list[Series]) -> Metric:
    """Prometheus counts what is at most the bound; the table what fell into each bucket alone."""
    metric = HistogramMetricFamily(family.name, family.words, labels=family.labels)
    bounds = [*(f"{bound:g}" for bound in family.bounds), INFINITE]
    for series in found:
        heights = accumulate(series.counts.get(bound, 0) for bound in bounds)
        buckets = list(zip(bounds, heights, strict=True))
        metric.add_metric([series.labels[name] for name in family.labels], buckets, series.total)
    return metric


_PARTS = (_runs, _queues, _crew, _gpus, _artifacts, _webhooks, _tallies)
