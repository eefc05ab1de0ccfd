"""From a spec to a model, a tokenizer and a stream of documents."""

from __future__ import annotations

from typing import Any

import torch

from lcl_core.data.corpus import Corpus, open_corpus
from lcl_core.data.document import TextSegment
from lcl_core.data.drafts import segments_of
from lcl_core.data.tokenizer import Tokenizer, clip_tokenizer, train_bpe
from lcl_core.errors import UserError
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.specs import PretrainSpec


def open_corpora(spec: PretrainSpec, paths: dict[str, str]) -> dict[str, Corpus]:
    """The corpora that the spec names. Raises: UserError naming the field of one without a path."""
    corpora: dict[str, Corpus] = {}
    for number, source in enumerate(spec.data.sources):
        if source.dataset not in paths:
            raise UserError(
                f"dataset {source.dataset!r} is not registered; register it or choose another",
                code="unknown_dataset",
                field=f"data.sources.{number}.dataset",
            )
        corpora[source.dataset] = corpora.get(source.dataset) or open_corpus(paths[source.dataset])
    return corpora


def build_tokenizer(spec: PretrainSpec, corpora: dict[str, Corpus]) -> Tokenizer:
    """CLIP's, or byte-pair merges learnt from the texts that the run reads."""
    if spec.tokenizer.kind == "clip":
        return clip_tokenizer()
    return train_bpe(_texts(spec, corpora), spec.tokenizer.vocab_size)


def _texts(spec: PretrainSpec, corpora: dict[str, Corpus]) -> list[str]:
    texts: list[str] = []
    for source in spec.data.sources:
        corpus = corpora[source.dataset]
        if source.view == "pairs":
            texts += [caption for pair in corpus.pairs(source.split) for caption in pair.captions]
        else:
            texts += [text for document in corpus.documents for text in _texts_of(document)]
    return texts


def _texts_of(document: dict[str, Any]) -> list[str]:
    """Of a sequence, those of its segments: it need not list them a second time."""
    if "segments" not in document:
        return document["text_list"]
    return [segment.text for segment in segments_of(document) if isinstance(segment, TextSegment)]


def build_config(spec: PretrainSpec, tokenizer: Tokenizer) -> LCLConfig:
    """The model's configuration for this spec and vocabulary.

    Of the losses' weights it holds the two of :meth:`LCLModel.forward`; a loss that the method lacks has none.
    """
    specials, weights = tokenizer.specials, spec.objective.weights
    return LCLConfig(
        **spec.model.model_dump(),
        vocab_size=tokenizer.vocab_size,
        sot_token_id=specials.sot,
        eot_token_id=specials.eot,
        img_token_id=specials.img,
        soi_token_id=specials.soi,
        eoi_token_id=specials.eoi,
        contrastive_weight=weights.get("contrastive", 0.0),
        generation_weight=weights.get("generation", 0.0),
        numerics=spec.numerics,
    )


def build_model(config: LCLConfig, seed: int) -> LCLModel:
    """Fresh weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LCLModel(config)
