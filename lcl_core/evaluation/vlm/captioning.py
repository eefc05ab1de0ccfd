"""Caption training of a vision-language model: training captions, held-out images, grid search, generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import ImageBatchSource, grid_search
from lcl_core.evaluation.metrics.caption_metrics import score_captions
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.tasks.base import EvalImage, split_validation, validation_images
from lcl_core.evaluation.vlm.chat_format import caption_sequence
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, train_vlm
from lcl_core.specs.evaluate import CaptioningSpec, EvaluateSpec, LanguageModelSpec, Transfer

if TYPE_CHECKING:
    from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext


FIELD = "captioning"
CaptionExample = tuple[int, str]  # a picture's row, and a caption of it


def caption_examples(pictures: Sequence[EvalImage], position: int | None) -> list[CaptionExample]:
    """Every caption with its picture; with ``position`` those at that place alone. Empty ones teach nothing."""
    return [
        (row, caption)
        for row, picture in enumerate(pictures)
        for caption in (picture.captions if position is None else picture.captions[position : position + 1])
        if caption.strip()
    ]


def most_frequent_caption(lessons: Sequence[CaptionExample]) -> str | None:
    """The most frequent caption, spaces aside; of equals the first. None where there is none."""
    counted = Counter(" ".join(caption.split()) for _, caption in lessons)
    return counted.most_common(1)[0][0] if counted else None


@dataclass(frozen=True)
class CaptionHoldout:
    """Pictures on which hyper-parameters are chosen.

    Attributes:
        split, pictures: where they come from.
        rows: those of them that are asked about.
        taught: rows of the training pictures that teach meanwhile.
    """

    split: str
    pictures: list[EvalImage]
    rows: list[int]
    taught: frozenset[int]


def training_images(spec: EvaluateSpec, corpus: Corpus, teacher: Corpus, places: DatasetResolver) -> list[EvalImage]:
    """The pictures to learn from.

    Raises:
        UserError: ``train_split_tested``, ``nothing_to_learn``, or the split is empty.
    """
    own = spec.captioning
    if teacher.path == corpus.path and own.train_split in spec.splits:
        raise UserError(
            f"{FIELD} learns from split {own.train_split!r}, so it cannot be examined on it; "
            f"name another in splits or in {FIELD}.train_split",
            code="train_split_tested", field=f"splits.{spec.splits.index(own.train_split)}",
        )  # fmt: skip
    source = spec.source if teacher.path == corpus.path else None
    pictures = places.gallery(teacher, own.train_split, source, field=f"{FIELD}.train_split")
    if not caption_examples(pictures, own.caption):
        raise UserError(
            f"no picture of split {own.train_split!r} has the caption to learn; give {FIELD}.caption another place",
            code="nothing_to_learn", field=f"{FIELD}.caption",
        )  # fmt: skip
    return pictures


def plan_caption_holdout(
    spec: EvaluateSpec, corpus: Corpus, teacher: Corpus, places: DatasetResolver, train: list[EvalImage]
) -> CaptionHoldout | None:
    """Pictures of the named split, else a seeded tenth of the training pictures; none where nothing is searched.

    Raises:
        UserError: ``validation_split_used``, ``nothing_to_score``, or the split is empty.
    """
    own = spec.captioning
    if not own.search:
        return None
    split = own.validation_split
    if split is None:
        told = [row for row, picture in enumerate(train) if picture.captions]
        held = [told[place] for place in split_validation(len(told), spec.seed)[0]]
        return CaptionHoldout(own.train_split, train, held, frozenset(range(len(train))) - frozenset(held))
    pictures = validation_images(split, own.train_split, spec, teacher, places, field=FIELD)
    rows = [row for row, picture in enumerate(pictures) if picture.captions]
    if not rows:
        raise UserError(
            f"split {split!r} has no captions to choose by", code="nothing_to_score", field=f"{FIELD}.validation_split"
        )
    return CaptionHoldout(split, pictures, rows, frozenset(range(len(train))))


@dataclass(frozen=True)
class CaptionTraining:
    """Who learns, from which pictures, in front of which language model.

    Attributes:
        corpus, split, pictures: to learn from.
        field: of the evaluation's spec.
        step_units: work of learning a caption once, in embedded pictures.
    """

    room: EvalContext
    encoder: EvaluatedEncoder
    transfer: Transfer
    files: LanguageModelFiles
    language: LanguageModelSpec
    corpus: Corpus
    split: str
    pictures: list[EvalImage]
    field: str
    step_units: float

    def choose(
        self, spec: CaptioningSpec, lessons: Sequence[CaptionExample], held: CaptionHoldout | None
    ) -> CaptioningSpec:
        """The spec with what gives the best CIDEr on the pictures held out; what was tried goes to the choices."""
        if held is None:
            return spec
        names = [held.pictures[row].image for row in held.rows]
        references = {held.pictures[row].image: held.pictures[row].captions for row in held.rows}
        meanwhile = [lesson for lesson in lessons if lesson[0] in held.taught]

        def attempt(candidate: CaptioningSpec) -> float:
            pupil, _ = self.learn(candidate, meanwhile)
            view = pupil.ground.view(held.split, held.pictures, self.corpus)
            said = caption_images(pupil, candidate, view, np.array(held.rows), seed=self.room.spec.seed)
            found = score_captions(dict(zip(names, said, strict=True)), references, with_meteor=False)
            return found.values["CIDEr"]

        chosen, choice = grid_search(spec, attempt, field=self.field)
        if choice is not None:  # a protocol may have nothing left to search
            facts = {"split": held.split, "pictures": len(held.rows), "of": len(held.pictures)}
            self.room.choices.add({**self.named, "held_out": facts, "metric": "CIDEr", **choice.to_dict()})
        return chosen

    @property
    def named(self) -> dict[str, Any]:
        """What is learnt, as artifacts say it."""
        return {"task": self.field, "variant": "all", "transfer": self.transfer, "encoder": self.encoder.role}

    def learn(self, spec: CaptioningSpec, lessons: Sequence[CaptionExample]) -> tuple[VisionLanguageModel, list[float]]:
        """A new bridge that was taught ``lessons``, rows being those of the pictures; and the loss of each step."""
        pupil = build_vlm(
            self.room, self.encoder, self.transfer, self.files, self.language,
            augmentation=spec.augmentation, precision=spec.precision, field=f"{self.field}.language_model",
        )  # fmt: skip
        language = pupil.speaker.language
        examples = [
            VLMExample(caption_sequence(language, spec, caption).cut(self.language.max_tokens), row)
            for row, caption in lessons
        ]
        view = pupil.ground.view(self.split, self.pictures, self.corpus)
        self.room.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer to captions")
        losses = train_vlm(
            pupil, view, examples, spec, seed=self.room.spec.seed, field=self.field,
            on_step=lambda captions: self.room.progress.add(self.step_units * captions),
        )  # fmt: skip
        return pupil, losses


def caption_images(
    pupil: VisionLanguageModel,
    spec: CaptioningSpec,
    view: ImageBatchSource,
    rows: Ints,
    *,
    seed: int,
    on_batch: Callable[[int], None] = lambda captions: None,
) -> list[str]:
    """A caption of each of the pictures of ``view`` at ``rows``."""
    prompt = caption_sequence(pupil.speaker.language, spec, None)
    return pupil.say(view, rows, [prompt] * len(rows), spec.decoding, seed=seed, on_batch=on_batch)
