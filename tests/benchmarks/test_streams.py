"""The benchmark of event streams, on few: every event arrives at every reader of its run."""

from __future__ import annotations

import pytest

from benchmarks.streams import measure

pytestmark = pytest.mark.extended


def test_every_event_arrives_at_every_reader() -> None:
    report = measure("sqlite", streams=7, runs=2, seconds=1.0, events=4.0)
    assert report["arrivals"] == report["expected"] == 4 * 7
    assert (report["events"], report["ended"]) == (8, {})
    assert 0 < report["lag_p50_ms"] <= report["lag_p99_ms"]
    assert report["api_cpu_busy"] > 0
