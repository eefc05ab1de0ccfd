"""Tuned retrieval: a head learns to match the pictures of one split with their captions, and is asked about others.

In both protocols the text encoder learns along at ``text_lr``, since it is part of what is added to the image encoder;
with ``text_lr`` 0 it is frozen. Its untrained twin is asked with the same text encoder, where one is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.interop.origins import TEXTS, recognise
from lcl_core.specs import EvaluateSpec, Transfer, TunedRetrievalSpec
from lcl_core.transfer.choice import choose
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture, texts_of
from lcl_core.transfer.ground import GROUNDS, Ground, View
from lcl_core.transfer.ledger import curve
from lcl_core.transfer.matcher import Matcher, learn_to_match, spoken
from lcl_core.transfer.metrics import recall_at
from lcl_core.transfer.ranking import Ints, rank_both_ways
from lcl_core.transfer.readers import FrozenReader, LearningReader, Reader
from lcl_core.transfer.records import Sheet
from lcl_core.transfer.retrieval import Variant, split_variants, store_ranks, texts_of_all
from lcl_core.transfer.tasks.base import TEXT_UNITS, Places, Room, Task
from lcl_core.transfer.text_side import TextSide
from lcl_core.transfer.towers import load_text_side

FIELD = "tuned_retrieval"
_HELD_OUT = 0.1  # share of the training pictures, where something is chosen and no split is named
_STEP_UNITS = {"frozen": 0.05, "full": 3.0}  # of learning from a picture once, in embedded pictures
_READ_UNITS = 1.5  # of learning from a text once


@dataclass(frozen=True)
class Trial:
    """Pictures on which hyper-parameters are chosen.

    Attributes:
        split, pictures: where they come from.
        held: rows of those that are asked about.
        teachers: rows of the training pictures that are learnt from meanwhile.
    """

    split: str
    pictures: list[Picture]
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
    train: list[Picture]
    teachers: Ints
    galleries: dict[str, list[Picture]]
    variants: dict[str, list[Variant]]
    trial: Trial | None

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
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
        trial = _plan_trial(own, spec, corpus, places, train, teachers)
        return cls(own, spec.protocols(own), _text_encoder(spec, places), train, teachers, galleries, variants, trial)

    @property
    def wants_patches(self) -> bool:
        return "frozen" in self.transfer

    def units(self) -> float:
        pictures = len(self.train) + sum(map(len, self.galleries.values()))
        asked = sum(len(texts_of_all(variants)) for variants in self.variants.values())
        learnt = {each: self.spec.under(each).epochs * len(self.teachers) for each in self.transfer}
        if self.spec.steps:
            learnt = dict.fromkeys(self.transfer, self.spec.steps * self.spec.batch_size)
        attempts = 1 + (math.prod(map(len, self.spec.search.values())) if self.trial else 0)
        each = sum(pictures + attempts * self._step_units(transfer) * count for transfer, count in learnt.items())
        return each + TEXT_UNITS * asked * len(self.transfer)

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        side = self._text_side(encoder)
        for transfer in self.transfer:
            self._sit(room, encoder, transfer, side)

    def _sit(self, room: Room, encoder: ExamEncoder, transfer: Transfer, side: TextSide) -> None:
        about = {"task": self.name, "variant": "captions", "transfer": transfer, "encoder": encoder.role}
        spec = self._choose(room, encoder, transfer, side, about)
        room.progress.enter(f"{encoder.role} encoder: {transfer} transfer to retrieval")
        ground, matcher = self._learn(room, encoder, transfer, side, spec, self.teachers)
        room.curves.add({**about, **curve(matcher.losses)})
        for split, pictures in self.galleries.items():
            room.progress.enter(f"{encoder.role} encoder: {transfer} retrieval on {split}")
            images = matcher.images(ground.view(split, pictures), np.arange(len(pictures)))
            texts = texts_of_all(self.variants[split])
            features, row_of = matcher.texts(texts), {text: row for row, text in enumerate(texts)}
            room.progress.add(TEXT_UNITS * len(texts))
            for variant in self.variants[split]:
                asked = Sheet(self.name, split, variant.name, transfer, "ranks", encoder.role)
                rows = np.array([row_of[text] for text in variant.texts.texts])
                store_ranks(
                    room.records, asked, pictures, variant, images, features[rows],
                    on_block=lambda *_: room.progress.add(0),
                )  # fmt: skip

    def _learn(
        self, room: Room, encoder: ExamEncoder, transfer: Transfer, side: TextSide, spec: TunedRetrievalSpec, rows: Ints
    ) -> tuple[Ground, Matcher]:
        """A new head and text encoder, and in full transfer a new copy of the image encoder."""
        ground = GROUNDS[transfer](room, encoder, spec.augmentation)
        matcher = learn_to_match(
            ground, ground.view(spec.train_split, self.train), self.train, rows, self._reader(room, side), spec,
            seed=room.spec.seed, field=FIELD,
            on_step=lambda pictures: room.progress.add(self._step_units(transfer) * pictures),
        )  # fmt: skip
        return ground, matcher

    def _choose(
        self, room: Room, encoder: ExamEncoder, transfer: Transfer, side: TextSide, about: dict[str, str]
    ) -> TunedRetrievalSpec:
        """The spec with what is best on the pictures held out; what was tried goes to the run's choices."""
        trial, spec = self.trial, self.spec.under(transfer)
        if trial is None:
            return spec

        def attempt(candidate: TunedRetrievalSpec) -> float:
            ground, matcher = self._learn(room, encoder, transfer, side, candidate, trial.teachers)
            return _mean_recall(matcher, ground.view(trial.split, trial.pictures), trial)

        room.progress.enter(f"{encoder.role} encoder: choosing for {transfer} transfer")
        chosen, choice = choose(spec, attempt, field=FIELD)
        if choice is not None:
            held = {"split": trial.split, "pictures": len(trial.held), "of": len(trial.pictures)}
            room.choices.add({**about, "held_out": held, "metric": "mean of TR@1 and IR@1", **choice.to_dict()})
        return chosen

    def _reader(self, room: Room, side: TextSide) -> Reader:
        if self.spec.text_lr > 0:
            return LearningReader(side)
        return FrozenReader(side, self._all_texts, room.cache, lambda count: room.progress.add(0))

    def _text_side(self, encoder: ExamEncoder) -> TextSide:
        if self.text_encoder is not None:
            return load_text_side(self.text_encoder, f"{FIELD}.text_encoder")
        side = encoder.tower.text_side
        assert side is not None, "the plan has seen that this encoder reads texts"
        return side

    @property
    def _all_texts(self) -> list[str]:
        asked = [text for variants in self.variants.values() for text in texts_of_all(variants)]
        chosen_on = self.trial.pictures if self.trial else []
        return asked + [caption for picture in (*self.train, *chosen_on) for caption in spoken(picture)]

    def _step_units(self, transfer: Transfer) -> float:
        return _STEP_UNITS[transfer] + (_READ_UNITS if self.spec.text_lr > 0 else 0.0)


def _text_encoder(spec: EvaluateSpec, places: Places) -> Path | None:
    """Where the text encoder lies. Raises: UserError ``no_text_encoder`` if nothing there reads texts."""
    named = spec.tuned_retrieval.text_encoder
    field = f"{FIELD}.text_encoder"
    place = places.encoder(spec.encoder) if named is None else places.encoder(named, field)
    if TEXTS not in recognise(place).reads:
        raise UserError(
            f"encoder {named or spec.encoder!r} reads no texts; name one that does in {field}",
            code="no_text_encoder", field=field,
        )  # fmt: skip
    return None if named is None else place


def _with_captions(pictures: list[Picture], split: str, field: str) -> Ints:
    rows = np.flatnonzero([bool(spoken(picture)) for picture in pictures])
    if len(rows) < 2:
        raise UserError(
            f"split {split!r} has {len(rows)} pictures with captions, and matching needs at least two",
            code="nothing_to_learn", field=f"{FIELD}.{field}",
        )  # fmt: skip
    return rows


def _plan_trial(
    own: TunedRetrievalSpec, spec: EvaluateSpec, corpus: Corpus, places: Places, train: list[Picture], teachers: Ints
) -> Trial | None:
    """None where there is nothing to choose. Raises: UserError ``validation_split_used``, ``nothing_to_learn``."""
    if not own.search:
        return None
    split = own.validation_split
    if split is None:
        order = np.random.default_rng(spec.seed).permutation(teachers)
        count = max(2, round(_HELD_OUT * len(order)))
        return Trial(own.train_split, train, np.sort(order[:count]), np.sort(order[count:]))
    if split in spec.splits or split == own.train_split:
        raise UserError(
            f"split {split!r} is examined or learnt from, so nothing may be chosen on it; name another in "
            f"{FIELD}.validation_split, or none for a tenth of the training pictures",
            code="validation_split_used", field=f"{FIELD}.validation_split",
        )  # fmt: skip
    pictures = places.gallery(corpus, split, spec.source, field=f"{FIELD}.validation_split")
    return Trial(split, pictures, _with_captions(pictures, split, "validation_split"), teachers)


def _mean_recall(matcher: Matcher, view: View, trial: Trial) -> float:
    """Mean of TR@1 and IR@1 among the pictures held out and all of their captions."""
    asked = texts_of([trial.pictures[row] for row in trial.held], None)
    found = rank_both_ways(matcher.images(view, trial.held), matcher.texts(asked.texts), asked.pairs)
    return (recall_at(found.image_to_text.rank, 1) + recall_at(found.text_to_image.rank, 1)) / 2
