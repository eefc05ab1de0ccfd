"""Time, memory, operations and disk of a pre-training that is to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from lcl_core.costs.disk import kept_checkpoints
from lcl_core.costs.memory import FP32, state_bytes
from lcl_core.costs.parameters import model_parameters
from lcl_core.costs.sizes import sizes_of
from lcl_core.forecast.likeness import Like, Setup, around, likes_of
from lcl_core.forecast.mix import Mix, mix_of
from lcl_core.forecast.past import GIB, Past, processes
from lcl_core.forecast.words import SAME, memory_words, rate_words
from lcl_core.specs import PretrainSpec

Certainty = Literal["measured", "scaled", "assumed"]

# Useful FLOP/s of a process where no run has shown any: about what two cores of a server or one large GPU do.
ASSUMED_RATE = {"cpu": 1e11, "gpu": 5e13}
ASSUMED_START = 15.0  # seconds
# Bytes beside what is counted: libraries, kernels, holes in the heap. On a processor they grow for about so many steps.
PROCESS = {"cpu": round(0.8 * GIB), "gpu": round(0.25 * GIB)}
SETTLED = 100
_BLIND, _BLIND_MEMORY = 4.0, 1.5  # factor that an assumption may be off by
_SURE, _SURE_MEMORY = 1.15, 1.1  # the same of what was measured
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
class Forecast:
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


def forecast(spec: PretrainSpec, pasts: Sequence[Past], device: Literal["cpu", "gpu"] = "cpu") -> Forecast:
    """What a run of ``spec`` will take.

    Args:
        pasts: runs of the same kind of device, newest first.
        device: on which it will compute.
    """
    mix = mix_of(spec, pasts)
    setup = Setup.of(spec, mix)
    likes = likes_of(setup, pasts) if pasts else []
    ranks = processes(spec)
    checkpoint = state_bytes(setup.parameters, spec.ema_decay is not None)
    parts = _parts(setup, device)
    full_grown = [like for like in likes if like.past.memory and like.past.steps >= min(SETTLED, spec.steps)]
    memory, correction = _memory(sum(parts.values()), full_grown[:1], device)
    per_step = _per_step(spec, mix).times(ranks * spec.engine.accumulate)
    return Forecast(
        certainty=_certainty(likes),
        device=device,
        seconds=_seconds(setup, likes, device),
        memory_bytes=memory,
        memory_parts=parts,
        parameters=model_parameters(sizes_of(spec)),
        flops_per_step=setup.flops * ranks,
        flops=setup.flops * ranks * spec.steps,
        per_step=per_step,
        samples=per_step.times(spec.steps),
        checkpoint_bytes=checkpoint,
        disk_bytes=_disk(spec, checkpoint),
        basis=[rate_words(likes, device, ASSUMED_RATE[device]), mix.because, memory_words(full_grown[:1], correction)],
        runs=[like.past.run_id for like in likes],
    )


def _certainty(likes: Sequence[Like]) -> Certainty:
    if not likes:
        return "assumed"
    return "measured" if likes[0].distance <= SAME else "scaled"


def _per_step(spec: PretrainSpec, mix: Mix) -> Counts:
    """Of one process and batch."""
    documents = mix.documents(spec)
    return Counts(documents, documents * mix.images, documents * mix.tokens(spec))


def _seconds(setup: Setup, likes: Sequence[Like], device: str) -> Range:
    work, start = setup.flops * setup.spec.steps, around(likes)
    start = ASSUMED_START if start is None else start
    if not likes:
        found = work / ASSUMED_RATE[device]
        return Range(found + start, found / _BLIND + start, found * _BLIND + start)
    rates = [like.rate for like in likes]
    doubt = _SURE + _DRIFT * likes[0].distance
    low, high = work / max(rates) / doubt, work / min(rates) * doubt
    return Range(work / median(rates) + start, low + start, high + start)


def _parts(setup: Setup, device: str) -> dict[str, int]:
    memory = setup.memory(half=_half(setup.spec, device), on_gpu=device == "gpu")
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "moments": memory.moments,
        "average": memory.average,
        "copies": memory.copies,
        "activations": memory.activations,
        "process": PROCESS[device],
    }


def _memory(counted: int, nearest: Sequence[Like], device: str) -> tuple[Range, float]:
    """And by what the count was multiplied, as the nearest run showed, if there is any: less, the farther off it is."""
    if not nearest:
        return Range(counted, counted / _BLIND_MEMORY, counted * _BLIND_MEMORY), 1.0
    (told,) = nearest
    own = sum(_parts(told.setup, device).values())
    correction = math.exp(math.log(told.past.memory / own) / (1 + told.distance))
    found, doubt = counted * correction, _SURE_MEMORY + _DRIFT_MEMORY * told.distance
    return Range(found, found / doubt, found * doubt), correction


def _half(spec: PretrainSpec, device: str) -> bool:
    """``auto`` on a processor is not known from here: counted as fp32, which needs more."""
    return spec.precision == "bf16" or (spec.precision == "auto" and device == "gpu")


def _disk(spec: PretrainSpec, checkpoint: int) -> int:
    kept = kept_checkpoints(spec.steps, spec.checkpoint_every, spec.keep_checkpoints, spec.milestone_every)
    return kept * checkpoint + FP32 * model_parameters(sizes_of(spec))
