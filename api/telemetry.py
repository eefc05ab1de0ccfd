"""Prometheus figures of this process: its requests, its inference, its memory. Those of the house are api.census's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """One registry an application, so that several applications live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._seconds = Histogram(
            "lcl_request_seconds",
            "Time from request to answer",
            ("method", "route", "status"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._inference = Histogram(
            "lcl_inference_seconds",
            "Time from when an item was handed to an encoder to its answer, waiting for company included",
            ("what",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "lcl_inference_batch_items",
            "Items that went through an encoder together",
            ("what",),
            buckets=ITEMS,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. ``status`` 0 means that the client left before an answer began."""
        self._seconds.labels(method, route, str(status)).observe(seconds)

    def observe_batch(self, what: str, waited: list[float]) -> None:
        """Count one batch of an encoder: ``waited`` has the seconds from arrival to answer of each item."""
        self._batch.labels(what).observe(len(waited))
        for seconds in waited:
            self._inference.labels(what).observe(seconds)

    def watch(self, collector: Collector) -> None:
        """Export what ``collector`` finds at every scrape."""
        self.registry.register(collector)

    def watch_places(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Export ``lcl_places`` from ``count`` ({kind: number}): requests and streams under way, by valid keys."""
        self.registry.register(_Places(count))

    def watch_bodies(self, count: Callable[[], int]) -> None:
        """Export ``lcl_body_bytes`` from ``count``: what the bodies of requests under way take."""
        gauge = Gauge("lcl_body_bytes", "Bytes of request bodies that are kept", registry=self.registry)
        gauge.set_function(count)

    def watch_encoders(self, count: Callable[[], int]) -> None:
        """Export ``lcl_encoder_memory_bytes`` from ``count``: what the weights of loaded encoders take."""
        gauge = Gauge("lcl_encoder_memory_bytes", "Memory that loaded encoders take", registry=self.registry)
        gauge.set_function(count)


class _Places(Collector):
    """Counted at the scrape. ``count`` gives {kind: number}."""

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Empty: registering must not count."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = self._family()
        for kind, number in self._count().items():
            family.add_metric((kind,), number)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("lcl_places", "Requests under way", labels=("kind",))
