"""Zero-shot classification as a task: see ``lcl_core.transfer.zeroshot``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec
from lcl_core.transfer.answering import class_samples, predict
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.features import finite
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.labels import Labelled, classes_of, labelled
from lcl_core.transfer.prompts import templates_of, words_for
from lcl_core.transfer.records import IMAGE_TO_CLASS, Sheet
from lcl_core.transfer.tasks.base import TEXT_UNITS, Places, Room, Task
from lcl_core.transfer.zeroshot import class_scores, zero_shot_classifier

FIELD = "zero_shot_classification"
_ASKED_AT_ONCE = 4096


@dataclass(frozen=True)
class Naming:
    """One label key of one split.

    Attributes:
        classes: the split's labels, in alphabetical order: a closed set.
        words: what they are called in the prompts.
    """

    split: str
    label: str
    classes: tuple[str, ...]
    words: tuple[str, ...]
    asked: Labelled


@dataclass(frozen=True)
class ZeroShotClassification(Task):
    """Every picture takes the class whose descriptions lie nearest; nothing is trained."""

    name = "zero_shot_classification"

    galleries: dict[str, list[Picture]]
    namings: list[Naming]
    templates: tuple[str, ...]

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        own = spec.zero_shot_classification
        galleries = places.tested(spec, corpus)
        namings = []
        for split, pictures in galleries.items():
            for place, label in enumerate(dict.fromkeys(own.labels)):
                classes = classes_of(label, split, pictures, field=f"{FIELD}.labels.{place}")
                words = words_for(classes, own.names, own.class_names, field=f"{FIELD}.names")
                namings.append(Naming(split, label, classes, words, labelled(pictures, label, classes)))
        return cls(galleries, namings, own.templates or templates_of(own.prompts))

    def units(self) -> float:
        texts = sum(len(naming.classes) for naming in self.namings) * len(self.templates)
        return sum(map(len, self.galleries.values())) + TEXT_UNITS * texts

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        for naming in self.namings:
            pictures = self.galleries[naming.split]
            pooled = room.look(encoder, naming.split, pictures).pooled
            if pooled is None:
                raise UserError("this encoder has no pooled latents to classify by", code="no_latents", field="tasks")
            room.progress.enter(f"{encoder.role} encoder: descriptions of {naming.label} on {naming.split}")
            columns = self._columns(room, encoder, naming.words)
            parts = np.array_split(naming.asked.rows, -(-len(naming.asked) // _ASKED_AT_ONCE))
            logits = (class_scores(torch.from_numpy(pooled[part]), columns) for part in parts)
            answers = predict(logits, naming.asked.classes, field=FIELD)
            facts = {
                "candidates": len(naming.classes), "left_out": naming.asked.left_out, "templates": len(self.templates),
            }  # fmt: skip
            sheet = Sheet(
                self.name, naming.split, naming.label, "zero_shot", "ranks", encoder.role,
                part=IMAGE_TO_CLASS, facts=facts,
            )  # fmt: skip
            room.records.add(sheet, class_samples(pictures, naming.classes, naming.asked, answers))

    def _columns(self, room: Room, encoder: ExamEncoder, words: Sequence[str]) -> Tensor:
        """The classifier, from the cache where it was made before."""

        def make(folder: Path) -> None:
            columns = zero_shot_classifier(
                encoder.embed_texts, words, self.templates, lambda count: room.progress.add(TEXT_UNITS * count)
            )
            np.save(folder / "columns.npy", finite(columns.numpy()))

        facts = {
            "kind": "classes", "encoder": encoder.tower.identity, "classes": list(words),
            "templates": list(self.templates),
        }  # fmt: skip
        return torch.from_numpy(np.array(room.cache.get_or_make(facts, make)["columns"]))
