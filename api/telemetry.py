"""Prometheus figures of this process, and of the database at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """One registry an application, so that several applications live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "lcl_request_seconds",
            "Time from request to answer",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. ``status`` 0 means that the client left before an answer began."""
        self._seconds.labels(method, route, str(status)).observe(seconds)

    def watch_runs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Export ``lcl_runs`` from ``count`` ({state: number}) at every scrape."""
        self.registry.register(_Runs(count))


class _Runs(Collector):
    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self.count = count

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Empty family: registering must not ask the database."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = self._family()
        for state, number in self.count().items():
            family.add_metric((state,), number)
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily("lcl_runs", "Runs in the database", labels=("state",))
