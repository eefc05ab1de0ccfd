"""The benchmark of conversions, on a small corpus: its figures mean what they say."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks import conversion

pytestmark = pytest.mark.extended


def test_conversions_with_one_and_two_processes_and_after_a_kill(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    conversion.add_arguments(parser)
    conversion.main(parser.parse_args(["--photographs", "1200", "--rounds", "1"]))
    report = json.loads(capsys.readouterr().out)
    assert {kind: len(spent) for kind, spent in report["seconds"].items()} == {
        "one core": 1, "one process": 1, "processes": 1
    }  # fmt: skip
    assert report["speedup"] > report["speedup_over_threads"] * 0.5 > 0
    assert report["status"] == 0
    assert 600 <= report["killed_at"] < 1200
    assert 0 < report["kept"] <= report["killed_at"]
    assert report["continues_s"] > 0
