"""Estimate of a pre-training run: time, memory, operations, disk, and an explanation of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Literal

from lcl_core.estimate.flops import SPECIALS
from lcl_core.estimate.history import (
    GIB,
    MIN_STEPS,
    MeasuredRun,
    Setup,
    SimilarRun,
    Teachers,
    first_step,
    known_vocabulary,
    mean_document,
    median_overhead,
    process_count,
    similar_runs,
)
from lcl_core.estimate.memory import FP32, kept_checkpoints, model_parameters, state_bytes
from lcl_core.specs.pretrain import PretrainSpec

Certainty = Literal["measured", "scaled", "assumed"]
SAME_SETUP = 0.05  # distance up to which a setup counts as the same
# Useful FLOP/s of a process without a measurement: about what two cores of a server or one large GPU do.
ASSUMED_RATE = {"cpu": 1e11, "gpu": 5e13}
ASSUMED_START = 15.0  # seconds
# Bytes beside what is counted: libraries, kernels, holes in the heap. On a CPU they grow for about STEADY_STEPS steps.
PROCESS_BYTES = {"cpu": round(0.8 * GIB), "gpu": round(0.25 * GIB)}
STEADY_STEPS = 100
_ASSUMED_FACTOR, _ASSUMED_MEMORY_FACTOR = 4.0, 1.5  # factor by which an assumption may be wrong
_MEASURED_FACTOR, _MEASURED_MEMORY_FACTOR = 1.15, 1.1  # the same of a measurement
_DRIFT, _DRIFT_MEMORY = 0.4, 0.5  # and its growth with the distance
_PREFIXES = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))


@dataclass(frozen=True)
class Range:
    """The value lies between ``low`` and ``high`` if nothing unusual happens."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """Data that is read; means, where documents differ."""

    documents: float
    images: float
    tokens: float

    def times(self, factor: float) -> Counts:
        return Counts(self.documents * factor, self.images * factor, self.tokens * factor)


@dataclass(frozen=True)
class RunEstimate:
    """Of a whole run, all processes together; memory is of one process. A branch begins after its trunk's steps.

    Attributes:
        certainty: measured: by runs of the same setup; scaled: from runs of another size; assumed: without a run.
        parameters: of the model, as its encoder counts them.
        flops_per_step, flops: useful floating-point operations.
        memory_bytes: at its peak; of the GPU's memory with a GPU. ``memory_parts``: its parts.
        checkpoint_bytes, disk_bytes: one checkpoint; all that are kept at the end, with the encoder and the images that
            ``data.resident`` decodes.
        basis: where the figures come from, a sentence each. ``runs``: ids of the runs with measured rates.
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
    spec: PretrainSpec,
    runs: Sequence[MeasuredRun],
    device: Literal["cpu", "gpu"] = "cpu",
    images: Mapping[str, int] | None = None,
    teachers: Teachers | None = None,
) -> RunEstimate:
    """Time, memory, operations and disk of a run of ``spec`` on ``device``.

    Args:
        runs: earlier ones on the same kind of device, newest first.
        images: of datasets where they are known, for ``data.resident``.
        teachers: operations of encoders where they are known, for ``objective.distill``.
    """
    document, ranks, teachers = mean_document(spec, runs), process_count(spec), teachers or {}
    documents = document.documents(spec)
    vocabulary = known_vocabulary(spec, runs)
    setup = Setup.of(spec, document.workload(spec), documents, teachers, vocabulary)
    similar = similar_runs(setup, [run for run in runs if run.measures_rate], teachers)
    known = [each for each in similar_runs(setup, runs, teachers) if each.run.memory]
    first, steps = first_step(spec), spec.steps - first_step(spec)
    steady = [each for each in known if each.run.steps - first_step(each.run.spec) >= min(STEADY_STEPS, steps)]
    nearest = steady[0] if steady else None
    parts, parameters = _memory_parts(setup, device), model_parameters(setup.sizes)
    memory, correction = _memory(sum(parts.values()), nearest, device)
    batch = Counts(documents, documents * document.images, documents * document.tokens(spec))
    per_step = batch.times(ranks * spec.engine.accumulate)
    checkpoint = state_bytes(setup.parameters, setup.frozen)
    checkpoints = kept_checkpoints(
        spec.steps, spec.checkpoint_every, spec.keep_checkpoints, spec.milestone_every, first
    )
    encoders = FP32 * parameters * (1 if spec.monitor is None else 2)
    certainty: Certainty = "assumed"
    if similar:
        certainty = "measured" if similar[0].distance <= SAME_SETUP else "scaled"
    counted = "Memory: weights, gradients, AdamW's moments and what the backward pass keeps, counted from the sizes"
    if nearest is None:
        counted += "; no run has measured its peak yet."
    else:
        counted += f", times {correction:.2f} after the peak of {nearest.run.run_id}."
    resident, explanations = _resident_images(spec, images or {})
    explanations += _explain_teacher(spec, teachers, similar) + _explain_vocabulary(spec, vocabulary)
    return RunEstimate(
        certainty=certainty,
        device=device,
        seconds=_seconds(setup.flops * steps, similar, device),
        memory_bytes=memory,
        memory_parts=parts,
        parameters=parameters,
        flops_per_step=setup.flops * ranks,
        flops=setup.flops * ranks * steps,
        per_step=per_step,
        samples=per_step.times(steps),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoints * checkpoint + encoders + resident,
        basis=[_explain_rate(similar, device), document.because, counted, *explanations],
        runs=[each.run.run_id for each in similar],
    )


def _seconds(work: float, similar: Sequence[SimilarRun], device: str) -> Range:
    """``work``: useful operations of a process."""
    overhead = median_overhead(similar)
    start = ASSUMED_START if overhead is None else overhead
    if not similar:
        steps = work / ASSUMED_RATE[device]
        return Range(steps + start, steps / _ASSUMED_FACTOR + start, steps * _ASSUMED_FACTOR + start)
    rates = [each.rate for each in similar]
    factor = _MEASURED_FACTOR + _DRIFT * similar[0].distance
    low, high = work / max(rates) / factor, work / min(rates) * factor
    return Range(work / median(rates) + start, low + start, high + start)


def _memory_parts(setup: Setup, device: str) -> dict[str, int]:
    # precision auto on a CPU is not known here: counted as fp32, which needs more
    spec, precision = setup.spec, setup.spec.precision
    half = precision == "bf16" or (precision == "auto" and device == "gpu")
    parts = asdict(setup.memory(half=half, on_gpu=device == "gpu"))
    if spec.monitor is not None or spec.objective.measures_gradient_ratio:
        parts["copies"] += FP32 * setup.parameters
    return {**parts, "process": PROCESS_BYTES[device]}


def _memory(counted: int, nearest: SimilarRun | None, device: str) -> tuple[Range, float]:
    """Range, and the factor by which the nearest run corrects the counted bytes: less, the farther it is."""
    if nearest is None:
        return Range(counted, counted / _ASSUMED_MEMORY_FACTOR, counted * _ASSUMED_MEMORY_FACTOR), 1.0
    own = sum(_memory_parts(nearest.setup, device).values())
    correction = math.exp(math.log(nearest.run.memory / own) / (1 + nearest.distance))
    expected, factor = counted * correction, _MEASURED_MEMORY_FACTOR + _DRIFT_MEMORY * nearest.distance
    return Range(expected, expected / factor, expected * factor), correction


def _explain_rate(similar: Sequence[SimilarRun], device: str) -> str:
    if not similar:
        return (
            f"Time: assumed at {_format_rate(ASSUMED_RATE[device])} of useful operations a process ({device}); no "
            f"pre-training of {MIN_STEPS} steps or more that you may see has been made here yet."
        )
    rates, nearest = [each.rate for each in similar], similar[0]
    runs = nearest.run.run_id
    if len(similar) > 1:
        runs = f"{len(similar)} runs, of which {runs} is the nearest"
    span = _format_rate(rates[0]) if len(rates) == 1 else f"{_format_rate(min(rates))} to {_format_rate(max(rates))}"
    if nearest.distance <= SAME_SETUP:
        setup = ", of this very setup"
    else:
        setup = f"; its setup differs (as {math.exp(nearest.distance):.2g} times the size would)"
    return f"Time: {span} of useful operations a process, as measured by {runs}{setup}."


def _explain_teacher(spec: PretrainSpec, teachers: Teachers, similar: Sequence[SimilarRun]) -> list[str]:
    """A sentence where a teacher's operations are not known and no measured run had the same teacher."""
    distill = spec.objective.distill
    measured = any(each.run.spec.objective.distill == distill for each in similar)
    if distill is None or distill.encoder in teachers or measured:
        return []
    return [f"Time: without the teacher {distill.encoder}, whose operations are not known; a run takes longer."]


def _explain_vocabulary(spec: PretrainSpec, vocabulary: int | None) -> list[str]:
    """A sentence where the vocabulary is that of a file, which is not read for an estimate, and no run had it."""
    if spec.tokenizer.path is None or vocabulary is not None:
        return []
    counted = f"{spec.tokenizer.vocab_size + SPECIALS:,} tokens, by tokenizer.vocab_size"
    return [
        f"Vocabulary: counted as {counted}, since the file tokenizer.path is not read and no run that you may see has "
        "ended with it; for closer figures set tokenizer.vocab_size, which no training with a path reads, to the "
        f"file's size less {SPECIALS}."
    ]


def _resident_images(spec: PretrainSpec, images: Mapping[str, int]) -> tuple[int, list[str]]:
    """Bytes of the images that ``data.resident`` decodes, and where the figure comes from."""
    if not spec.data.resident:
        return 0, []
    names = list(dict.fromkeys(source.dataset for source in spec.data.sources))
    unknown = [name for name in names if name not in images]
    total = spec.data.resident_bytes(spec.model.image_size, sum(images.get(name, 0) for name in names))
    sentence = f"Disk: with at most {total:,} bytes of decoded images, which runs on the same data share"
    if unknown:
        sentence += f"; not counted, since no validation has counted their images: {', '.join(unknown)}"
    return total, [f"{sentence}."]


def _format_rate(value: float) -> str:
    for size, unit in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP/s"


CERTAINTIES = ("measured", "scaled", "assumed")  # best first


@dataclass(frozen=True)
class TrainingTime:
    """Of several pre-trainings, one after another.

    Attributes:
        certainty: the least certain of the estimates, as of ``RunEstimate``.
    """

    seconds: Range
    certainty: str


def add_estimates(estimates: Sequence[RunEstimate], counts: Sequence[int]) -> TrainingTime:
    """``counts``: for each estimate the number of pre-trainings like it; at least one estimate."""
    weighted = list(zip(estimates, counts, strict=True))
    expected, low, high = (
        sum(count * getattr(estimate.seconds, bound) for estimate, count in weighted)
        for bound in ("expected", "low", "high")
    )
    certainty = max((estimate.certainty for estimate in estimates), key=CERTAINTIES.index)
    return TrainingTime(Range(expected, low, high), certainty)
