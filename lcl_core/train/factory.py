"""Builders of a pre-training run: corpora, tokenizer, configuration, model, and the collator of its batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.corpus.open import open_corpus
from lcl_core.data.records import TextSegment, parse_segments
from lcl_core.data.sampling.packing import DocumentBatch
from lcl_core.data.sampling.shuffle import mix64
from lcl_core.data.tokenizer import Tokenizer, clip_tokenizer, train_bpe
from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives.base import Objective
from lcl_core.specs.pretrain import METHODS, PretrainSpec


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
    return train_bpe(_training_texts(spec, corpora), spec.tokenizer.vocab_size)


def _training_texts(spec: PretrainSpec, corpora: dict[str, Corpus]) -> list[str]:
    texts: list[str] = []
    for source in spec.data.sources:
        corpus = corpora[source.dataset]
        if source.view == "pairs":
            texts += [caption for pair in corpus.pairs(source.split) for caption in pair.captions]
        else:
            texts += [text for document in corpus.documents for text in _document_texts(document)]
    return texts


def _document_texts(document: dict[str, Any]) -> list[str]:
    """Texts of a document; of one with segments, theirs."""
    if "segments" not in document:
        return document["text_list"]
    return [segment.text for segment in parse_segments(document) if isinstance(segment, TextSegment)]


def build_config(spec: PretrainSpec, tokenizer: Tokenizer) -> LCLConfig:
    """The model's configuration for this spec and vocabulary.

    It holds the weights of the two losses of :meth:`LCLModel.forward`; 0 for a loss that the objective lacks.
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
        text_attention=METHODS[spec.objective.name].text_attention,
        numerics=spec.numerics,
    )


def build_model(config: LCLConfig, seed: int) -> LCLModel:
    """Fresh weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LCLModel(config)


@dataclass(frozen=True)
class Collator:
    """Packs documents for one objective and model.

    Attributes:
        kept_patches: encoded patches of an image; the documents hold as many placeholders.
        seed: of random choices: dropped patches, and those of the objective.
    """

    objective: Objective
    config: LCLConfig
    kept_patches: int
    seed: int

    def __call__(self, batch: DocumentBatch) -> PackedBatch:
        """Pack the documents, longest first: documents of similar length share a group in attention."""
        samples = sorted(batch.samples, key=lambda sample: -len(sample.token_ids))
        rows = [torch.from_numpy(sample.token_ids.astype(np.int64)) for sample in samples]
        pixels = torch.from_numpy(np.concatenate([sample.pixels for sample in samples]))
        keys = [mix64(self.seed, sample.position) for sample in samples]
        return self.objective.collate(rows, pixels, self.config, self._patches(len(pixels), batch), keys)

    def _patches(self, images: int, batch: DocumentBatch) -> Tensor | None:
        """[images, kept] patch numbers, ascending: random, the same for the same position in the data."""
        total = self.config.num_image_tokens
        if self.kept_patches == total:
            return None
        draw = np.random.default_rng(mix64(self.seed, *batch.cursor.to_json()))
        shuffled = draw.random((images, total)).argsort(axis=1)[:, : self.kept_patches]
        return torch.from_numpy(np.sort(shuffled, axis=1))
