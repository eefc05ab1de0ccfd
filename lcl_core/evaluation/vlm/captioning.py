"""Caption training of a vision-language model: training captions, held-out images, grid search, generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import ImageBatchSource, grid_search
from lcl_core.evaluation.metrics.caption_metrics import score_captions
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.tasks.base import (
    DatasetResolver,
    EvalContext,
    EvalImage,
    Holdout,
    nonempty_captions,
    split_validation,
)
from lcl_core.evaluation.vlm.chat_format import caption_sequence
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm
from lcl_core.specs.evaluate import CaptioningSpec, EvaluateSpec, LanguageModelSpec, Transfer

FIELD = "captioning"
CaptionExample = tuple[int, str]  # an image's row, and a caption of it


def caption_examples(images: Sequence[EvalImage], position: int | None) -> list[CaptionExample]:
    """Every caption that holds a word, with its image; with ``position`` those at that position alone."""
    return [
        (row, caption)
        for row, image in enumerate(images)
        for caption in (image.captions if position is None else image.captions[position : position + 1])
        if caption.strip()
    ]


def most_frequent_caption(examples: Sequence[CaptionExample]) -> str | None:
    """The most frequent caption up to spaces, of equals the first. None where there is none."""
    counts = Counter(" ".join(caption.split()) for _, caption in examples)
    return counts.most_common(1)[0][0] if counts else None


def plan_caption_training(
    spec: EvaluateSpec, corpus: Corpus, train_corpus: Corpus, resolver: DatasetResolver
) -> tuple[list[EvalImage], Holdout[Ints] | None]:
    """The images to train on, and those to choose hyper-parameters on where some are searched.

    The latter are of the named validation split, else a seeded tenth of the training images.

    Raises:
        UserError: ``train_split_tested``, ``nothing_to_learn``, ``validation_split_used``, ``nothing_to_score``, or a
            split is empty.
    """
    own = spec.captioning
    train = resolver.train_images(spec, own.train_split, corpus, train_corpus, field=FIELD)
    if not caption_examples(train, own.caption):
        raise UserError(
            f"no image of split {own.train_split!r} has the caption to learn; give {FIELD}.caption another position",
            code="nothing_to_learn", field=f"{FIELD}.caption",
        )  # fmt: skip
    if not own.search:
        return train, None
    split, all_rows = own.validation_split, np.arange(len(train))
    if split is None:
        captioned = _captioned_rows(train)
        test = captioned[split_validation(len(captioned), spec.seed)[0]]
        return train, Holdout(own.train_split, train, test, np.setdiff1d(all_rows, test))
    images = resolver.validation_images(spec, split, own.train_split, corpus, train_corpus, field=FIELD)
    rows = _captioned_rows(images)
    if not len(rows):
        raise UserError(
            f"split {split!r} has no captions to choose by", code="nothing_to_score", field=f"{FIELD}.validation_split"
        )
    return train, Holdout(split, images, rows, all_rows)


def _captioned_rows(images: Sequence[EvalImage]) -> Ints:
    return np.flatnonzero([bool(nonempty_captions(image)) for image in images])


@dataclass(frozen=True)
class CaptionTraining:
    """Caption training of one encoder in one protocol.

    Attributes:
        corpus, split, images: to train on.
        field: of the evaluation's spec.
        step_cost: of training on a caption once, in embedded images.
    """

    context: EvalContext
    encoder: EvaluatedEncoder
    transfer: Transfer
    files: LanguageModelFiles
    language: LanguageModelSpec
    corpus: Corpus
    split: str
    images: list[EvalImage]
    field: str
    step_cost: float

    def choose(
        self, spec: CaptioningSpec, examples: Sequence[CaptionExample], holdout: Holdout[Ints] | None
    ) -> CaptioningSpec:
        """The spec with the best CIDEr on the held-out images; the search is logged."""
        if holdout is None:
            return spec
        test = [holdout.images[row] for row in holdout.test]
        references = {image.name: nonempty_captions(image) for image in test}
        train_rows = set(holdout.train.tolist())
        train = [example for example in examples if example[0] in train_rows]

        def attempt(candidate: CaptioningSpec) -> float:
            vlm, _ = self.train(candidate, train)
            batches = vlm.source.batches(holdout.split, holdout.images, self.corpus)
            captions = caption_images(
                vlm, candidate, batches, holdout.test, seed=self.context.spec.seed,
                on_batch=lambda count: self.context.progress.add(0),
            )  # fmt: skip
            hypotheses = dict(zip([image.name for image in test], captions, strict=True))
            return score_captions(hypotheses, references, with_meteor=False).values["CIDEr"]

        chosen, result = grid_search(spec, attempt, field=self.field)
        if result is not None:  # a protocol may have nothing left to search
            held_out = {"split": holdout.split, "pictures": len(test), "of": len(holdout.images)}
            self.context.choices.add({**self.labels, "held_out": held_out, "metric": "CIDEr", **result.to_dict()})
        return chosen

    @property
    def labels(self) -> dict[str, Any]:
        """The fit's labels in artifacts."""
        return {"task": self.field, "variant": "all", "transfer": self.transfer, "encoder": self.encoder.role}

    def train(
        self, spec: CaptioningSpec, examples: Sequence[CaptionExample]
    ) -> tuple[VisionLanguageModel, list[float]]:
        """A model with a new projector, trained on ``examples``; and the loss of each step."""
        context = self.context
        vlm = build_vlm(
            context, self.encoder, self.transfer, self.files, self.language,
            augmentation=spec.augmentation, precision=spec.precision, field=f"{self.field}.language_model",
        )  # fmt: skip
        sequences = [
            VLMExample(caption_sequence(vlm.llava.language, spec, caption).cut(self.language.max_tokens), row)
            for row, caption in examples
        ]
        batches = vlm.source.batches(self.split, self.images, self.corpus)
        context.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer to captions")
        losses = vlm.train(
            batches, sequences, spec, seed=context.spec.seed, field=self.field,
            on_step=lambda captions: context.progress.add(self.step_cost * captions),
        )  # fmt: skip
        return vlm, losses


def caption_images(
    vlm: VisionLanguageModel,
    spec: CaptioningSpec,
    batches: ImageBatchSource,
    rows: Ints,
    *,
    seed: int,
    on_batch: Callable[[int], None] = lambda captions: None,
) -> list[str]:
    """A caption of each of the images of ``batches`` at ``rows``."""
    prompt = caption_sequence(vlm.llava.language, spec, None)
    return vlm.generate(batches, rows, [prompt] * len(rows), spec.decoding, seed=seed, on_batch=on_batch)
