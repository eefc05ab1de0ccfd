"""Earlier runs as measurements: their rates, their mean document, and their similarity to a planned run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.estimate.flops import FORWARD_FLOPS, FORWARDS_PER_STEP, Workload, expected_workload, model_sizes
from lcl_core.estimate.memory import Memory, method_parameters, model_parameters, training_memory
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import VIEW_ITEMS, PretrainSpec

GIB = 2**30


@dataclass(frozen=True)
class MeasuredRun:
    """Counts over ``seconds`` of steps.

    Attributes:
        resource: what its worker had to offer.
        documents: 0 while unknown: a run tells them when it has ended.
        memory: peak of a process, bytes; 0: unknown.
        around: seconds that went by beside its steps, such as its start; None: unknown.
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
    around: float | None

    @property
    def counted(self) -> bool:
        return self.documents > 0


def process_count(spec: PretrainSpec) -> int:
    """That train together."""
    return spec.engine.nodes * spec.engine.processes


def measured_run(
    run_id: str,
    spec: Mapping[str, Any],
    resource: str,
    progress: Mapping[str, Any] | None,
    result: Mapping[str, Any] | None,
    ran_seconds: float | None = None,
) -> MeasuredRun | None:
    """From a run's row; None when it tells too little, or its spec is of an older version and not valid any more.

    Args:
        progress: its last line of metrics.
        result: what it ended with; None: it has not.
        ran_seconds: that one attempt took from its start to its end; None: it had several.
    """
    try:
        parsed = parse_spec("pretrain", dict(spec))
    except UserError:
        return None
    assert isinstance(parsed, PretrainSpec)
    encoder = (result or {}).get("encoder")
    if isinstance(encoder, Mapping):
        return _from_result(run_id, parsed, resource, encoder, (result or {}).get("final") or {}, ran_seconds)
    return _from_progress(run_id, parsed, resource, progress or {})


def _from_result(
    run_id: str,
    spec: PretrainSpec,
    resource: str,
    encoder: Mapping[str, Any],
    final: Mapping[str, Any],
    ran_seconds: float | None,
) -> MeasuredRun | None:
    names = ("steps", "seconds", "images_seen", "tokens_seen", "documents_seen")
    steps, seconds, images, tokens, documents = (_number(encoder, name) for name in names)
    if not (steps and seconds and images and tokens and documents):
        return None
    around = None if ran_seconds is None else max(ran_seconds - seconds, 0.0)
    memory = _number(final, "memory_gib") * GIB
    return MeasuredRun(run_id, spec, resource, int(steps), seconds, images, tokens, documents, memory, around)


def _from_progress(run_id: str, spec: PretrainSpec, resource: str, line: Mapping[str, Any]) -> MeasuredRun | None:
    """At the rates of its last line, over all that it has seen."""
    names = ("step", "images_seen", "images_per_s", "tokens_per_s")
    step, images, per_second, tokens = (_number(line, name) for name in names)
    if not (step and images and per_second and tokens):
        return None
    memory = _number(line, "memory_gib") * GIB
    seconds = images / per_second
    return MeasuredRun(run_id, spec, resource, int(step), seconds, images, tokens * seconds, 0.0, memory, None)


def _number(facts: Mapping[str, Any], name: str) -> float:
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0


PAIR_WORDS, DOCUMENT_WORDS, DOCUMENT_IMAGES = 20.0, 80.0, 2.0  # where nothing was read yet
_DELIMITERS = 2  # tokens around those of an image


@dataclass(frozen=True)
class MeanDocument:
    """The mean document of a run's sources.

    Attributes:
        images, words: pictures, and tokens beside theirs.
        fill: how much of a batch's budget is used.
        because: what this rests on.
    """

    images: float
    words: float
    fill: float
    because: str

    def tokens(self, spec: PretrainSpec) -> float:
        """Of a document, those of its pictures among them."""
        whole = self.words + self.images * (spec.kept_patches + _DELIMITERS)
        return min(whole, float(spec.model.context_length))

    def documents(self, spec: PretrainSpec) -> float:
        """That one process reads at once: until either budget is full."""
        room = min(spec.batch.tokens / self.tokens(spec), spec.batch.images / max(self.images, 1e-9))
        return max(1.0, room * self.fill)

    def load(self, spec: PretrainSpec) -> Workload:
        """Of the mean document."""
        return expected_workload(spec.objective, self.images, spec.kept_patches, self.tokens(spec))


def mean_document(spec: PretrainSpec, pasts: Sequence[MeasuredRun]) -> MeanDocument:
    """As the newest run has read the same sources, or reads them; else as is assumed."""
    for counted in (True, False):
        for alike in (_same_data, _same_sources):
            for past in pasts:
                if past.counted == counted and alike(past.spec, spec):
                    return _measured_document(past)
    return assumed_document(spec)


def documents_read(past: MeasuredRun) -> float:
    """That it has read; while it is under way, from its pictures."""
    return past.documents or past.images / max(assumed_document(past.spec).images, 1e-9)


def assumed_document(spec: PretrainSpec) -> MeanDocument:
    """For sources that no run is known to have read."""
    total = sum(source.weight for source in spec.data.sources)
    pairs = sum(source.weight for source in spec.data.sources if VIEW_ITEMS[source.view] == "pairs") / total
    held = min(DOCUMENT_IMAGES, spec.data.max_images, spec.data.piece_images or spec.data.max_images)
    images = pairs + (1 - pairs) * held
    words = pairs * PAIR_WORDS + (1 - pairs) * DOCUMENT_WORDS
    because = (
        f"Documents: assumed to hold {images:.2g} pictures and {words:.0f} tokens of text each and to fill every "
        "batch; no run that you may see has read these sources."
    )
    return MeanDocument(images, words, 1.0, because)


def _measured_document(past: MeasuredRun) -> MeanDocument:
    documents = documents_read(past)
    images, tokens = past.images / documents, past.tokens / documents
    words = max(tokens - images * (past.spec.kept_patches + _DELIMITERS), 1.0)
    how = "read them" if past.counted else "reads them, though it counts only pictures and tokens until it ends"
    because = f"Documents: {images:.3g} pictures and {words:.3g} tokens of text each, as {past.run_id} {how}."
    full = MeanDocument(images, words, 1.0, because)
    at_once = documents / past.steps / (process_count(past.spec) * past.spec.engine.accumulate)
    return MeanDocument(images, words, min(1.0, at_once / full.documents(past.spec)), because)


def _same_data(one: PretrainSpec, other: PretrainSpec) -> bool:
    return one.data == other.data and one.tokenizer == other.tokenizer


def _same_sources(one: PretrainSpec, other: PretrainSpec) -> bool:
    return _sources(one) == _sources(other)


def _sources(spec: PretrainSpec) -> set[tuple[str, str, float]]:
    return {(source.dataset, source.view, source.weight) for source in spec.data.sources}


MAX_SIMILAR = 5  # runs whose rates are looked at
_DISTANCE_MARGIN = 0.5  # beyond the nearest
_OTHER_METHOD, _OTHER_ENGINE = 0.3, 0.2  # as if the sizes differed by e to this


@dataclass(frozen=True)
class Setup:
    """A spec with its sizes in numbers.

    Attributes:
        parameters: all that are trained.
        flops: useful operations that a process makes in a step.
        at_once: what a process reads at once.
    """

    spec: PretrainSpec
    parameters: int
    flops: float
    at_once: Workload

    @staticmethod
    def of(spec: PretrainSpec, mix: MeanDocument) -> Setup:
        return Setup.reading(spec, mix.load(spec), mix.documents(spec))

    @staticmethod
    def reading(spec: PretrainSpec, one: Workload, documents: float) -> Setup:
        """With so many mean documents at once in a process."""
        sizes = model_sizes(spec)
        flops = FORWARDS_PER_STEP * FORWARD_FLOPS[spec.objective.name](sizes, one) * documents * spec.engine.accumulate
        many = Workload(
            one.images * documents,
            one.patches,
            [length * documents for length in one.lengths],
            one.labels * documents,
            one.restored * documents,
        )
        parameters = model_parameters(sizes) + method_parameters(spec.objective.name, sizes)
        return Setup(spec, parameters, flops, many)

    def memory(self, *, half: bool, on_gpu: bool) -> Memory:
        """Of one process. On a GPU what a checkpoint writes meanwhile is in the host's memory."""
        engine, average = self.spec.engine, self.spec.ema_decay is not None
        return training_memory(
            model_sizes(self.spec),
            self.parameters,
            self.at_once,
            image_size=self.spec.model.image_size,
            half=half,
            average=average,
            staged=self.spec.async_checkpoint and not on_gpu,
            checkpointing=engine.activation_checkpointing,
            shards=process_count(self.spec) if engine.strategy == "fsdp2" else 1,
        )


@dataclass(frozen=True)
class SimilarRun:
    """A run of the past beside the one to come.

    Attributes:
        distance: 0 for the very same setup; else about the logarithm of how much sizes differ.
        rate: useful FLOP/s of a process.
    """

    past: MeasuredRun
    setup: Setup
    distance: float
    rate: float


def similar_runs(setup: Setup, pasts: Sequence[MeasuredRun]) -> list[SimilarRun]:
    """The nearest few, nearest first; of equally near ones those that come first."""
    found = sorted((_similar_run(setup, past) for past in pasts), key=lambda like: like.distance)
    return [like for like in found if like.distance <= found[0].distance + _DISTANCE_MARGIN][:MAX_SIMILAR]


def median_overhead(likes: Sequence[SimilarRun]) -> float | None:
    """Seconds beside the steps, as those runs had them; None: none tells."""
    told = [like.past.around for like in likes if like.past.around is not None]
    return median(told) if told else None


def _similar_run(setup: Setup, past: MeasuredRun) -> SimilarRun:
    documents = documents_read(past)
    one = expected_workload(
        past.spec.objective, past.images / documents, past.spec.kept_patches, past.tokens / documents
    )
    ranks, accumulate = process_count(past.spec), past.spec.engine.accumulate
    own = Setup.reading(past.spec, one, documents / past.steps / ranks / accumulate)
    rate = own.flops * past.steps / past.seconds
    return SimilarRun(past, own, _distance(setup, own), rate)


def _distance(one: Setup, other: Setup) -> float:
    a, b = one.spec, other.spec
    sizes = _log_ratio(one.flops, other.flops) + _log_ratio(one.parameters, other.parameters)
    ways = [
        a.precision != b.precision,
        a.engine.compile != b.engine.compile,
        a.engine.strategy != b.engine.strategy,
        a.engine.activation_checkpointing != b.engine.activation_checkpointing,
        a.engine.accumulate != b.engine.accumulate,
    ]
    joined = _OTHER_ENGINE * _log_ratio(process_count(a), process_count(b))
    return sizes / 2 + _OTHER_METHOD * (a.objective.name != b.objective.name) + _OTHER_ENGINE * sum(ways) + joined


def _log_ratio(one: float, other: float) -> float:
    return abs(math.log(one / other))
