"""What all sources of a stream share: how items are drawn, read, encoded and made into pixels."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from lcl_core.data.augment import PILLOW, Cropper, augment
from lcl_core.data.cache import ImageCache
from lcl_core.data.corpus import Corpus
from lcl_core.data.images import CropNeed
from lcl_core.data.interleave import Numerics, image_block
from lcl_core.data.order import mix64
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.errors import UserError
from lcl_core.specs import DataSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all sources of a stream share."""

    data: DataSpec
    tokenizer: Tokenizer
    num_image_tokens: int
    image_size: int
    context_length: int
    seed: int
    numerics: Numerics
    cache: ImageCache
    cropper: Cropper = PILLOW

    def draw(self, *place: int) -> random.Random:
        """The generator of one place; the same numbers on every machine."""
        return random.Random(mix64(self.seed, *place))  # noqa: S311 - a data order, not a secret

    def tokens(self, text: str | None) -> int:
        """Length of a text, or (None) of an image, in tokens."""
        if text is None:
            return len(image_block(self.tokenizer, self.num_image_tokens))
        return len(self.tokenizer.encode(text, self.numerics == "fixed"))

    def read(
        self, dataset: str, corpus: Corpus, names: Iterable[str]
    ) -> tuple[dict[str, Image.Image], list[UserError]]:
        """The pictures that can be read, by name, and what is wrong with the others."""
        data = self.data
        need = CropNeed(self.image_size, data.augmentation.crop_scale[0]) if data.fast_decode else None
        images: dict[str, Image.Image] = {}
        problems: list[UserError] = []
        for name in names:
            try:
                images[name] = self.cache.get(dataset, name, partial(corpus.read_image, need=need))
            except UserError as error:
                problems.append(error)
        return images, problems

    def pixels(self, images: Sequence[Image.Image], draw: random.Random) -> np.ndarray:
        """Random crops → [k, 3, S, S] float32."""
        size = self.image_size
        pixels = np.empty((len(images), 3, size, size), np.float32)
        for image, out in zip(images, pixels, strict=True):
            augment(image, size, draw, self.data.augmentation, out, self.cropper)
        return pixels


def codes(problems: Iterable[UserError]) -> tuple[str, ...]:
    """Why pictures were left out, to be counted."""
    return tuple(problem.code for problem in problems)


def details(problems: Iterable[UserError]) -> str:
    """The particulars, for a person."""
    return "; ".join(str(problem) for problem in problems)
