"""Captioning: train a projector and caption with a language model, or caption zero-shot with the encoder's own decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus, open_corpus
from lcl_core.encoders.captioning import Captioner
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import prefetch_map
from lcl_core.evaluation.predictions import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext, EvalImage, Task
from lcl_core.evaluation.vlm.captioning import (
    FIELD,
    CaptionExample,
    CaptionHoldout,
    CaptionTraining,
    caption_examples,
    caption_images,
    most_frequent_caption,
    plan_caption_holdout,
    training_images,
)
from lcl_core.evaluation.vlm.checkpoint import save_vlm
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.specs.evaluate import CaptioningSpec, EvaluateSpec, Transfer

# rough work, in embedded pictures: learning a caption once, writing one with the language model, with the text tower
_STEP_COST = {"frozen": 20.0, "full": 25.0}
_CAPTION_COST = 10.0
_ZERO_SHOT_COST = 3.0


@dataclass(frozen=True)
class Captioning(Task):
    """The paper's transfer head (c), frozen or full, and zero-shot captions.

    Attributes:
        files: the language model's; none: zero-shot alone.
        corpus, train: the pictures to learn from; none with zero-shot alone.
        galleries: pictures with captions of each tested split.
        left_out: how many others it has, by reason.
        held: pictures to choose hyper-parameters on; none where nothing is searched.
    """

    name = FIELD

    spec: CaptioningSpec
    transfer: tuple[Transfer, ...]
    files: LanguageModelFiles | None
    corpus: Corpus
    train: list[EvalImage]
    galleries: dict[str, list[EvalImage]]
    left_out: dict[str, dict[str, int]]
    held: CaptionHoldout | None = None

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        own, tested = spec.captioning, places.tested(spec, corpus)
        galleries = {split: [each for each in pictures if each.captions] for split, pictures in tested.items()}
        if silent := [split for split, pictures in galleries.items() if not pictures]:
            raise UserError(f"split {silent[0]!r} has no captions to score by", code="nothing_to_score", field="splits")
        bare = {split: len(pictures) - len(galleries[split]) for split, pictures in tested.items()}
        left_out = {split: {"no_caption": count} if count else {} for split, count in bare.items()}
        transfer = spec.protocols(own)
        if own.language_model is None:
            return cls(own, transfer, None, corpus, [], galleries, left_out)
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        teacher = corpus
        if own.train_dataset not in (None, spec.dataset):
            teacher = open_corpus(places.dataset(str(own.train_dataset), f"{FIELD}.train_dataset"))
        train = training_images(spec, corpus, teacher, places)
        held = plan_caption_holdout(spec, corpus, teacher, places, train)
        return cls(own, transfer, files, teacher, train, galleries, left_out, held)

    @property
    def wants_patches(self) -> bool:
        return self.files is not None and "frozen" in self.transfer

    @property
    def lessons(self) -> list[CaptionExample]:
        return caption_examples(self.train, self.spec.caption)

    def units(self) -> float:
        asked = sum(map(len, self.galleries.values()))
        own = _ZERO_SHOT_COST * asked if self.spec.zero_shot else 0.0
        if self.files is None:
            return own
        looked = len(self.train) + asked + _CAPTION_COST * asked
        return own + sum(
            looked + _STEP_COST[each] * self._learnt(self.spec.for_protocol(each)) for each in self.transfer
        )

    def _learnt(self, spec: CaptioningSpec) -> int:
        """Captions learnt, what is tried before included."""
        attempts = 1 + math.prod(map(len, spec.search.values())) if spec.search else 1
        return attempts * (spec.steps * spec.batch_size if spec.steps else spec.epochs * len(self.lessons))

    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        if self.spec.zero_shot:
            for split, pictures in self.galleries.items():
                self._untaught(room, encoder, split, pictures)
        if self.files is not None:
            for transfer in self.transfer:
                self._taught(room, encoder, transfer, self.files)

    def _untaught(self, room: EvalContext, encoder: EvaluatedEncoder, split: str, pictures: list[EvalImage]) -> None:
        """What the encoder's own text tower writes; an encoder without one is not asked."""
        room.progress.enter(f"{encoder.role} encoder: its text tower captions {split}")
        decoding, tower = self.spec.decoding, encoder.tower
        starts = range(0, len(pictures), decoding.batch_size)

        def load(start: int) -> Tensor:
            names = [picture.image for picture in pictures[start : start + decoding.batch_size]]
            return tower.preprocess([room.corpus.read_image(name) for name in names])

        captions: list[str] = []
        for number, pixels in enumerate(prefetch_map(load, starts)):
            written = (
                tower.captions(pixels, decoding, room.spec.seed + number) if isinstance(tower, Captioner) else None
            )
            room.progress.add(_ZERO_SHOT_COST * len(pixels))
            if written is None:
                return
            captions += written
        self._store(room, encoder, split, "zero_shot", captions)

    def _taught(
        self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, files: LanguageModelFiles
    ) -> None:
        assert self.spec.language_model is not None
        captioner = CaptionTraining(
            room, encoder, transfer, files, self.spec.language_model, self.corpus, self.spec.train_split, self.train,
            FIELD, _STEP_COST[transfer],
        )  # fmt: skip
        spec = captioner.choose(self.spec.for_protocol(transfer), self.lessons, self.held)
        pupil, losses = captioner.learn(spec, self.lessons)
        room.curves.add({**captioner.named, **loss_curve(losses)})
        if encoder.role == "trained":
            save_vlm(room.artifacts / "bridges" / f"{FIELD}-{transfer}", pupil, encoder.tower, self.spec.language_model)
        for split, pictures in self.galleries.items():
            view = pupil.ground.view(split, pictures)
            room.progress.enter(f"{encoder.role} encoder: {transfer} transfer captions {split}")
            captions = caption_images(
                pupil, spec, view, np.arange(len(pictures)), seed=room.spec.seed,
                on_batch=lambda count: room.progress.add(_CAPTION_COST * count),
            )  # fmt: skip
            self._store(room, encoder, split, transfer, captions)

    def _store(
        self, room: EvalContext, encoder: EvaluatedEncoder, split: str, transfer: str, captions: Sequence[str]
    ) -> None:
        """A sheet of all pictures and, if asked for, one of each source."""
        pictures = self.galleries[split]
        samples = [
            {"query": picture.image, "caption": caption, "references": list(picture.captions)}
            for picture, caption in zip(pictures, captions, strict=True)
        ]
        common = most_frequent_caption(self.lessons)
        facts = {"seed": room.spec.seed} | ({} if common is None else {"common": common})
        sources = sorted({picture.source for picture in pictures if picture.source}) if self.spec.by_source else []
        for variant in ("all", *sources):
            chosen = [
                sample for picture, sample in zip(pictures, samples, strict=True) if variant in ("all", picture.source)
            ]
            left_out = {"left_out": self.left_out[split]} if variant == "all" else {}
            sheet = PredictionFile(
                self.name, split, variant, transfer, "captions", encoder.role, facts={**facts, **left_out}
            )
            room.records.add(sheet, chosen)
