"""An encoder of another library in memory: vectors as it makes them, and no texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from lcl_core.errors import UserError
from lcl_core.interop.foreign import ForeignTower
from lcl_core.interop.identity import hash_of_weights_in
from lcl_core.panics import panics_as_errors, tokenizing
from lcl_core.serving.options import CaptionOptions
from lcl_core.serving.pages import Page
from lcl_core.serving.prepared import Prepared
from lcl_core.serving.readers import Reader
from lcl_core.serving.session import EncoderSession
from lcl_core.serving.writing import Written
from lcl_core.transfer.tower import Tower
from lcl_core.transfer.towers import load_tower

_PREPARING_BYTES = 16  # a pixel: other libraries copy the image, as RGB and as arrays, before they shrink it


class TowerSession(EncoderSession):
    """An EncoderSession on a :class:`~lcl_core.transfer.tower.Tower`.

    Raises:
        UserError: also ``no_latents`` for an encoder without pooled latents; when it is asked for what it cannot do,
            ``no_text_encoder``, ``no_captions`` and ``no_attention``.
    """

    tower: Tower

    def _open(self) -> str:
        self.tower = load_tower(self.directory)
        if self.file_hashes and isinstance(self.tower, ForeignTower):  # the files were hashed already: not once more
            self.tower.weights_hash = hash_of_weights_in(self.file_hashes, self.tower.origin.weights)
        self.tower.module.to(self.device)
        if self.tower.text_side is not None:
            self.tower.text_side.module.to(self.device)
        if self.tower.embed_dim is None:
            message = "this encoder makes no vectors of whole pictures; it can be evaluated, but not served"
            raise UserError(message, code="no_latents", file=self.directory)
        return self.tower.identity["weights"]

    def drop_vision(self) -> None:
        """Nothing: in another library's module both sides may hang together."""

    @property
    def dim(self) -> int:
        assert self.tower.embed_dim is not None, "refused when it was opened"
        return self.tower.embed_dim

    @property
    def reads_texts(self) -> bool:
        return self.tower.text_side is not None

    @property
    def image_tokens(self) -> int:
        return self.tower.tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        if not texts or self.tower.text_side is None:
            return [0 for _ in texts]
        with tokenizing():
            return self.tower.text_side.count_tokens(texts)

    @property
    def preparing_bytes(self) -> int:
        return _PREPARING_BYTES

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        return self.tower.preprocess(list(images))

    def _see(self, pixels: Tensor) -> Tensor:
        pooled, _ = self.tower.look(pixels)
        assert pooled is not None, "refused when it was opened"
        return pooled

    def _read(self, texts: Sequence[str]) -> Tensor:
        if self.tower.text_side is None:
            message = "this encoder sees pictures and reads no texts; ask it for pictures, or another encoder"
            raise UserError(message, code="no_text_encoder", field="input")
        with panics_as_errors():
            return self.tower.text_side.features(texts)

    def lay(self, parts: Sequence[str | Image.Image | Prepared]) -> Page:
        raise _silent()

    def write_captions(
        self, pixels: Tensor, options: CaptionOptions, seeds: Sequence[int], readers: Sequence[Reader]
    ) -> Iterator[Written]:
        raise _silent()

    def box(self, image: Image.Image) -> tuple[float, float, float, float]:
        raise _aloof()

    def attend(self, pixels: Tensor) -> np.ndarray:
        raise _aloof()


def _aloof() -> UserError:
    message = "this encoder pools patches in its own way; an encoder that lcl pre-trained shows its attention"
    return UserError(message, code="no_attention", field="model")


def _silent() -> UserError:
    message = "this encoder writes no text; an encoder that lcl pre-trained does"
    return UserError(message, code="no_captions", field="model")
