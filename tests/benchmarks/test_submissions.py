"""The benchmark of submissions, on few: every one is a row, and its figures hang together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.load import LoadPlan, run_load
from benchmarks.submissions import measure
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended


def test_each_submission_is_a_row() -> None:
    report = measure("sqlite", clients=4, requests=20, warm_up=8, rate=60.0)
    assert report["rows"] == report["submitted"] == 2 * 20 + 8 + 4
    for load in (report["flat_out"], report["steady"]):
        assert load["wrong"] == {}
        assert 0 < load["p50_ms"] <= load["p99_ms"] <= load["worst_ms"]
        assert load["submissions_per_s"] > 1
    assert 0 < report["api_cpu_ms"] < 1000
    assert report["steady"]["offered_per_s"] == 60


def test_a_request_of_a_steady_load_is_not_sent_before_it_is_due() -> None:
    code = """
import time
from benchmarks.load_generator import _wait_until_due
moment = time.perf_counter() + 0.05
assert _wait_until_due(moment) == moment
assert time.perf_counter() >= moment
late = time.perf_counter() - 1
assert _wait_until_due(late) == late, "latency counts from when it was due"
"""
    # a process of its own: the import patches sockets
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_answer_that_is_not_the_expected_one_is_reported() -> None:
    nobody = LoadPlan("http://127.0.0.1:9", "submissions", ["lcl_x.y"], clients=2, requests=3)
    came = run_load(nobody)
    assert came.wrong == {"POST /v1/runs: no response": 3}
    assert len(came.latencies) == 3


def test_clients_that_fail_say_why() -> None:
    with pytest.raises(UserError) as caught:
        run_load(LoadPlan("http://127.0.0.1:9", "nothing of the kind", ["k"], clients=1, requests=1))
    assert caught.value.code == "clients_failed"
    assert "nothing of the kind" in caught.value.message
