"""Estimate of a pre-training run: time, memory, operations, disk, and an explanation of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from lcl_core.estimate.flops import model_sizes
from lcl_core.estimate.history import (
    GIB,
    MeanDocument,
    MeasuredRun,
    Setup,
    SimilarRun,
    mean_document,
    median_overhead,
    process_count,
    similar_runs,
)
from lcl_core.estimate.memory import FP32, kept_checkpoints, model_parameters, state_bytes
from lcl_core.specs.pretrain import PretrainSpec

_PREFIXES = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))
SAME_SETUP = 0.05  # distance up to which a setup counts as the same


def explain_rate(likes: Sequence[SimilarRun], device: str, assumed: float) -> str:
    if not likes:
        return (
            f"Time: assumed at {_format_rate(assumed)} of useful operations a process ({device}); no pre-training "
            "that you may see has been made here yet. The first run will tell more."
        )
    rates = [like.rate for like in likes]
    near = likes[0]
    told = near.past.run_id if len(likes) == 1 else f"{len(likes)} runs, of which {near.past.run_id} is the nearest"
    span = _format_rate(rates[0]) if len(rates) == 1 else f"{_format_rate(min(rates))} to {_format_rate(max(rates))}"
    return f"Time: {span} of useful operations a process, as measured by {told}{_explain_distance(near.distance)}."


def explain_memory(nearest: Sequence[SimilarRun], correction: float) -> str:
    counted = "Memory: weights, gradients, AdamW's moments and what the backward pass keeps, counted from the sizes"
    if not nearest:
        return f"{counted}; no run has told its peak yet."
    return f"{counted}, times {correction:.2f} after the peak that {nearest[0].past.run_id} told."


def _explain_distance(distance: float) -> str:
    """How far the nearest is from what is asked, as far as that matters."""
    if distance <= SAME_SETUP:
        return ", of this very setup"
    return f"; its setup differs (as {math.exp(distance):.2g} times the size would)"


def _format_rate(value: float) -> str:
    for size, unit in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP/s"


Certainty = Literal["measured", "scaled", "assumed"]

# Useful FLOP/s of a process where no run has shown any: about what two cores of a server or one large GPU do.
ASSUMED_RATE = {"cpu": 1e11, "gpu": 5e13}
ASSUMED_START = 15.0  # seconds
# Bytes beside what is counted: libraries, kernels, holes in the heap. On a processor they grow for about so many steps.
PROCESS_BYTES = {"cpu": round(0.8 * GIB), "gpu": round(0.25 * GIB)}
STEADY_STEPS = 100
_ASSUMED_FACTOR, _ASSUMED_MEMORY_FACTOR = 4.0, 1.5  # factor that an assumption may be off by
_MEASURED_FACTOR, _MEASURED_MEMORY_FACTOR = 1.15, 1.1  # the same of what was measured
_DRIFT, _DRIFT_MEMORY = 0.4, 0.5  # and how it grows with the distance


@dataclass(frozen=True)
class Range:
    """The value lies between ``low`` and ``high`` if nothing unusual happens."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """What is read; means, where documents differ."""

    documents: float
    images: float
    tokens: float

    def times(self, factor: float) -> Counts:
        return Counts(self.documents * factor, self.images * factor, self.tokens * factor)


@dataclass(frozen=True)
class RunEstimate:
    """Of a whole run, all processes together; memory is of one process.

    Attributes:
        certainty: measured: runs of the same setup told the rate; scaled: runs of another size; assumed: none.
        parameters: of the model, as the encoder that comes out counts them.
        flops_per_step, flops: useful floating-point operations.
        memory_bytes: at its peak; of a GPU's memory where it trains on one. ``memory_parts``: what it is made of.
        checkpoint_bytes, disk_bytes: one checkpoint; all that are kept at the end, with the encoder.
        basis: what all this rests on, a sentence each. ``runs``: ids of those that told rates.
    """

    certainty: Certainty
    device: Literal["cpu", "gpu"]
    seconds: Range
    memory_bytes: Range
    memory_parts: dict[str, int]
    parameters: int
    flops_per_step: float
    flops: float
    per_step: Counts
    samples: Counts
    checkpoint_bytes: int
    disk_bytes: int
    basis: list[str]
    runs: list[str]


def estimate_pretraining(
    spec: PretrainSpec, pasts: Sequence[MeasuredRun], device: Literal["cpu", "gpu"] = "cpu"
) -> RunEstimate:
    """What a run of ``spec`` will take.

    Args:
        pasts: runs of the same kind of device, newest first.
        device: on which it will compute.
    """
    mix = mean_document(spec, pasts)
    setup = Setup.of(spec, mix)
    likes = similar_runs(setup, pasts) if pasts else []
    ranks = process_count(spec)
    checkpoint = state_bytes(setup.parameters, spec.ema_decay is not None)
    parts = _memory_parts(setup, device)
    full_grown = [like for like in likes if like.past.memory and like.past.steps >= min(STEADY_STEPS, spec.steps)]
    memory, correction = _memory(sum(parts.values()), full_grown[:1], device)
    per_step = _per_step(spec, mix).times(ranks * spec.engine.accumulate)
    return RunEstimate(
        certainty=_certainty(likes),
        device=device,
        seconds=_seconds(setup, likes, device),
        memory_bytes=memory,
        memory_parts=parts,
        parameters=model_parameters(model_sizes(spec)),
        flops_per_step=setup.flops * ranks,
        flops=setup.flops * ranks * spec.steps,
        per_step=per_step,
        samples=per_step.times(spec.steps),
        checkpoint_bytes=checkpoint,
        disk_bytes=_disk_bytes(spec, checkpoint),
        basis=[
            explain_rate(likes, device, ASSUMED_RATE[device]),
            mix.because,
            explain_memory(full_grown[:1], correction),
        ],
        runs=[like.past.run_id for like in likes],
    )


def _certainty(likes: Sequence[SimilarRun]) -> Certainty:
    if not likes:
        return "assumed"
    return "measured" if likes[0].distance <= SAME_SETUP else "scaled"


def _per_step(spec: PretrainSpec, mix: MeanDocument) -> Counts:
    """Of one process and batch."""
    documents = mix.documents(spec)
    return Counts(documents, documents * mix.images, documents * mix.tokens(spec))


def _seconds(setup: Setup, likes: Sequence[SimilarRun], device: str) -> Range:
    work, start = setup.flops * setup.spec.steps, median_overhead(likes)
    start = ASSUMED_START if start is None else start
    if not likes:
        found = work / ASSUMED_RATE[device]
        return Range(found + start, found / _ASSUMED_FACTOR + start, found * _ASSUMED_FACTOR + start)
    rates = [like.rate for like in likes]
    doubt = _MEASURED_FACTOR + _DRIFT * likes[0].distance
    low, high = work / max(rates) / doubt, work / min(rates) * doubt
    return Range(work / median(rates) + start, low + start, high + start)


def _memory_parts(setup: Setup, device: str) -> dict[str, int]:
    memory = setup.memory(half=_half(setup.spec, device), on_gpu=device == "gpu")
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "moments": memory.moments,
        "average": memory.average,
        "copies": memory.copies,
        "activations": memory.activations,
        "process": PROCESS_BYTES[device],
    }


def _memory(counted: int, nearest: Sequence[SimilarRun], device: str) -> tuple[Range, float]:
    """And by what the count was multiplied, as the nearest run showed, if there is any: less, the farther off it is."""
    if not nearest:
        return Range(counted, counted / _ASSUMED_MEMORY_FACTOR, counted * _ASSUMED_MEMORY_FACTOR), 1.0
    (told,) = nearest
    own = sum(_memory_parts(told.setup, device).values())
    correction = math.exp(math.log(told.past.memory / own) / (1 + told.distance))
    found, doubt = counted * correction, _MEASURED_MEMORY_FACTOR + _DRIFT_MEMORY * told.distance
    return Range(found, found / doubt, found * doubt), correction


def _half(spec: PretrainSpec, device: str) -> bool:
    """``auto`` on a processor is not known from here: counted as fp32, which needs more."""
    return spec.precision == "bf16" or (spec.precision == "auto" and device == "gpu")


def _disk_bytes(spec: PretrainSpec, checkpoint: int) -> int:
    kept = kept_checkpoints(spec.steps, spec.checkpoint_every, spec.keep_checkpoints, spec.milestone_every)
    return kept * checkpoint + FP32 * model_parameters(model_sizes(spec))
