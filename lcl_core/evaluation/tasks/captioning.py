"""Captioning: train a projector and caption with a language model, or caption with the encoder's own decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.threads import prefetch_map
from lcl_core.data import Corpus
from lcl_core.encoders.captioning import Captioner
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import count_examples
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.results import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext, EvalImage, Holdout, Task, nonempty_captions
from lcl_core.evaluation.vlm.captioning import (
    FIELD,
    CaptionExample,
    CaptionTraining,
    caption_examples,
    caption_images,
    most_frequent_caption,
    plan_caption_training,
)
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.evaluation.vlm.model import save_vlm
from lcl_core.specs.evaluate import CaptioningSpec, EvaluateSpec, Transfer

# rough costs in embedded images: training on a caption once, a caption of the language model, of the own decoder
_STEP_COST = {"frozen": 20.0, "full": 25.0}
_CAPTION_COST = 10.0
_ZERO_SHOT_COST = 3.0


@dataclass(frozen=True)
class Captioning(Task):
    """Captioning (paper, transfer head (c)), frozen or full, and zero-shot captions.

    Attributes:
        files: the language model's; None: zero-shot alone.
        corpus, train: the images to train on; none with zero-shot alone.
        images: captioned images of each tested split.
        left_out: number of other images, by reason.
        holdout: to choose hyper-parameters on; None where nothing is searched.
    """

    name = FIELD

    spec: CaptioningSpec
    transfer: tuple[Transfer, ...]
    files: LanguageModelFiles | None
    corpus: Corpus
    train: list[EvalImage]
    images: dict[str, list[EvalImage]]
    left_out: dict[str, dict[str, int]]
    holdout: Holdout[Ints] | None = None

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, resolver: DatasetResolver) -> Self:
        own, tested = spec.captioning, resolver.test_images(spec, corpus)
        images = {split: [image for image in every if nonempty_captions(image)] for split, every in tested.items()}
        if empty := [split for split, captioned in images.items() if not captioned]:
            raise UserError(f"split {empty[0]!r} has no captions to score by", code="nothing_to_score", field="splits")
        bare = {split: len(every) - len(images[split]) for split, every in tested.items()}
        left_out = {split: {"no_caption": count} if count else {} for split, count in bare.items()}
        transfer = spec.protocols(own)
        if own.language_model is None:
            return cls(own, transfer, None, corpus, [], images, left_out)
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        train_corpus = resolver.train_corpus(spec, own, corpus, FIELD)
        train, holdout = plan_caption_training(spec, corpus, train_corpus, resolver)
        return cls(own, transfer, files, train_corpus, train, images, left_out, holdout)

    @property
    def needs_patch_features(self) -> bool:
        return self.files is not None and "frozen" in self.transfer

    @property
    def examples(self) -> list[CaptionExample]:
        return caption_examples(self.train, self.spec.caption)

    def cost(self) -> float:
        tested = sum(map(len, self.images.values()))
        zero_shot = _ZERO_SHOT_COST * tested if self.spec.zero_shot else 0.0
        if self.files is None:
            return zero_shot
        fixed = len(self.train) + tested + _CAPTION_COST * tested
        examples = len(self.examples)
        return zero_shot + sum(
            fixed + _STEP_COST[each] * count_examples(self.spec.for_protocol(each), examples) for each in self.transfer
        )

    def run(self, context: EvalContext, encoder: EvaluatedEncoder) -> None:
        if self.spec.zero_shot:
            for split, images in self.images.items():
                self._run_zero_shot(context, encoder, split, images)
        if self.files is not None:
            for transfer in self.transfer:
                self._run_transfer(context, encoder, transfer, self.files)

    def _run_zero_shot(
        self, context: EvalContext, encoder: EvaluatedEncoder, split: str, images: list[EvalImage]
    ) -> None:
        """Captions of the encoder's own decoder; an encoder without one has none."""
        context.progress.enter(f"{encoder.role} encoder: its text tower captions {split}")
        decoding, model = self.spec.decoding, encoder.model

        def load(start: int) -> Tensor:
            batch = images[start : start + decoding.batch_size]
            return model.preprocess([context.corpus.read_image(image.name) for image in batch])

        captions: list[str] = []
        starts = range(0, len(images), decoding.batch_size)
        for start, pixels in zip(starts, prefetch_map(load, starts), strict=True):
            # each image has its own seed, whatever the size of a batch
            texts = (
                model.captions(pixels, decoding, context.spec.seed + start) if isinstance(model, Captioner) else None
            )
            context.progress.add(_ZERO_SHOT_COST * len(pixels))
            if texts is None:
                return
            captions += texts
        self._store(context, encoder, split, "zero_shot", captions)

    def _run_transfer(
        self, context: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, files: LanguageModelFiles
    ) -> None:
        assert self.spec.language_model is not None
        training = CaptionTraining(
            context, encoder, transfer, files, self.spec.language_model, self.corpus, self.spec.train_split, self.train,
            FIELD, _STEP_COST[transfer],
        )  # fmt: skip
        spec = training.choose(self.spec.for_protocol(transfer), self.examples, self.holdout)
        vlm, losses = training.train(spec, self.examples)
        context.curves.add({**training.labels, **loss_curve(losses)})
        if encoder.role == "trained":
            save_vlm(
                context.artifacts / "bridges" / f"{FIELD}-{transfer}", vlm, encoder.model, self.spec.language_model
            )
        for split, images in self.images.items():
            batches = vlm.source.batches(split, images)
            context.progress.enter(f"{encoder.role} encoder: {transfer} transfer captions {split}")
            captions = caption_images(
                vlm, spec, batches, np.arange(len(images)), seed=context.spec.seed,
                on_batch=lambda count: context.progress.add(_CAPTION_COST * count),
            )  # fmt: skip
            self._store(context, encoder, split, transfer, captions)

    def _store(
        self, context: EvalContext, encoder: EvaluatedEncoder, split: str, transfer: str, captions: Sequence[str]
    ) -> None:
        """A prediction file of all images and, where the spec says so, one of each source."""
        images = self.images[split]
        samples = [
            (image.source, {"query": image.name, "caption": caption, "references": nonempty_captions(image)})
            for image, caption in zip(images, captions, strict=True)
        ]
        common = most_frequent_caption(self.examples)
        facts = {"seed": context.spec.seed} | ({} if common is None else {"common": common})
        sources = sorted({image.source for image in images if image.source}) if self.spec.by_source else []
        for variant in ("all", *sources):
            left_out = {"left_out": self.left_out[split]} if variant == "all" else {}
            file = PredictionFile(
                self.name, split, variant, transfer, "captions", encoder.role, facts={**facts, **left_out}
            )
            context.predictions.add(file, [sample for source, sample in samples if variant in ("all", source)])
