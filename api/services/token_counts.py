"""Lengths of documents in the tokens of an encoder that was trained here. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.services.state import AppState
from lcl_core.data.tokenizer import clip_tokenizer, load_tokenizer
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

MARKS = 2  # tokens before and after those of an image
_PRESET = "sample"


@dataclass(frozen=True)
class TokenCounter:
    """What counts the tokens of a document.

    Attributes:
        name: of the encoder, or of the preset.
        image: tokens of an image, with the marks around it.
        row: tokens of the model's context.
        encode: text → token ids.
    """

    name: str
    image: int
    row: int
    encode: Callable[[str], Sequence[int]]

    def add_to(self, items: Iterable[dict[str, Any]]) -> None:
        """Add ``tokens`` to every segment of the documents."""
        for item in items:
            for segment in item["segments"]:
                segment["tokens"] = len(self.encode(segment["text"])) if "text" in segment else self.image

    def view(self) -> dict[str, Any]:
        return {"name": self.name, "image": self.image, "row": self.row}


def find_counter(state: AppState, session: Session, reference: str | None) -> TokenCounter:
    """The counter of an encoder; None: of the newest that was trained here or comes with the product, else of a preset.

    Closes the session. The tokenizer of an imported encoder is read in the sandbox only, so that it counts nothing.

    Raises: UserError ``unknown_encoder``; Problem 422 ``no_tokens`` for an imported encoder.
    """
    if reference is not None:
        row = registry.get_encoder(session, reference)
        if not _is_own(row):
            message = (
                f"documents are not measured with {row.name!r}, which was imported; name one that was trained here"
            )
            raise Problem(422, "no_tokens", message, field="encoder")
        return _of_encoder(state, session, row)
    own = next(filter(_is_own, registry.list_encoders(session)), None)
    if own is not None:
        return _of_encoder(state, session, own)
    session.close()
    spec = cast(PretrainSpec, parse_spec("pretrain", {"preset": _PRESET}))
    name = f"preset {_PRESET}, texts in CLIP tokens"
    return TokenCounter(name, spec.kept_patches + MARKS, spec.model.context_length, clip_tokenizer().encode)


def _is_own(row: EncoderRow) -> bool:
    return "imported_from" not in row.info


def _of_encoder(state: AppState, session: Session, row: EncoderRow) -> TokenCounter:
    name, directory = row.name, state.artifacts.folder(session, row.path)
    session.close()
    return _read_counter(name, directory)


@lru_cache(16)
def _read_counter(name: str, directory: Path) -> TokenCounter:
    """A registered directory never changes."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    patches = (config["image_size"] // config["patch_size"]) ** 2
    encode = load_tokenizer(directory / "tokenizer.json").encode
    return TokenCounter(name, patches + MARKS, config["context_length"], encode)
