"""Captioning: train a projector and caption with a language model, or caption with the encoder's own decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.threads import prefetch_map
from lcl_core.data import Corpus
from lcl_core.encoders.captioning import Captioner
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import choose, count_examples
from lcl_core.evaluation.metrics.caption_metrics import score_captions
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.results import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import (
    DatasetResolver,
    EvalContext,
    EvalImage,
    Holdout,
    SplitImages,
    Task,
    nonempty_captions,
    split_validation,
)
from lcl_core.evaluation.vlm.chat_format import caption_sequence
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, save_vlm
from lcl_core.specs.evaluate import CaptioningSpec, EvaluateSpec, Transfer

FIELD = "captioning"
# rough costs in embedded images: training on a caption once, a caption of the language model, of the own decoder
_STEP_COST = {"frozen": 20.0, "full": 25.0}
_CAPTION_COST = 10.0
_ZERO_SHOT_COST = 3.0

CaptionExample = tuple[int, str]  # an image's row, and a caption of it


def caption_examples(images: Sequence[EvalImage], position: int | None) -> list[CaptionExample]:
    """Every caption that holds a word, with its image; with ``position`` those at that position alone."""
    return [
        (row, caption)
        for row, image in enumerate(images)
        for caption in (image.captions if position is None else image.captions[position : position + 1])
        if caption.strip()
    ]


def plan_caption_training(
    spec: EvaluateSpec, corpus: Corpus, resolver: DatasetResolver
) -> tuple[SplitImages, Holdout[Ints] | None]:
    """The images to train on, and those to choose hyper-parameters on where some are searched.

    The latter are of the named validation split, else a seeded tenth of the training images.
    """
    own = spec.captioning
    train = resolver.train_images(spec, own, corpus, field=FIELD)
    if not caption_examples(train.images, own.caption):
        raise UserError(
            f"no image of split {own.train_split!r} has the caption to learn; give {FIELD}.caption another position",
            code="nothing_to_learn", field=f"{FIELD}.caption",
        )  # fmt: skip
    if not own.search:
        return train, None
    all_rows, validation = np.arange(len(train)), resolver.validation_images(spec, own, corpus, field=FIELD)
    if validation is None:
        captioned = _captioned_rows(train)
        test = captioned[split_validation(len(captioned), spec.seed)[0]]
        return train, Holdout(train, test, np.setdiff1d(all_rows, test), len(train))
    rows = _captioned_rows(validation)
    if not len(rows):
        raise UserError(
            f"split {validation.split!r} has no captions to choose by",
            code="nothing_to_score", field=f"{FIELD}.validation_split",
        )  # fmt: skip
    return train, Holdout(validation, rows, all_rows, len(validation))


def _captioned_rows(images: SplitImages) -> Ints:
    return np.flatnonzero([bool(nonempty_captions(image)) for image in images.images])


@dataclass(frozen=True)
class Captioning(Task):
    """Captioning (paper, transfer head (c)), frozen or full, and zero-shot captions.

    Attributes:
        files: the language model's; None: zero-shot alone.
        train: the images to train on; None with zero-shot alone.
        images: captioned images of each tested split.
        left_out: number of other images, by reason.
        holdout: to choose hyper-parameters on; None where nothing is searched.
    """

    name = FIELD

    spec: CaptioningSpec
    transfer: tuple[Transfer, ...]
    files: LanguageModelFiles | None
    train: SplitImages | None
    images: dict[str, SplitImages]
    left_out: dict[str, dict[str, int]]
    holdout: Holdout[Ints] | None = None

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, resolver: DatasetResolver) -> Self:
        own, tested = spec.captioning, resolver.test_images(spec, corpus)
        images = {
            split: replace(every, images=[image for image in every.images if nonempty_captions(image)])
            for split, every in tested.items()
        }
        if empty := [split for split, captioned in images.items() if not len(captioned)]:
            raise UserError(f"split {empty[0]!r} has no captions to score by", code="nothing_to_score", field="splits")
        bare = {split: len(every) - len(images[split]) for split, every in tested.items()}
        left_out = {split: {"no_caption": count} if count else {} for split, count in bare.items()}
        transfer = spec.protocols(own)
        if own.language_model is None:
            return cls(own, transfer, None, None, images, left_out)
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        train, holdout = plan_caption_training(spec, corpus, resolver)
        return cls(own, transfer, files, train, images, left_out, holdout)

    @property
    def needs_patch_features(self) -> bool:
        return self.files is not None and "frozen" in self.transfer

    @property
    def examples(self) -> list[CaptionExample]:
        return [] if self.train is None else caption_examples(self.train.images, self.spec.caption)

    def cost(self) -> float:
        tested = sum(map(len, self.images.values()))
        zero_shot = _ZERO_SHOT_COST * tested if self.spec.zero_shot else 0.0
        if self.train is None:
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
                self._run_transfer(context, encoder, transfer)

    def _run_zero_shot(self, context: EvalContext, encoder: EvaluatedEncoder, split: str, images: SplitImages) -> None:
        """Captions of the encoder's own decoder; an encoder without one has none."""
        context.progress.enter(f"{encoder.role} encoder: its text tower captions {split}")
        decoding, model = self.spec.decoding, encoder.model

        def load(start: int) -> Tensor:
            batch = images.images[start : start + decoding.batch_size]
            return model.preprocess([images.corpus.read_image(image.name) for image in batch])

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

    def _run_transfer(self, context: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer) -> None:
        labels = {"task": FIELD, "variant": "all", "transfer": transfer, "encoder": encoder.role}

        def attempt(candidate: CaptioningSpec, holdout: Holdout[Ints]) -> float:
            """CIDEr on the held-out images."""
            learnt = set(holdout.train.tolist())
            vlm, _ = self._train(
                context, encoder, transfer, candidate, [each for each in self.examples if each[0] in learnt]
            )
            test = [holdout.source.images[row] for row in holdout.test]
            captions = self._caption(context, vlm, candidate, holdout.source, holdout.test)
            hypotheses = dict(zip([image.name for image in test], captions, strict=True))
            references = {image.name: nonempty_captions(image) for image in test}
            return score_captions(hypotheses, references, with_meteor=False).values["CIDEr"]

        own = self.spec.for_protocol(transfer)
        spec = choose(context, own, attempt, self.holdout, labels, field=FIELD, metric="CIDEr")
        vlm, losses = self._train(context, encoder, transfer, spec, self.examples)
        context.curves.add({**labels, **loss_curve(losses)})
        if encoder.role == "trained":
            assert spec.language_model is not None
            save_vlm(context.artifacts / "bridges" / f"{FIELD}-{transfer}", vlm, encoder.model, spec.language_model)
        for split, images in self.images.items():
            context.progress.enter(f"{encoder.role} encoder: {transfer} transfer captions {split}")
            captions = self._caption(context, vlm, spec, images, np.arange(len(images)), _CAPTION_COST)
            self._store(context, encoder, split, transfer, captions)

    def _train(
        self,
        context: EvalContext,
        encoder: EvaluatedEncoder,
        transfer: Transfer,
        spec: CaptioningSpec,
        examples: Sequence[CaptionExample],
    ) -> tuple[VisionLanguageModel, list[float]]:
        """A model with a new projector, trained on ``examples``; and the loss of each step."""
        assert self.files is not None
        assert self.train is not None
        assert spec.language_model is not None
        vlm = build_vlm(
            context, encoder, transfer, self.files, spec.language_model,
            augmentation=spec.augmentation, precision=spec.precision, field=f"{FIELD}.language_model",
        )  # fmt: skip
        max_tokens = spec.language_model.max_tokens
        sequences = [
            VLMExample(caption_sequence(vlm.llava.language, spec, caption).cut(max_tokens), row)
            for row, caption in examples
        ]
        batches = vlm.source.batches(self.train)
        context.progress.enter(f"{encoder.role} encoder: {transfer} transfer to captions")
        losses = vlm.train(
            batches, sequences, spec, seed=context.spec.seed, field=FIELD,
            on_step=lambda captions: context.progress.add(_STEP_COST[transfer] * captions),
        )  # fmt: skip
        return vlm, losses

    @staticmethod
    def _caption(
        context: EvalContext,
        vlm: VisionLanguageModel,
        spec: CaptioningSpec,
        images: SplitImages,
        rows: Ints,
        cost: float = 0.0,
    ) -> list[str]:
        """A caption of each of the ``images`` at ``rows``."""
        prompt = caption_sequence(vlm.llava.language, spec, None)
        return vlm.generate(
            vlm.source.batches(images), rows, [prompt] * len(rows), spec.decoding,
            seed=context.spec.seed, on_batch=lambda count: context.progress.add(cost * count),
        )  # fmt: skip

    def _store(
        self, context: EvalContext, encoder: EvaluatedEncoder, split: str, transfer: str, captions: Sequence[str]
    ) -> None:
        """A prediction file of all images and, where the spec says so, one of each source."""
        images = self.images[split].images
        samples = [
            (image.source, {"query": image.name, "caption": caption, "references": nonempty_captions(image)})
            for image, caption in zip(images, captions, strict=True)
        ]
        facts: dict[str, Any] = {"seed": context.spec.seed}
        if self.examples:  # the most frequent caption up to spaces, of equals the first
            facts["common"] = Counter(" ".join(text.split()) for _, text in self.examples).most_common(1)[0][0]
        sources = sorted({image.source for image in images if image.source}) if self.spec.by_source else []
        for variant in ("all", *sources):
            left_out = {"left_out": self.left_out[split]} if variant == "all" else {}
            file = PredictionFile(
                self.name, split, variant, transfer, "captions", encoder.role, facts={**facts, **left_out}
            )
            context.predictions.add(file, [sample for source, sample in samples if variant in ("all", source)])
