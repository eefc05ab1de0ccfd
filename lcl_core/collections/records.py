"""Changes of a collection since its directory was written, and their snapshot on disk. Imports neither torch nor numpy.

The store of changes (the service: its database) numbers them; of an image only the last change counts. A run gets
them as two files in a directory of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.names import storable_text

_LINES, _BYTES = "changes.jsonl", "changes.blob"


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """The last change of one image.

    Attributes:
        number: grows with every change of the collection.
        item: the image's id.
        record: as ``Collection.item``; None: the image was removed.
        vector: of the image, little-endian f32 [E] of length 1.
        text_vectors: those of ``caption_texts(record)``, row by row: f32 [m, E]; empty where captions have no vectors.
        keeps_image: its bytes are those of the collection's directory, and none are stored with the change.
    """

    number: int
    item: str
    record: dict[str, Any] | None = None
    vector: bytes = b""
    text_vectors: bytes = b""
    keeps_image: bool = False


def caption_texts(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The distinct, non-blank captions of an image: the texts of its collection."""
    return tuple(text for text in dict.fromkeys(record["captions"]) if text.strip())


def read_set(text: str) -> list[str]:
    """Each text once: those of a JSON list, else what is between semicolons."""
    listed = read_list(text)
    return list(dict.fromkeys(listed if listed is not None else filter(None, map(str.strip, text.split(";")))))


def write_value(value: str | Sequence[str]) -> str:
    """A value as it is in a record: a list of texts as JSON."""
    return value if isinstance(value, str) else json.dumps(list(value), ensure_ascii=False)


def read_list(text: str) -> list[str] | None:
    """Texts that can be stored, whatever JSON's escapes make of them; None: the text is no JSON list of texts."""
    if not text.startswith("["):
        return None
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(listed, list) and all(isinstance(value, str) for value in listed)
    return list(map(storable_text, listed)) if is_list else None


class DeltaSnapshotWriter:
    """Writes changes into a directory. A context manager."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lines = (directory / _LINES).open("w", encoding="utf-8")
        self._bytes = (directory / _BYTES).open("wb")

    def __enter__(self) -> DeltaSnapshotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lines.close()
        self._bytes.close()

    def write(self, change: ChangeRecord, image: bytes) -> None:
        """``image``: its stored bytes, of which none are written if the change keeps the image."""
        entry: dict[str, Any] = {"number": change.number, "item": change.item, "record": change.record}
        parts: dict[str, bytes] = {"vector": change.vector, "text_vectors": change.text_vectors}
        if change.keeps_image:
            entry["picture"] = None
        else:
            parts["picture"] = image
        for name, data in parts.items():
            entry[name] = [self._bytes.tell(), len(data)]
            self._bytes.write(data)
        self._lines.write(json.dumps(entry) + "\n")


class DeltaSnapshot:
    """The changes that DeltaSnapshotWriter wrote, with their images. Raises: UserError ``changes_unreadable``."""

    def __init__(self, directory: Path) -> None:
        self._blob = directory / _BYTES
        self._ranges: dict[str, tuple[int, int]] = {}
        self.changes: list[ChangeRecord] = []
        try:
            size = self._blob.stat().st_size
            with (directory / _LINES).open(encoding="utf-8") as lines, self._blob.open("rb") as blob:
                for line in lines:
                    entry = json.loads(line)
                    image = entry["picture"]
                    if image is not None:
                        if sum(image) > size:
                            raise ValueError("an image is cut off")
                        self._ranges[entry["item"]] = (image[0], image[1])
                    vector, texts = (_read_range(blob, *entry[name]) for name in ("vector", "text_vectors"))
                    self.changes.append(
                        ChangeRecord(entry["number"], entry["item"], entry["record"], vector, texts, image is None)
                    )
        except (OSError, ValueError, KeyError) as error:
            message = f"the changes of the collection cannot be read ({error}); resume the run"
            raise UserError(message, code="changes_unreadable", file=directory) from error

    def images(self, items: Iterable[str]) -> list[bytes]:
        """The bytes that are stored with the changes of these images: with each that does not keep its image."""
        with self._blob.open("rb") as blob:
            return [_read_range(blob, *self._ranges[item]) for item in items]


def _read_range(blob: Any, start: int, size: int) -> bytes:
    blob.seek(start)
    data: bytes = blob.read(size)
    if len(data) != size:
        raise ValueError("the file ends too early")
    return data
