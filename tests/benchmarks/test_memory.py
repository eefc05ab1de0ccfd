"""The benchmark of memory, on few requests: memory at every mark, and no answer that was not expected."""

from __future__ import annotations

import pytest

from benchmarks.memory import measure
from benchmarks.traffic import mixed

pytestmark = pytest.mark.extended


def test_memory_at_every_mark() -> None:
    report = measure("sqlite", first=40, requests=60, samples=1, clients=2)
    assert report["wrong"] == {}
    sizes = list(report["resident_mib"].values())
    assert len(sizes) == 2
    assert list(report["resident_mib"])[-1] == report["requests"] == 60
    assert all(20 < size < 2000 for size in sizes)
    assert abs(report["growth"] - sizes[-1] / sizes[0]) < 0.01


def test_the_mixture_has_every_kind_of_request() -> None:
    requests = [request for request, _ in zip(mixed(), range(20), strict=False)]
    assert len({(request.method, request.path) for request in requests}) >= 17
    assert {status for request in requests for status in request.expected} >= {200, 202, 403, 404, 422}
    names = [request.body["name"] for request in requests if request.body and "name" in request.body]
    assert len(names) == len(set(names)) == 2
