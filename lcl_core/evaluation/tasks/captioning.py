"""Captioning: train a projector and caption with a language model, or caption with the encoder's own decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.processes import prefetch_map
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.evaluation.caption_metrics import score_captions
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvalImage,
    EvaluationData,
    Holdout,
    SplitImages,
    Task,
    captioned_rows,
    nonempty_captions,
)
from lcl_core.evaluation.training import FeatureSource, choose, search_candidates
from lcl_core.evaluation.vlm.language_model import caption_tokens, resolve_language_model
from lcl_core.evaluation.vlm.model import CAPTIONED_AT_ONCE, VisionLanguageModel, build_vlm, save_vlm
from lcl_core.specs.evaluate import CaptioningSpec, Transfer

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
    files: Path | None
    train: SplitImages | None
    images: dict[str, SplitImages]
    left_out: dict[str, dict[str, int]]
    holdout: Holdout[Ints] | None = None

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        spec = data.spec
        own, tested = spec.captioning, data.test_images()
        images = {
            split: replace(every, images=[image for image in every.images if nonempty_captions(image)])
            for split, every in tested.items()
        }
        if empty := [split for split, captioned in images.items() if not len(captioned)]:
            raise UserError(f"split {empty[0]!r} has no captions to score by", code="no_data", field="splits")
        bare = {split: len(every) - len(images[split]) for split, every in tested.items()}
        left_out = {split: {"no_caption": count} if count else {} for split, count in bare.items()}
        transfer = spec.protocols(own)
        if own.language_model is None:
            return cls(own, transfer, None, None, images, left_out)
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        train = data.train_images(own, FIELD)
        if not caption_examples(train.images, own.caption):
            raise UserError(
                f"no image of split {own.train_split!r} has the caption to learn; give {FIELD}.caption another "
                "position", code="no_data", field=f"{FIELD}.caption",
            )  # fmt: skip
        holdout = None
        if own.search:
            holdout = data.make_holdout(own, FIELD, train, captioned_rows(train), captioned_rows)
            if not len(holdout.test):
                raise UserError(
                    f"split {holdout.source.split!r} has no captions to choose by",
                    code="no_data", field=f"{FIELD}.validation_split",
                )  # fmt: skip
        return cls(own, transfer, files, train, images, left_out, holdout)

    @property
    def needs_patch_features(self) -> bool:
        return self.files is not None and "frozen" in self.transfer

    @property
    def examples(self) -> list[CaptionExample]:
        return [] if self.train is None else caption_examples(self.train.images, self.spec.caption)

    def run(self, context: EvalContext) -> None:
        if self.spec.zero_shot:
            for split, images in self.images.items():
                self._run_zero_shot(context, split, images)
        if self.files is not None:
            for transfer in self.transfer:
                self._run_transfer(context, transfer)

    def _run_zero_shot(self, context: EvalContext, split: str, images: SplitImages) -> None:
        """Captions of the encoder's own decoder; an encoder without one has none."""
        decoding, model = self.spec.decoding, context.encoder.model
        if not isinstance(model, LCLEncoder):
            return
        context.enter(f"its text tower captions {split}")

        def load(start: int) -> Tensor:
            batch = images.images[start : start + CAPTIONED_AT_ONCE]
            return model.preprocess([images.corpus.read_image(image.name) for image in batch])

        captions: list[str] = []
        for pixels in prefetch_map(load, range(0, len(images), CAPTIONED_AT_ONCE)):
            captions += model.captions(pixels, decoding)
            context.progress.heartbeat()
        self._store(context, split, "zero_shot", captions)

    def _run_transfer(self, context: EvalContext, transfer: Transfer) -> None:
        labels = context.fit_labels(FIELD, "all", transfer)

        def attempt(candidate: CaptioningSpec, holdout: Holdout[Ints]) -> float:
            """CIDEr on the held-out images."""
            learnt = set(holdout.train.tolist())
            vlm, _ = self._train(context, transfer, candidate, [each for each in self.examples if each[0] in learnt])
            test = [holdout.source.images[row] for row in holdout.test]
            captions = self._caption(vlm, holdout.source, holdout.test)
            hypotheses = dict(zip([image.name for image in test], captions, strict=True))
            references = {image.name: nonempty_captions(image) for image in test}
            return score_captions(hypotheses, references).values["CIDEr"]

        candidates = search_candidates(self.spec.for_protocol(transfer))
        spec = choose(context, candidates, attempt, self.holdout, labels, field=FIELD, metric="CIDEr")
        vlm, losses = self._train(context, transfer, spec, self.examples)
        context.log_losses(labels, losses)
        if context.encoder.role == "trained":
            assert spec.language_model is not None
            save_vlm(context.artifacts / "bridges" / f"{FIELD}-{transfer}", vlm, spec.language_model)
        for split, images in self.images.items():
            context.enter(f"{transfer} transfer captions {split}")
            self._store(context, split, transfer, self._caption(vlm, images, np.arange(len(images))))

    def _train(
        self, context: EvalContext, transfer: Transfer, spec: CaptioningSpec, examples: Sequence[CaptionExample]
    ) -> tuple[VisionLanguageModel, list[float]]:
        """A model with a new projector, trained on ``examples``; and the loss of each step."""
        assert self.files is not None
        assert self.train is not None
        assert spec.language_model is not None
        source = FeatureSource(context, transfer, spec.augmentation)
        vlm = build_vlm(source, transfer, self.files, spec.language_model, f"{FIELD}.language_model")
        language, max_tokens = vlm.llava.language, spec.language_model.max_tokens
        sequences = [
            (caption_tokens(language, caption, spec.question).cut(max_tokens), row) for row, caption in examples
        ]
        context.enter(f"{transfer} transfer to captions")
        return vlm, vlm.train(self.train, sequences, spec, FIELD)

    def _caption(self, vlm: VisionLanguageModel, images: SplitImages, rows: Ints) -> list[str]:
        """A caption of each of the ``images`` at ``rows``."""
        prompt = caption_tokens(vlm.llava.language, None, self.spec.question)
        return vlm.generate(images, rows, [prompt] * len(rows), self.spec.decoding)

    def _store(self, context: EvalContext, split: str, transfer: str, captions: Sequence[str]) -> None:
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
            context.store(
                [sample for source, sample in samples if variant in ("all", source)],
                task=FIELD, split=split, variant=variant, transfer=transfer, kind="captions",
                facts={**facts, **left_out},
            )  # fmt: skip
