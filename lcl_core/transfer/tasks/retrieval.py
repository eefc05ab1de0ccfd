"""Zero-shot image-text retrieval with the encoder's own text side.

The product's own reads a caption as the context of an image to come (``sot text soi``); pictures are pooled latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.features import text_features
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.records import Sheet
from lcl_core.transfer.retrieval import Variant, split_variants, store_ranks, texts_of_all
from lcl_core.transfer.tasks.base import TEXT_UNITS, Places, Room, Task


@dataclass(frozen=True)
class Retrieval(Task):
    """Every caption looks for its picture and every picture for its captions; nothing is trained.

    Attributes:
        galleries: pictures of each tested split.
        variants: which captions are asked for, by split.
    """

    name = "retrieval"

    galleries: dict[str, list[Picture]]
    variants: dict[str, list[Variant]]

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        galleries = places.tested(spec, corpus)
        return cls(galleries, {split: split_variants(split, pictures) for split, pictures in galleries.items()})

    def units(self) -> float:
        return sum(map(len, self.galleries.values())) + TEXT_UNITS * sum(map(len, self._texts.values()))

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        for split, pictures in self.galleries.items():
            pooled = room.look(encoder, split, pictures).pooled
            if pooled is None:
                raise UserError("this encoder has no pooled latents to retrieve by", code="no_latents", field="tasks")
            room.progress.enter(f"{encoder.role} encoder: retrieval on {split}")
            texts = self._texts[split]
            features = text_features(
                encoder, texts, room.cache, advance=lambda count: room.progress.add(TEXT_UNITS * count)
            )
            row_of = {text: row for row, text in enumerate(texts)}
            for variant in self.variants[split]:
                rows = np.array([row_of[text] for text in variant.texts.texts])
                asked = Sheet(self.name, split, variant.name, "zero_shot", "ranks", encoder.role)
                store_ranks(
                    room.records, asked, pictures, variant, pooled, features[rows],
                    on_block=lambda *_: room.progress.add(0),
                )  # fmt: skip

    @property
    def _texts(self) -> dict[str, list[str]]:
        """The texts to embed for each split, each once."""
        return {split: texts_of_all(asked) for split, asked in self.variants.items()}
