"""Counters and histograms for Prometheus, incremented in the transaction of the event that they count.

A figure in the memory of a process is lost with the process; the database counts each committed event exactly once,
whichever worker committed it. Counters outlive the runs that they counted.
"""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.db.models import CounterRow
from lcl_core.db.session import dialect_insert

INFINITY = "+Inf"


@dataclass(frozen=True)
class MetricFamily:
    """A Prometheus metric: a histogram with the upper bounds ``bounds``, or a counter without bounds."""

    name: str
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    def increment(self, value: float = 1.0, **labels: str) -> Increment:
        """One event: ``value`` is added to a counter, or observed by a histogram."""
        assert set(labels) == set(self.labels), f"{self.name} has the labels {self.labels}"
        if not self.bounds:
            return Increment(self.name, _labels_json(labels), "", value)
        bucket = bisect.bisect_left(self.bounds, value)
        bound = f"{self.bounds[bucket]:g}" if bucket < len(self.bounds) else INFINITY
        return Increment(self.name, _labels_json(labels), bound, value)


@dataclass(frozen=True)
class Increment:
    """One event of a series; ``bound`` names the bucket, "" for a counter."""

    name: str
    labels: str
    bound: str
    value: float


CLAIM_LATENCY = MetricFamily(
    "lcl_claim_latency_seconds",
    "Time from when a worker could have taken a run to when one did",
    ("kind",),
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 14_400, 86_400),
)
RUN_DURATION = MetricFamily(
    "lcl_run_duration_seconds",
    "Work on a run that has ended, all its attempts together",
    ("kind", "state"),
    (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400, 259_200, 604_800),
)
ATTEMPTS = MetricFamily("lcl_run_attempts_total", "Attempts at runs that workers began", ("kind",))
LEASE_LOSSES = MetricFamily("lcl_lease_losses_total", "Leases that ran out: workers killed, hung or cut off", ("kind",))
QUARANTINED = MetricFamily(
    "lcl_quarantined_items_total", "Items of corpora that finished runs could not use", ("kind",)
)
DELIVERIES = MetricFamily("lcl_webhook_attempts_total", "Attempts to deliver messages to webhooks", ("outcome",))
OUTCOMES = ("delivered", "failed", "given_up")  # of DELIVERIES
FAMILIES = (CLAIM_LATENCY, RUN_DURATION, ATTEMPTS, LEASE_LOSSES, QUARANTINED, DELIVERIES)


def record_increments(session: Session, increments: Iterable[Increment]) -> None:
    """Add increments to the counters. Call it last and once in a short transaction: others wait for the rows.

    All callers write rows in one order, so two transactions never deadlock.
    """
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for increment in increments:
        entry = sums[increment.name, increment.labels, increment.bound]
        entry[0] += 1
        entry[1] += increment.value
    if not sums:
        return
    rows = [
        {"name": name, "labels": labels, "bound": bound, "count": count, "total": total}
        for (name, labels, bound), (count, total) in sorted(sums.items())
    ]
    statement = dialect_insert(session, CounterRow).values(rows)
    sum_ = {"count": CounterRow.count + statement.excluded.count, "total": CounterRow.total + statement.excluded.total}
    session.execute(statement.on_conflict_do_update(index_elements=["name", "labels", "bound"], set_=sum_))


@dataclass
class MetricSeries:
    """One labelled series: the count of each bucket alone by its bound ("" for a counter), and the sum of values."""

    labels: dict[str, str]
    counts: dict[str, int]
    total: float


def read_counters(session: Session) -> dict[str, list[MetricSeries]]:
    """{name of the family: its series, in the order of their labels}."""
    families: dict[str, dict[str, MetricSeries]] = defaultdict(dict)
    for row in session.scalars(select(CounterRow).order_by(CounterRow.name, CounterRow.labels)):
        series = families[row.name].setdefault(row.labels, MetricSeries(json.loads(row.labels), {}, 0.0))
        series.counts[row.bound] = row.count
        series.total += row.total
    return {name: list(by_labels.values()) for name, by_labels in families.items()}


def _labels_json(labels: dict[str, Any]) -> str:
    return json.dumps(labels, sort_keys=True, separators=(",", ":"))
