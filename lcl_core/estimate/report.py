"""Estimate of a pre-training run: time, memory, operations, disk, and an explanation of each.

Earlier runs measure the rate of a setup and the mean document of a corpus; operations and memory are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, cast

from lcl_core.common.errors import UserError
from lcl_core.estimate.flops import ModelSizes, Workload, expected_workload, method_step_flops, model_sizes
from lcl_core.estimate.memory import (
    FP32,
    kept_checkpoints,
    method_parameters,
    model_parameters,
    part_parameters,
    state_bytes,
    target_parameters,
    training_memory,
)
from lcl_core.specs.data import VIEW_ITEMS
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

Certainty = Literal["measured", "scaled", "assumed"]
Device = Literal["cpu", "gpu"]
GIB = 2**30
SAME_SETUP = 0.05  # distance up to which a setup counts as the same
MAX_SIMILAR = 5  # runs whose rates count
MIN_STEPS, MIN_SECONDS = 50, 600.0  # of a run that counts: in fewer, or less time, its start decides rate and peak
PAIR_WORDS, DOCUMENT_WORDS, DOCUMENT_IMAGES = 20.0, 80.0, 2.0  # assumed without a measurement
# Useful FLOP/s of a process without a measurement: about what two cores of a server or one large GPU do.
ASSUMED_RATE = {"cpu": 1e11, "gpu": 5e13}
ASSUMED_START = 15.0  # seconds
PROCESS_BYTES = {"cpu": round(0.8 * GIB), "gpu": round(0.25 * GIB)}  # libraries, kernels, holes in the heap
_DELIMITERS = 2  # tokens around those of an image
_ASSUMED_FACTOR, _ASSUMED_MEMORY_FACTOR = 4.0, 1.5  # factor by which an assumption may be wrong
_MEASURED_FACTOR, _MEASURED_MEMORY_FACTOR = 1.15, 1.1  # the same of a measurement
_DRIFT, _DRIFT_MEMORY = 0.4, 0.5  # and its growth with the distance
_DISTANCE_MARGIN = 0.5  # beyond the nearest
_OTHER_METHOD, _OTHER_ENGINE = 0.3, 0.2  # as if the sizes differed by e to this


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
        flops_per_step, flops: useful floating-point operations, as the trainer counts them.
        memory_bytes: at its peak; of the GPU's memory with a GPU. ``memory_parts``: its parts.
        checkpoint_bytes, disk_bytes: one checkpoint; all that are kept at the end, with the encoder.
        basis: where the figures come from, a sentence each. ``runs``: ids of the runs with measured rates.
    """

    certainty: Certainty
    device: Device
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


@dataclass(frozen=True)
class MeasuredRun:
    """Counts of a run that has ended, over ``seconds`` of steps.

    Attributes:
        memory: peak of a process, bytes; 0: unknown.
        overhead: seconds beside its steps, such as its start; None: unknown.
    """

    run_id: str
    spec: PretrainSpec
    steps: float
    seconds: float
    images: float
    tokens: float
    documents: float
    memory: float
    overhead: float | None

    @property
    def document(self) -> MeanDocument:
        images, tokens = self.images / self.documents, self.tokens / self.documents
        words = max(tokens - images * (self.spec.model.num_image_tokens + _DELIMITERS), 1.0)
        because = f"Documents: {images:.3g} images and {words:.3g} tokens of text each, as {self.run_id} read them."
        full = MeanDocument(images, words, 1.0, because).documents(self.spec)
        at_once = self.documents / self.steps / process_count(self.spec) / self.spec.engine.accumulate
        return MeanDocument(images, words, min(1.0, at_once / full), because)


def measured_run(
    run_id: str, spec: Mapping[str, Any], result: Mapping[str, Any], ran_seconds: float | None = None
) -> MeasuredRun | None:
    """From the row of a run that has ended; None when figures are missing.

    Args:
        ran_seconds: of a single attempt from the first step to the end; None: it had several, or the first steps are
            those of another run, whose seconds ``result`` counts too.
    """
    encoder = result.get("encoder") or {}
    names = ("steps", "seconds", "images_seen", "tokens_seen", "documents_seen")
    steps, seconds, images, tokens, documents = counts = [float(encoder.get(name) or 0.0) for name in names]
    if not all(counts) or (steps < MIN_STEPS and seconds < MIN_SECONDS):
        return None
    memory = float((result.get("final") or {}).get("memory_gib") or 0.0) * GIB
    overhead = None if ran_seconds is None else max(ran_seconds - seconds, 0.0)
    pretrain = cast(PretrainSpec, parse_spec("pretrain", dict(spec)))
    return MeasuredRun(run_id, pretrain, steps, seconds, images, tokens, documents, memory, overhead)


def process_count(spec: PretrainSpec) -> int:
    """Training processes on all nodes."""
    return spec.engine.nodes * spec.engine.processes


@dataclass(frozen=True)
class MeanDocument:
    """The mean document of a run's sources.

    Attributes:
        images, words: images, and tokens beside theirs.
        fill: share of a batch's budget that is used.
        because: where the figures come from, a sentence.
    """

    images: float
    words: float
    fill: float
    because: str

    def tokens(self, spec: PretrainSpec) -> float:
        """With those of its images."""
        total = self.words + self.images * (spec.model.num_image_tokens + _DELIMITERS)
        return min(total, float(spec.model.context_length))

    def documents(self, spec: PretrainSpec) -> float:
        """In one process and micro-batch: until either budget is full."""
        fit = min(spec.batch.tokens / self.tokens(spec), spec.batch.images / max(self.images, 1e-9))
        return max(1.0, fit * self.fill)


def mean_document(spec: PretrainSpec, runs: Sequence[MeasuredRun]) -> MeanDocument:
    """As the newest run over the same data measured it, or over the same sources; else an assumption."""

    def sources(spec: PretrainSpec) -> set[tuple[str, str, float]]:
        return {(source.dataset, source.view, source.weight) for source in spec.data.sources}

    same_sources = [run for run in runs if sources(run.spec) == sources(spec)]
    same_data = [run for run in same_sources if (run.spec.data, run.spec.tokenizer) == (spec.data, spec.tokenizer)]
    for run in (*same_data, *same_sources):
        return run.document
    total = sum(source.weight for source in spec.data.sources)
    pairs = sum(source.weight for source in spec.data.sources if VIEW_ITEMS[source.view] == "pairs") / total
    per_document = min(DOCUMENT_IMAGES, spec.data.max_images, spec.data.piece_images or spec.data.max_images)
    images = pairs + (1 - pairs) * per_document
    words = pairs * PAIR_WORDS + (1 - pairs) * DOCUMENT_WORDS
    because = (
        f"Documents: assumed to hold {images:.2g} images and {words:.0f} tokens of text each and to fill every "
        "batch; no run that you may see has read these sources."
    )
    return MeanDocument(images, words, 1.0, because)


@dataclass(frozen=True)
class Setup:
    """A spec with its sizes in numbers.

    Attributes:
        parameters: with those of the method.
        frozen: those among them that are not trained.
        flops: useful operations of a process in a step.
        workload: of a process in one micro-batch.
    """

    spec: PretrainSpec
    sizes: ModelSizes
    parameters: int
    frozen: int
    flops: float
    workload: Workload

    @classmethod
    def of(cls, spec: PretrainSpec, document: MeanDocument) -> Setup:
        sizes, documents = model_sizes(spec), document.documents(spec)
        one = expected_workload(spec.objective, document.images, spec.model.num_image_tokens, document.tokens(spec))
        flops = method_step_flops(spec.objective, sizes, one) * documents * spec.engine.accumulate
        targets = target_parameters(spec.objective, sizes)
        parameters = model_parameters(sizes) + method_parameters(spec.objective, sizes) + targets
        frozen = sum(count for part, count in part_parameters(sizes).items() if part in spec.model.freeze)
        return cls(spec, sizes, parameters, frozen + targets, flops, one.times(documents))

    def memory_parts(self, device: Device) -> dict[str, int]:
        """With a GPU, the copy that a checkpoint writes is in the host's memory."""
        # precision auto on a CPU is not known here: counted as fp32, which needs more
        precision = self.spec.precision
        half = precision == "bf16" or (precision == "auto" and device == "gpu")
        parts = training_memory(
            self.spec, self.sizes, self.workload, self.parameters, self.frozen, half=half, staged=device == "cpu"
        )
        return {**parts, "process": PROCESS_BYTES[device]}

    def distance(self, other: Setup) -> float:
        """0 for the very same setup; else about the logarithm of how much sizes differ."""
        a, b = self.spec, other.spec
        sizes = abs(math.log(self.flops / other.flops)) + abs(math.log(self.parameters / other.parameters))
        differences = [
            a.precision != b.precision,
            a.engine.compile != b.engine.compile,
            a.engine.strategy != b.engine.strategy,
            a.engine.activation_checkpointing != b.engine.activation_checkpointing,
            a.engine.accumulate != b.engine.accumulate,
            a.model.freeze != b.model.freeze,
        ]
        processes = abs(math.log(process_count(a) / process_count(b)))
        method = _OTHER_METHOD * (a.objective.name != b.objective.name)
        return sizes / 2 + method + _OTHER_ENGINE * (sum(differences) + processes)


@dataclass(frozen=True)
class SimilarRun:
    """An earlier run, with its distance to the planned one. ``rate``: useful FLOP/s of a process."""

    run: MeasuredRun
    setup: Setup
    distance: float
    rate: float


def similar_runs(setup: Setup, runs: Sequence[MeasuredRun]) -> list[SimilarRun]:
    """The nearest few, nearest first; of equally near ones the earlier in ``runs``."""
    known = []
    for run in runs:
        try:
            own = Setup.of(run.spec, run.document)
        except UserError:  # its vision tower is of a library that is not installed here
            continue
        known.append(SimilarRun(run, own, setup.distance(own), own.flops * run.steps / run.seconds))
    known.sort(key=lambda each: each.distance)
    return [each for each in known if each.distance <= known[0].distance + _DISTANCE_MARGIN][:MAX_SIMILAR]


def estimate_pretraining(spec: PretrainSpec, runs: Sequence[MeasuredRun], device: Device = "cpu") -> RunEstimate:
    """Time, memory, operations and disk of a run of ``spec`` on ``device``.

    Args:
        runs: earlier ones on the same kind of device, newest first.
    """
    document, ranks = mean_document(spec, runs), process_count(spec)
    setup = Setup.of(spec, document)
    similar = similar_runs(setup, runs)
    first = 0 if spec.branch is None else spec.branch.step
    steps, documents = spec.steps - first, document.documents(spec)
    batch = Counts(documents, documents * document.images, documents * document.tokens(spec))
    per_step = batch.times(ranks * spec.engine.accumulate)
    parameters, checkpoint = model_parameters(setup.sizes), state_bytes(setup.parameters, setup.frozen)
    encoders = FP32 * parameters * (1 if spec.monitor is None else 2)
    seconds, time_basis = _seconds(setup.flops * steps, similar, device)
    memory, memory_basis = _memory(setup, similar, device)
    certainty: Certainty = "assumed"
    if similar:
        certainty = "measured" if similar[0].distance <= SAME_SETUP else "scaled"
    return RunEstimate(
        certainty=certainty,
        device=device,
        seconds=seconds,
        memory_bytes=memory,
        memory_parts=setup.memory_parts(device),
        parameters=parameters,
        flops_per_step=setup.flops * ranks,
        flops=setup.flops * ranks * steps,
        per_step=per_step,
        samples=per_step.times(steps),
        checkpoint_bytes=checkpoint,
        disk_bytes=kept_checkpoints(spec, first) * checkpoint + encoders,
        basis=[time_basis, document.because, memory_basis],
        runs=[each.run.run_id for each in similar],
    )


def _seconds(work: float, similar: Sequence[SimilarRun], device: str) -> tuple[Range, str]:
    """Time of ``work``, useful operations of a process, and where it comes from."""
    overheads = [each.run.overhead for each in similar if each.run.overhead is not None]
    start = median(overheads) if overheads else ASSUMED_START
    if not similar:
        steps = work / ASSUMED_RATE[device]
        return Range(steps + start, steps / _ASSUMED_FACTOR + start, steps * _ASSUMED_FACTOR + start), (
            f"Time: assumed at {ASSUMED_RATE[device] / 1e9:,.0f} GFLOP/s of useful operations a process ({device}); no "
            f"pre-training of {MIN_STEPS} steps or more that you may see has ended here yet."
        )
    rates, nearest = [each.rate for each in similar], similar[0]
    factor = _MEASURED_FACTOR + _DRIFT * nearest.distance
    low, high = work / max(rates) / factor, work / min(rates) * factor
    runs = nearest.run.run_id
    if len(similar) > 1:
        runs = f"{len(similar)} runs, of which {runs} is the nearest"
    setup = ", of this very setup"
    if nearest.distance > SAME_SETUP:
        setup = f"; its setup differs (as {math.exp(nearest.distance):.2g} times the size would)"
    return Range(work / median(rates) + start, low + start, high + start), (
        f"Time: {median(rates) / 1e9:,.3g} GFLOP/s of useful operations a process, as measured by {runs}{setup}."
    )


def _memory(setup: Setup, similar: Sequence[SimilarRun], device: Device) -> tuple[Range, str]:
    """Counted bytes, corrected by the peak of the nearest run: less, the farther it is; and where they come from."""
    counted = sum(setup.memory_parts(device).values())
    basis = "Memory: weights, gradients, AdamW's moments and what the backward pass keeps, counted from the sizes"
    nearest = next((each for each in similar if each.run.memory), None)
    if nearest is None:
        span = Range(counted, counted / _ASSUMED_MEMORY_FACTOR, counted * _ASSUMED_MEMORY_FACTOR)
        return span, f"{basis}; no run has measured its peak yet."
    own = sum(nearest.setup.memory_parts(device).values())
    correction = math.exp(math.log(nearest.run.memory / own) / (1 + nearest.distance))
    expected, factor = counted * correction, _MEASURED_MEMORY_FACTOR + _DRIFT_MEMORY * nearest.distance
    span = Range(expected, expected / factor, expected * factor)
    return span, f"{basis}, times {correction:.2f} after the peak of {nearest.run.run_id}."


@dataclass(frozen=True)
class TrainingTime:
    """Of several pre-trainings, one after another. ``certainty``: the least certain of the estimates."""

    seconds: Range
    certainty: Certainty


def add_estimates(estimates: Sequence[RunEstimate], counts: Sequence[int]) -> TrainingTime:
    """``counts``: for each estimate the number of pre-trainings like it; at least one estimate."""
    weighted = list(zip(estimates, counts, strict=True))
    expected, low, high = (
        sum(count * getattr(estimate.seconds, bound) for estimate, count in weighted)
        for bound in ("expected", "low", "high")
    )
    certainty = max((each.certainty for each in estimates), key=("measured", "scaled", "assumed").index)
    return TrainingTime(Range(expected, low, high), certainty)
