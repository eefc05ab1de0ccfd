"""Tuned retrieval: train a contrastive head on one split, test retrieval on others.

In both protocols the text encoder is trained along at ``text_lr``; with ``text_lr`` 0 it is frozen. The random-init
baseline uses the same text encoder where the spec names one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.encoders.base import TextEncoder
from lcl_core.encoders.detect import TEXTS, detect_encoder
from lcl_core.encoders.registry import load_text_encoder
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.contrastive_head import (
    CaptionFeatures,
    FittedMatcher,
    FrozenTextEncoder,
    TrainableTextEncoder,
    fit_matcher,
    nonempty_captions,
)
from lcl_core.evaluation.heads.training import FEATURE_SOURCES, FeatureSource, ImageBatchSource, grid_search
from lcl_core.evaluation.metrics.core import recall_at
from lcl_core.evaluation.metrics.ranks import Ints, rank_bidirectional
from lcl_core.evaluation.predictions import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import TEXT_COST, DatasetResolver, EvalContext, EvalImage, Task, unique_texts
from lcl_core.evaluation.tasks.retrieval import CaptionVariant, all_texts, split_variants, store_rankings
from lcl_core.specs.evaluate import EvaluateSpec, Transfer, TunedRetrievalSpec

FIELD = "tuned_retrieval"
_VALIDATION_SHARE = 0.1  # share of the training pictures, where something is chosen and no split is named
_STEP_COST = {"frozen": 0.05, "full": 3.0}  # of learning from a picture once, in embedded pictures
_TEXT_STEP_COST = 1.5  # of learning from a text once


@dataclass(frozen=True)
class RetrievalHoldout:
    """Pictures on which hyper-parameters are chosen.

    Attributes:
        split, pictures: where they come from.
        held: rows of those that are asked about.
        teachers: rows of the training pictures that are learnt from meanwhile.
    """

    split: str
    pictures: list[EvalImage]
    held: Ints
    teachers: Ints


@dataclass(frozen=True)
class TunedRetrieval(Task):
    """The paper's transfer head (b), frozen or full.

    Attributes:
        text_encoder: directory of the text encoder; none: the examined encoder's own text side.
        train: the train split; ``teachers`` are rows of those that have captions.
        galleries, variants: pictures of each tested split, and which captions are asked for.
    """

    name = FIELD

    spec: TunedRetrievalSpec
    transfer: tuple[Transfer, ...]
    text_encoder: Path | None
    train: list[EvalImage]
    teachers: Ints
    galleries: dict[str, list[EvalImage]]
    variants: dict[str, list[CaptionVariant]]
    trial: RetrievalHoldout | None

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        own, galleries = spec.tuned_retrieval, places.tested(spec, corpus)
        variants = {split: split_variants(split, pictures) for split, pictures in galleries.items()}
        if own.train_split in spec.splits:
            raise UserError(
                f"{FIELD} learns from split {own.train_split!r}, so it cannot be examined on it; "
                f"name another in splits or in {FIELD}.train_split",
                code="train_split_tested", field=f"splits.{spec.splits.index(own.train_split)}",
            )  # fmt: skip
        train = places.gallery(corpus, own.train_split, spec.source, field=f"{FIELD}.train_split")
        teachers = _with_captions(train, own.train_split, "train_split")
        trial = _plan_holdout(own, spec, corpus, places, train, teachers)
        return cls(own, spec.protocols(own), _text_encoder(spec, places), train, teachers, galleries, variants, trial)

    @property
    def wants_patches(self) -> bool:
        return "frozen" in self.transfer

    def units(self) -> float:
        pictures = len(self.train) + sum(map(len, self.galleries.values()))
        asked = sum(len(all_texts(variants)) for variants in self.variants.values())
        learnt = {each: self.spec.for_protocol(each).epochs * len(self.teachers) for each in self.transfer}
        if self.spec.steps:
            learnt = dict.fromkeys(self.transfer, self.spec.steps * self.spec.batch_size)
        attempts = 1 + (math.prod(map(len, self.spec.search.values())) if self.trial else 0)
        each = sum(pictures + attempts * self._step_units(transfer) * count for transfer, count in learnt.items())
        return each + TEXT_COST * asked * len(self.transfer)

    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        side = self._text_side(encoder)
        for transfer in self.transfer:
            self._sit(room, encoder, transfer, side)

    def _sit(self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, side: TextEncoder) -> None:
        about = {"task": self.name, "variant": "captions", "transfer": transfer, "encoder": encoder.role}
        spec = self._choose(room, encoder, transfer, side, about)
        room.progress.enter(f"{encoder.role} encoder: {transfer} transfer to retrieval")
        ground, matcher = self._learn(room, encoder, transfer, side, spec, self.teachers)
        room.curves.add({**about, **loss_curve(matcher.losses)})
        for split, pictures in self.galleries.items():
            room.progress.enter(f"{encoder.role} encoder: {transfer} retrieval on {split}")
            images = matcher.images(ground.view(split, pictures), np.arange(len(pictures)))
            texts = all_texts(self.variants[split])
            features, row_of = matcher.texts(texts), {text: row for row, text in enumerate(texts)}
            room.progress.add(TEXT_COST * len(texts))
            for variant in self.variants[split]:
                asked = PredictionFile(self.name, split, variant.name, transfer, "ranks", encoder.role)
                rows = np.array([row_of[text] for text in variant.texts.texts])
                store_rankings(
                    room.records, asked, pictures, variant, images, features[rows],
                    on_block=lambda *_: room.progress.add(0),
                )  # fmt: skip

    def _learn(
        self,
        room: EvalContext,
        encoder: EvaluatedEncoder,
        transfer: Transfer,
        side: TextEncoder,
        spec: TunedRetrievalSpec,
        rows: Ints,
    ) -> tuple[FeatureSource, FittedMatcher]:
        """A new head and text encoder, and in full transfer a new copy of the image encoder."""
        ground = FEATURE_SOURCES[transfer](room, encoder, spec.augmentation)
        matcher = fit_matcher(
            ground, ground.view(spec.train_split, self.train), self.train, rows, self._reader(room, side), spec,
            seed=room.spec.seed, field=FIELD,
            on_step=lambda pictures: room.progress.add(self._step_units(transfer) * pictures),
        )  # fmt: skip
        return ground, matcher

    def _choose(
        self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, side: TextEncoder, about: dict[str, str]
    ) -> TunedRetrievalSpec:
        """The spec with what is best on the pictures held out; what was tried goes to the run's choices."""
        trial, spec = self.trial, self.spec.for_protocol(transfer)
        if trial is None:
            return spec

        def attempt(candidate: TunedRetrievalSpec) -> float:
            ground, matcher = self._learn(room, encoder, transfer, side, candidate, trial.teachers)
            return _mean_recall(matcher, ground.view(trial.split, trial.pictures), trial)

        room.progress.enter(f"{encoder.role} encoder: choosing for {transfer} transfer")
        chosen, choice = grid_search(spec, attempt, field=FIELD)
        if choice is not None:
            held = {"split": trial.split, "pictures": len(trial.held), "of": len(trial.pictures)}
            room.choices.add({**about, "held_out": held, "metric": "mean of TR@1 and IR@1", **choice.to_dict()})
        return chosen

    def _reader(self, room: EvalContext, side: TextEncoder) -> CaptionFeatures:
        if self.spec.text_lr > 0:
            return TrainableTextEncoder(side)
        return FrozenTextEncoder(side, self._all_texts, room.cache, lambda count: room.progress.add(0))

    def _text_side(self, encoder: EvaluatedEncoder) -> TextEncoder:
        if self.text_encoder is not None:
            return load_text_encoder(self.text_encoder, f"{FIELD}.text_encoder")
        side = encoder.tower.text_encoder
        assert side is not None, "the plan has seen that this encoder reads texts"
        return side

    @property
    def _all_texts(self) -> list[str]:
        asked = [text for variants in self.variants.values() for text in all_texts(variants)]
        chosen_on = self.trial.pictures if self.trial else []
        return asked + [caption for picture in (*self.train, *chosen_on) for caption in nonempty_captions(picture)]

    def _step_units(self, transfer: Transfer) -> float:
        return _STEP_COST[transfer] + (_TEXT_STEP_COST if self.spec.text_lr > 0 else 0.0)


def _text_encoder(spec: EvaluateSpec, places: DatasetResolver) -> Path | None:
    """Where the text encoder lies. Raises: UserError ``no_text_encoder`` if nothing there reads texts."""
    named = spec.tuned_retrieval.text_encoder
    field = f"{FIELD}.text_encoder"
    place = places.encoder(spec.encoder) if named is None else places.encoder(named, field)
    if TEXTS not in detect_encoder(place).reads:
        raise UserError(
            f"encoder {named or spec.encoder!r} reads no texts; name one that does in {field}",
            code="no_text_encoder", field=field,
        )  # fmt: skip
    return None if named is None else place


def _with_captions(pictures: list[EvalImage], split: str, field: str) -> Ints:
    rows = np.flatnonzero([bool(nonempty_captions(picture)) for picture in pictures])
    if len(rows) < 2:
        raise UserError(
            f"split {split!r} has {len(rows)} pictures with captions, and matching needs at least two",
            code="nothing_to_learn", field=f"{FIELD}.{field}",
        )  # fmt: skip
    return rows


def _plan_holdout(
    own: TunedRetrievalSpec,
    spec: EvaluateSpec,
    corpus: Corpus,
    places: DatasetResolver,
    train: list[EvalImage],
    teachers: Ints,
) -> RetrievalHoldout | None:
    """None where there is nothing to choose. Raises: UserError ``validation_split_used``, ``nothing_to_learn``."""
    if not own.search:
        return None
    split = own.validation_split
    if split is None:
        order = np.random.default_rng(spec.seed).permutation(teachers)
        count = max(2, round(_VALIDATION_SHARE * len(order)))
        return RetrievalHoldout(own.train_split, train, np.sort(order[:count]), np.sort(order[count:]))
    if split in spec.splits or split == own.train_split:
        raise UserError(
            f"split {split!r} is examined or learnt from, so nothing may be chosen on it; name another in "
            f"{FIELD}.validation_split, or none for a tenth of the training pictures",
            code="validation_split_used", field=f"{FIELD}.validation_split",
        )  # fmt: skip
    pictures = places.gallery(corpus, split, spec.source, field=f"{FIELD}.validation_split")
    return RetrievalHoldout(split, pictures, _with_captions(pictures, split, "validation_split"), teachers)


def _mean_recall(matcher: FittedMatcher, view: ImageBatchSource, trial: RetrievalHoldout) -> float:
    """Mean of TR@1 and IR@1 among the pictures held out and all of their captions."""
    asked = unique_texts([trial.pictures[row] for row in trial.held], None)
    found = rank_bidirectional(matcher.images(view, trial.held), matcher.texts(asked.texts), asked.pairs)
    return (recall_at(found.image_to_text.rank, 1) + recall_at(found.text_to_image.rank, 1)) / 2
