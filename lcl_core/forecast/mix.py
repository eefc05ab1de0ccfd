"""What a document holds, and how many of them a step reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcl_core.costs.methods import Load, expected
from lcl_core.forecast.past import Past, processes
from lcl_core.specs import VIEW_GIVES, PretrainSpec

PAIR_WORDS, DOCUMENT_WORDS, DOCUMENT_IMAGES = 20.0, 80.0, 2.0  # where nothing was read yet
_AROUND = 2  # tokens around those of an image


@dataclass(frozen=True)
class Mix:
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
        whole = self.words + self.images * (spec.kept_patches + _AROUND)
        return min(whole, float(spec.model.context_length))

    def documents(self, spec: PretrainSpec) -> float:
        """That one process reads at once: until either budget is full."""
        room = min(spec.batch.tokens / self.tokens(spec), spec.batch.images / max(self.images, 1e-9))
        return max(1.0, room * self.fill)

    def load(self, spec: PretrainSpec) -> Load:
        """Of the mean document."""
        return expected(spec.objective, self.images, spec.kept_patches, self.tokens(spec))


def mix_of(spec: PretrainSpec, pasts: Sequence[Past]) -> Mix:
    """As the newest run has read the same sources, or reads them; else as is assumed."""
    for counted in (True, False):
        for alike in (_same_data, _same_sources):
            for past in pasts:
                if past.counted == counted and alike(past.spec, spec):
                    return _seen(past)
    return assumed_mix(spec)


def documents_of(past: Past) -> float:
    """That it has read; while it is under way, from its pictures."""
    return past.documents or past.images / max(assumed_mix(past.spec).images, 1e-9)


def assumed_mix(spec: PretrainSpec) -> Mix:
    """For sources that no run is known to have read."""
    total = sum(source.weight for source in spec.data.sources)
    pairs = sum(source.weight for source in spec.data.sources if VIEW_GIVES[source.view] == "pairs") / total
    held = min(DOCUMENT_IMAGES, spec.data.max_images, spec.data.piece_images or spec.data.max_images)
    images = pairs + (1 - pairs) * held
    words = pairs * PAIR_WORDS + (1 - pairs) * DOCUMENT_WORDS
    because = (
        f"Documents: assumed to hold {images:.2g} pictures and {words:.0f} tokens of text each and to fill every "
        "batch; no run that you may see has read these sources."
    )
    return Mix(images, words, 1.0, because)


def _seen(past: Past) -> Mix:
    documents = documents_of(past)
    images, tokens = past.images / documents, past.tokens / documents
    words = max(tokens - images * (past.spec.kept_patches + _AROUND), 1.0)
    how = "read them" if past.counted else "reads them, though it counts only pictures and tokens until it ends"
    because = f"Documents: {images:.3g} pictures and {words:.3g} tokens of text each, as {past.run_id} {how}."
    full = Mix(images, words, 1.0, because)
    at_once = documents / past.steps / (processes(past.spec) * past.spec.engine.accumulate)
    return Mix(images, words, min(1.0, at_once / full.documents(past.spec)), because)


def _same_data(one: PretrainSpec, other: PretrainSpec) -> bool:
    return one.data == other.data and one.tokenizer == other.tokenizer


def _same_sources(one: PretrainSpec, other: PretrainSpec) -> bool:
    return _sources(one) == _sources(other)


def _sources(spec: PretrainSpec) -> set[tuple[str, str, float]]:
    return {(source.dataset, source.view, source.weight) for source in spec.data.sources}
