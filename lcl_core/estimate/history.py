"""Earlier runs as measurements: their rates, their mean document, and their similarity to a planned run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.estimate.flops import ModelSizes, Workload, expected_workload, method_step_flops, model_sizes
from lcl_core.estimate.memory import (
    Memory,
    frozen_parameters,
    method_parameters,
    model_parameters,
    target_parameters,
    training_memory,
)
from lcl_core.specs.data import VIEW_ITEMS
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

GIB = 2**30
PAIR_WORDS, DOCUMENT_WORDS, DOCUMENT_IMAGES = 20.0, 80.0, 2.0  # assumed without a measurement
_DELIMITERS = 2  # tokens around those of an image
MAX_SIMILAR = 5  # runs whose rates count
MIN_STEPS, MIN_SECONDS = 50, 600.0  # of a run whose rate counts: in fewer, or less time, its start decides the rate
_DISTANCE_MARGIN = 0.5  # beyond the nearest
_OTHER_METHOD, _OTHER_ENGINE = 0.3, 0.2  # as if the sizes differed by e to this


@dataclass(frozen=True)
class MeasuredRun:
    """Counts over ``seconds`` of steps.

    Attributes:
        resource: of its worker.
        documents: 0 while unknown, until the run has ended.
        memory: peak of a process, bytes; 0: unknown.
        overhead: seconds beside its steps, such as its start; None: unknown.
        vocabulary: its size, specials included; None: unknown, until the run has ended.
    """

    run_id: str
    spec: PretrainSpec
    resource: str
    steps: int
    seconds: float
    images: float
    tokens: float
    documents: float
    memory: float
    overhead: float | None
    vocabulary: int | None = None

    @property
    def documents_read(self) -> float:
        """Counted, or estimated from its images while it is running."""
        return self.documents or self.images / max(assumed_document(self.spec).images, 1e-9)

    @property
    def measures_rate(self) -> bool:
        return self.steps >= MIN_STEPS or self.seconds >= MIN_SECONDS

    @property
    def documents_at_once(self) -> float:
        """In one process and micro-batch."""
        return self.documents_read / self.steps / process_count(self.spec) / self.spec.engine.accumulate


def process_count(spec: PretrainSpec) -> int:
    """Training processes on all nodes."""
    return spec.engine.nodes * spec.engine.processes


def first_step(spec: PretrainSpec) -> int:
    """Step of the checkpoint that a run starts from; 0: none. The steps before it are those of its trunk."""
    return 0 if spec.branch is None else spec.branch.step


def measured_run(
    run_id: str,
    spec: Mapping[str, Any],
    resource: str,
    progress: Mapping[str, Any] | None,
    result: Mapping[str, Any] | None,
    ran_seconds: float | None = None,
) -> MeasuredRun | None:
    """From a run's row; None when figures are missing.

    Args:
        result: None: it has not ended.
        ran_seconds: of a single attempt from the first step to the end; None: it had several, or the first steps are
            those of another run, whose seconds ``result`` counts too.
    """
    parsed = parse_spec("pretrain", dict(spec))
    assert isinstance(parsed, PretrainSpec)
    result = result or {}
    encoder, vocabulary = result.get("encoder"), None
    if isinstance(encoder, Mapping):
        counts = ("steps", "seconds", "images_seen", "tokens_seen", "documents_seen")
        steps, seconds, images, tokens, documents = (_number(encoder, name) for name in counts)
        overhead = None if ran_seconds is None else max(ran_seconds - seconds, 0.0)
        memory, vocabulary = _number(result.get("final") or {}, "memory_gib") * GIB, vocabulary_size(encoder)
        known = all((steps, seconds, images, tokens, documents))
    else:  # at the rates of its last line, over all that it has read
        line = progress or {}
        rates = ("step", "images_seen", "images_per_s", "tokens_per_s")
        steps, images, images_per_s, tokens_per_s = (_number(line, name) for name in rates)
        seconds = images / images_per_s if images_per_s else 0.0
        tokens, documents, overhead = tokens_per_s * seconds, 0.0, None
        memory = _number(line, "memory_gib") * GIB
        known = all((steps, images, images_per_s, tokens_per_s))
    if not known:
        return None
    counts_read = images, tokens, documents
    return MeasuredRun(run_id, parsed, resource, int(steps), seconds, *counts_read, memory, overhead, vocabulary)


def vocabulary_size(encoder: Mapping[str, Any]) -> int | None:
    """Of a run, by the encoder of its result."""
    return int(_number(encoder, "vocab_size")) or None


def known_vocabulary(spec: PretrainSpec, runs: Sequence[MeasuredRun]) -> int | None:
    """Size of the vocabulary, as the newest run with the same one had it; None: there is no such run."""
    path = spec.tokenizer.path
    same = (run for run in runs if (_same_data(run.spec, spec) if path is None else run.spec.tokenizer.path == path))
    return next((run.vocabulary for run in same if run.vocabulary is not None), None)


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0


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

    def workload(self, spec: PretrainSpec) -> Workload:
        return expected_workload(spec.objective, self.images, spec.model.num_image_tokens, self.tokens(spec))


def mean_document(spec: PretrainSpec, runs: Sequence[MeasuredRun]) -> MeanDocument:
    """As the newest run over the same sources measured it; else an assumption."""
    for ended in (True, False):
        for same in (_same_data, _same_sources):
            for run in runs:
                if bool(run.documents) == ended and same(run.spec, spec):
                    return _measured_document(run)
    return assumed_document(spec)


def assumed_document(spec: PretrainSpec) -> MeanDocument:
    """For sources that no known run has read."""
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


def _measured_document(run: MeasuredRun) -> MeanDocument:
    documents = run.documents_read
    images, tokens = run.images / documents, run.tokens / documents
    words = max(tokens - images * (run.spec.model.num_image_tokens + _DELIMITERS), 1.0)
    how = "read them" if run.documents else "reads them, though it counts only images and tokens until it ends"
    because = f"Documents: {images:.3g} images and {words:.3g} tokens of text each, as {run.run_id} {how}."
    full = MeanDocument(images, words, 1.0, because).documents(run.spec)
    return MeanDocument(images, words, min(1.0, run.documents_at_once / full), because)


def _same_data(one: PretrainSpec, other: PretrainSpec) -> bool:
    return one.data == other.data and one.tokenizer == other.tokenizer


def _same_sources(one: PretrainSpec, other: PretrainSpec) -> bool:
    a, b = ({(source.dataset, source.view, source.weight) for source in spec.data.sources} for spec in (one, other))
    return a == b


Teachers = Mapping[str, float]  # operations of a forward pass over an image, by id or name of a registered encoder


@dataclass(frozen=True)
class Setup:
    """A spec with its sizes in numbers.

    Attributes:
        sizes: of its model.
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
    def of(
        cls, spec: PretrainSpec, one: Workload, documents: float, teachers: Teachers, vocabulary: int | None = None
    ) -> Setup:
        """With ``documents`` mean documents, of which ``one`` is the workload, in a process and micro-batch.

        ``vocabulary``: as of ``model_sizes``.
        """
        distill = spec.objective.distill
        teacher = 0.0 if distill is None else teachers.get(distill.encoder, 0.0)
        sizes = model_sizes(spec, vocabulary)
        step = method_step_flops(spec.objective, sizes, one, spec.model.freeze, teacher)
        flops = step * documents * spec.engine.accumulate
        parameters = model_parameters(sizes) + method_parameters(spec.objective, sizes)
        frozen = frozen_parameters(sizes, spec.model.freeze) + target_parameters(spec.objective, sizes)
        return cls(spec, sizes, parameters, frozen, flops, one.times(documents))

    def memory(self, *, half: bool, on_gpu: bool) -> Memory:
        """Of one process. With a GPU, the copy that a checkpoint writes is in the host's memory."""
        engine = self.spec.engine
        return training_memory(
            self.sizes,
            self.parameters,
            self.workload,
            image_size=self.spec.model.image_size,
            half=half,
            staged=not on_gpu,
            checkpointing=engine.activation_checkpointing,
            shards=process_count(self.spec) if engine.strategy == "fsdp2" else 1,
            frozen=self.frozen,
            step_images=self.workload.images * engine.accumulate * process_count(self.spec),
        )


@dataclass(frozen=True)
class SimilarRun:
    """An earlier run, compared with the planned one.

    Attributes:
        distance: 0 for the very same setup; else about the logarithm of how much sizes differ.
        rate: useful FLOP/s of a process.
    """

    run: MeasuredRun
    setup: Setup
    distance: float
    rate: float


def similar_runs(setup: Setup, runs: Sequence[MeasuredRun], teachers: Teachers) -> list[SimilarRun]:
    """The nearest few, nearest first; of equally near ones the earlier in ``runs``."""
    known = [each for run in runs if (each := _similar_run(setup, run, teachers)) is not None]
    similar = sorted(known, key=lambda each: each.distance)
    return [each for each in similar if each.distance <= similar[0].distance + _DISTANCE_MARGIN][:MAX_SIMILAR]


def median_overhead(similar: Sequence[SimilarRun]) -> float | None:
    """Seconds beside the steps; None: unknown."""
    known = [each.run.overhead for each in similar if each.run.overhead is not None]
    return median(known) if known else None


def _similar_run(setup: Setup, run: MeasuredRun, teachers: Teachers) -> SimilarRun | None:
    """None for a run whose vision tower is of a library that is not installed here."""
    documents = run.documents_read
    images, tokens = run.images / documents, run.tokens / documents
    one = expected_workload(run.spec.objective, images, run.spec.model.num_image_tokens, tokens)
    try:
        own = Setup.of(run.spec, one, run.documents_at_once, teachers, run.vocabulary)
    except UserError:
        return None
    return SimilarRun(run, own, _distance(setup, own), own.flops * run.steps / run.seconds)


def _distance(one: Setup, other: Setup) -> float:
    a, b = one.spec, other.spec
    sizes = _log_ratio(one.flops, other.flops) + _log_ratio(one.parameters, other.parameters)
    differences = [
        a.precision != b.precision,
        a.engine.compile != b.engine.compile,
        a.engine.strategy != b.engine.strategy,
        a.engine.activation_checkpointing != b.engine.activation_checkpointing,
        a.engine.accumulate != b.engine.accumulate,
        a.objective.distill != b.objective.distill,
    ]
    processes = _OTHER_ENGINE * _log_ratio(process_count(a), process_count(b))
    method = _OTHER_METHOD * (a.objective.name != b.objective.name)
    return sizes / 2 + method + _OTHER_ENGINE * sum(differences) + processes


def _log_ratio(one: float, other: float) -> float:
    return abs(math.log(one / other))
