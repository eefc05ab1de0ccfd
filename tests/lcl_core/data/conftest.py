"""Corpora made on the spot, and a tokenizer small enough to train in milliseconds."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.data import Corpus, Tokenizer, open_corpus, train_bpe

COLOURS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255), "white.png": (255, 255, 255)}


class Kit:
    """Makes corpora below one temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def png(colour: tuple[int, ...] = (0, 0, 0), size: tuple[int, int] = (8, 8)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    @staticmethod
    def image(name: str, sentence: int, similarity: float = 0.5) -> dict[str, Any]:
        return {"image_name": name, "matched_text_index": sentence, "matched_sim": similarity}

    @staticmethod
    def document(texts: Sequence[str], *images: dict[str, Any]) -> dict[str, Any]:
        return {"text_list": list(texts), "image_info": list(images)}

    @staticmethod
    def pair(image: str, *captions: str, **more: Any) -> dict[str, Any]:
        return {"image": image, "captions": list(captions), **more}

    def write(self, name: str, data: bytes | str | Sequence[Any]) -> Path:
        """Bytes, text, or rows of JSON lines, as a file of the folder."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            file.write_bytes(data)
        else:
            text = data if isinstance(data, str) else "".join(json.dumps(row) + "\n" for row in data)
            file.write_text(text, encoding="utf-8")
        return file

    def corpus(self, documents: Sequence[Any] | None = None, pairs: Sequence[Any] | None = None) -> Corpus:
        """A folder with these lines and the four colours as images."""
        for stem, rows in (("interleaved", documents), ("pairs", pairs)):
            if rows is not None:
                self.write(f"{stem}.jsonl", rows)
        for name, colour in COLOURS.items():
            self.write(f"images/{name}", self.png(colour))
        return open_corpus(self.root)

    def zip(self) -> Path:
        """The folder as a zip beside it."""
        target = self.root.with_suffix(".zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path for path in self.root.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(self.root).as_posix())
        return target


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path / "corpus")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Every byte and a few merges."""
    return train_bpe(["a red square", "a green square", "a blue square", "the square is red", "so is this"], 300)
