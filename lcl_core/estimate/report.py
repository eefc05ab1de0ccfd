"""Estimate of a pre-training run: time, memory, operations, disk, and where each comes from.

Earlier runs measure the rate of a setup and the mean document of a corpus; operations and memory are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, cast

from lcl_core.estimate import flops
from lcl_core.estimate.flops import DELIMITERS, Sizes, Workload
from lcl_core.specs.data import VIEW_ITEMS
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.vision import tower_kind

Certainty = Literal["measured", "scaled", "assumed"]
Device = Literal["cpu", "gpu"]
GIB = 2**30
MAX_SIMILAR = 5  # runs whose rates count
MIN_STEPS, MIN_SECONDS = 50, 600.0  # of a run that counts: in fewer, or less time, its start decides rate and peak
PAIR_WORDS, DOCUMENT_WORDS, DOCUMENT_IMAGES = 20.0, 80.0, 2.0  # assumed without a measurement
# Useful FLOP/s of a process without a measurement: about what two cores of a server or one large GPU do.
ASSUMED_RATE = {"cpu": 1e11, "gpu": 5e13}
START_SECONDS = 15.0  # before the first step
SETUP = ("model", "objective", "batch", "engine", "precision")  # fields of a spec that decide a step's time
PROCESS_BYTES = {"cpu": round(0.8 * GIB), "gpu": round(0.25 * GIB)}  # libraries, kernels, holes in the heap
FP32, HALF = 4, 2
_MOMENTS = 2  # of AdamW
_RECOMPUTED = 0.25  # share of the activations that checkpointing keeps
_LOGITS = {FP32: 32 << 20, HALF: 192 << 20}  # bytes of logits at once
_TIME_FACTOR = {"measured": 1.15, "scaled": 1.5, "assumed": 4.0}  # by which a rate may be wrong


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
        disk_bytes: all checkpoints that are kept at the end, with the encoder.
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
    """Counts of a run that has ended, of all its processes, over ``seconds`` of steps.

    ``memory``: peak of a process, bytes; 0: unknown.
    """

    run_id: str
    spec: PretrainSpec
    steps: float
    seconds: float
    images: float
    tokens: float
    documents: float
    flops: float
    memory: float

    @property
    def flops_per_step(self) -> float:
        """Of one process."""
        return self.flops / self.steps / _processes(self.spec)


def measured_run(run_id: str, spec: Mapping[str, Any], result: Mapping[str, Any]) -> MeasuredRun | None:
    """From the row of a run that has ended; None when figures are missing."""
    encoder = result.get("encoder") or {}
    names = ("steps", "seconds", "images_seen", "tokens_seen", "documents_seen", "flops")
    steps, seconds, images, tokens, documents, flops = (float(encoder.get(name) or 0.0) for name in names)
    if not steps * seconds * images * tokens * documents * flops or (steps < MIN_STEPS and seconds < MIN_SECONDS):
        return None
    memory = float((result.get("final") or {}).get("memory_gib") or 0.0) * GIB
    parsed = cast(PretrainSpec, parse_spec("pretrain", dict(spec)))
    return MeasuredRun(run_id, parsed, steps, seconds, images, tokens, documents, flops, memory)


def _processes(spec: PretrainSpec) -> int:
    return spec.engine.nodes * spec.engine.processes


def _mean_batch(spec: PretrainSpec, runs: Sequence[MeasuredRun]) -> tuple[Counts, str]:
    """What one process reads in a micro-batch, until either budget is used; and where that comes from."""

    def sources(spec: PretrainSpec) -> set[tuple[str, str, float]]:
        return {(source.dataset, source.view, source.weight) for source in spec.data.sources}

    image_tokens = spec.model.num_image_tokens + DELIMITERS
    if run := next((run for run in runs if sources(run.spec) == sources(spec)), None):
        images = run.images / run.documents
        words = max(run.tokens / run.documents - images * (run.spec.model.num_image_tokens + DELIMITERS), 1.0)
        basis = f"Documents: {images:.3g} images and {words:.3g} tokens of text each, as {run.run_id} read them."
    else:
        total = sum(source.weight for source in spec.data.sources)
        pairs = sum(source.weight for source in spec.data.sources if VIEW_ITEMS[source.view] == "pairs") / total
        most = min(DOCUMENT_IMAGES, spec.data.max_images, spec.data.piece_images or spec.data.max_images)
        images, words = pairs + (1 - pairs) * most, pairs * PAIR_WORDS + (1 - pairs) * DOCUMENT_WORDS
        basis = f"Documents: assumed to hold {images:.2g} images and {words:.0f} tokens of text each."
    tokens = min(words + images * image_tokens, float(spec.model.context_length))
    fit = max(1.0, min(spec.batch.tokens / tokens, spec.batch.images / max(images, 1e-9)))
    return Counts(fit, fit * images, fit * tokens), basis


# ---- memory and disk


def training_memory(
    spec: PretrainSpec, sizes: Sizes, load: Workload, parameters: int, frozen: int, device: Device,
    documents: float = 1.0,
) -> dict[str, int]:  # fmt: skip
    """Bytes of one process at the peak of a step, by part.

    Args:
        load: of one of the ``documents`` of a process's micro-batch.
        parameters, frozen: with those of the method; those among them that are not trained.
    """
    # precision auto on a CPU is not known here: counted as fp32, which needs more
    half = spec.precision == "bf16" or (spec.precision == "auto" and device == "gpu")
    item = HALF if half else FP32
    shards = _processes(spec) if spec.engine.strategy == "fsdp2" else 1
    # a checkpoint is written from a copy while steps run; with a GPU it is in the host's memory
    copies = state_bytes(parameters, frozen) // shards if device == "cpu" else 0
    if half:  # of the weights of the blocks
        text = sizes.text_layers * flops.block_parameters(sizes.text_width)
        copies += HALF * (text + flops.part_parameters(sizes)["vision"])
    if spec.monitor is not None:
        copies += FP32 * parameters
    # What the blocks save (lcl_core.ops.recompute): the two inputs of their norms in fp32, and in the precision of the
    # products q, k, v, the attention output and, in the vision tower, the MLP's pre-activation.
    words, patches = float(sum(load.lengths) + sum(load.matched)), load.images * (load.patches + 1)
    blocks = words * sizes.text_width * sizes.text_layers * (2 * FP32 + 4 * item)
    blocks += load.images * flops.convolution_counts(sizes).outputs * FP32
    if tower_kind(sizes.vision).patchwise:
        blocks += patches * sizes.vision_width * sizes.vision_layers * (2 * FP32 + item * (4 + flops.MLP_RATIO))
    if spec.engine.activation_checkpointing:
        blocks *= _RECOMPUTED
    pooled = load.images * load.patches * (2 * sizes.vision_width + 3 * sizes.text_width) * FP32
    trained = FP32 * (parameters - frozen) // shards
    return {
        "weights": FP32 * parameters // shards,
        "gradients": trained,
        "moments": _MOMENTS * trained,
        "copies": copies,
        "activations": round(documents * (blocks + pooled) + _LOGITS[item] * (load.labels > 0)),
        "process": PROCESS_BYTES[device],
    }


def state_bytes(parameters: int, frozen: int) -> int:
    """Of a checkpoint's tensors: weights, and of those that are trained both moments."""
    return FP32 * (parameters + (parameters - frozen) * _MOMENTS)


# ---- the estimate


def estimate_pretraining(spec: PretrainSpec, runs: Sequence[MeasuredRun], device: Device = "cpu") -> RunEstimate:
    """Time, memory, operations and disk of a run of ``spec`` on ``device``.

    Args:
        runs: earlier ones on the same kind of device, newest first.
    """
    batch, documents_basis = _mean_batch(spec, runs)
    sizes, objective = flops.model_sizes(spec), spec.objective
    documents, patches = batch.documents, spec.model.num_image_tokens
    one = flops.expected_workload(objective, batch.images / documents, patches, batch.tokens / documents)
    step = flops.method_step_flops(objective, sizes, one) * documents * spec.engine.accumulate
    targets = flops.target_parameters(objective, sizes)
    encoder = flops.model_parameters(sizes)
    parameters = encoder + flops.method_parameters(objective, sizes) + targets
    frozen = targets + sum(flops.part_parameters(sizes)[part] for part in spec.model.freeze)
    # the newest runs of the same setup, else those nearest in operations a step
    similar = [run for run in runs if all(getattr(run.spec, name) == getattr(spec, name) for name in SETUP)]
    certainty: Certainty = "measured" if similar else "scaled" if runs else "assumed"
    similar = similar or sorted(runs, key=lambda run: abs(math.log(run.flops_per_step / step)))
    similar = similar[:MAX_SIMILAR]
    first, ranks = 0 if spec.branch is None else spec.branch.step, _processes(spec)
    steps = spec.steps - first
    scale = [1.0 if certainty == "measured" else step / run.flops_per_step for run in similar]
    paces = [run.seconds / run.steps * share for run, share in zip(similar, scale, strict=True)]
    paces = paces or [step / ASSUMED_RATE[device]]
    bounds = median(paces), min(paces) / _TIME_FACTOR[certainty], max(paces) * _TIME_FACTOR[certainty]
    names = ", ".join(run.run_id for run in similar)
    time_basis = {
        "measured": f"as measured by {names}, of this very setup",
        "scaled": f"by the operations and the rates of {names}, of other setups",
        "assumed": f"assumed at {ASSUMED_RATE[device] / 1e9:,.0f} GFLOP/s a process ({device})",
    }[certainty]

    memory = training_memory(spec, sizes, one, parameters, frozen, device, documents)
    peak = next((run for run in similar if run.memory), None) if certainty == "measured" else None
    used, doubt = (peak.memory, 1.1) if peak else (float(sum(memory.values())), 1.5)
    memory_basis = f"the peak of {peak.run_id}" if peak else "counted from the sizes of weights and activations"

    per_step = batch.times(ranks * spec.engine.accumulate)
    checkpoint = state_bytes(parameters, frozen)
    kept = min(spec.keep_checkpoints, math.ceil(steps / spec.checkpoint_every))
    if spec.milestone_every:
        kept += spec.steps // spec.milestone_every - max(first - 1, 0) // spec.milestone_every
    return RunEstimate(
        certainty=certainty,
        device=device,
        seconds=Range(*(START_SECONDS + steps * pace for pace in bounds)),
        memory_bytes=Range(used, used / doubt, used * doubt),
        memory_parts=memory,
        parameters=encoder,
        flops_per_step=step * ranks,
        flops=step * ranks * steps,
        per_step=per_step,
        samples=per_step.times(steps),
        checkpoint_bytes=checkpoint,
        disk_bytes=kept * checkpoint + FP32 * encoder * (1 if spec.monitor is None else 2),
        basis=[f"Time: {median(paces):.3g} s a step, {time_basis}.", documents_basis, f"Memory: {memory_basis}."],
        runs=[run.run_id for run in similar],
    )


def add_estimates(estimates: Sequence[RunEstimate], counts: Sequence[int]) -> tuple[Range, Certainty]:
    """Seconds of several pre-trainings, one after another, and the least certainty; ``counts``: of each estimate."""
    expected, low, high = (
        sum(count * getattr(each.seconds, bound) for each, count in zip(estimates, counts, strict=True))
        for bound in ("expected", "low", "high")
    )
    certainty = max((each.certainty for each in estimates), key=("measured", "scaled", "assumed").index)
    return Range(expected, low, high), certainty
