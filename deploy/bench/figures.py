"""Figures out of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.bench.clients import Came


def milliseconds(latencies: Sequence[float], percent: float) -> float:
    """The latency (seconds each) below which so many percent of them lie, in milliseconds."""
    return round(float(np.percentile(latencies, percent)) * 1000, 2)


def load_figures(came: Came, what: str) -> dict[str, Any]:
    """What a load came to: ``{what}_per_s``, latencies in milliseconds, and the wrong answers."""
    return {
        f"{what}_per_s": round(len(came.latencies) / came.seconds, 2),
        "p50_ms": milliseconds(came.latencies, 50),
        "p99_ms": milliseconds(came.latencies, 99),
        "worst_ms": milliseconds(came.latencies, 100),
        "wrong": came.wrong,
    }
