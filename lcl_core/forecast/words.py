"""What a forecast rests on, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lcl_core.forecast.likeness import Like

_PREFIXES = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))
SAME = 0.05  # distance up to which a setup counts as the same


def rate_words(likes: Sequence[Like], device: str, assumed: float) -> str:
    if not likes:
        return (
            f"Time: assumed at {_rate(assumed)} of useful operations a process ({device}); no pre-training "
            "that you may see has been made here yet. The first run will tell more."
        )
    rates = [like.rate for like in likes]
    near = likes[0]
    told = near.past.run_id if len(likes) == 1 else f"{len(likes)} runs, of which {near.past.run_id} is the nearest"
    span = _rate(rates[0]) if len(rates) == 1 else f"{_rate(min(rates))} to {_rate(max(rates))}"
    return f"Time: {span} of useful operations a process, as measured by {told}{_apart(near.distance)}."


def memory_words(nearest: Sequence[Like], correction: float) -> str:
    counted = "Memory: weights, gradients, AdamW's moments and what the backward pass keeps, counted from the sizes"
    if not nearest:
        return f"{counted}; no run has told its peak yet."
    return f"{counted}, times {correction:.2f} after the peak that {nearest[0].past.run_id} told."


def _apart(distance: float) -> str:
    """How far the nearest is from what is asked, as far as that matters."""
    if distance <= SAME:
        return ", of this very setup"
    return f"; its setup differs (as {math.exp(distance):.2g} times the size would)"


def _rate(value: float) -> str:
    for size, unit in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP/s"
