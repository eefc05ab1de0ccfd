"""Changes of a collection since its directory was written, and their snapshot on disk. Imports neither torch nor numpy.

The store of changes (the service: its database) numbers them; of an image only the last change counts. A run gets them
as an SQLite file in a directory of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.paths import storable_text

_FILE = "changes.sqlite"
_CREATE = "CREATE TABLE changes (number, item PRIMARY KEY, record, vector, text_vectors, keeps_image, image)"
_SELECT = "SELECT number, item, record, vector, text_vectors, keeps_image FROM changes ORDER BY number"


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


@dataclass(frozen=True)
class Delta:
    """A state of the changes: a search, or an export that takes minutes, reads one state.

    Attributes:
        number: of the last change.
        changes: by the image's id, in the order of their numbers.
    """

    number: int = 0
    changes: Mapping[str, ChangeRecord] = field(default_factory=dict)

    def with_changes(self, changes: Iterable[ChangeRecord]) -> Delta:
        """The delta with further changes, in the order of their numbers."""
        number, found = self.number, dict(self.changes)
        for change in changes:
            number = change.number
            found.pop(change.item, None)  # a replaced image is the newest
            found[change.item] = change
        return Delta(number, found)


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


def write_snapshot(directory: Path, changes: Iterable[tuple[ChangeRecord, bytes]]) -> int:
    """Write changes, each with the stored bytes of its image unless it keeps it. Returns: the number of the last."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    database = sqlite3.connect(directory / _FILE)
    try:
        with database:
            database.execute(_CREATE)
            for change, image in changes:
                number = change.number
                values = (number, change.item, json.dumps(change.record), change.vector, change.text_vectors)
                database.execute(
                    "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, change.keeps_image, image)
                )
    finally:
        database.close()
    return number


class DeltaSnapshot:
    """The changes that ``write_snapshot`` wrote, with their images. Raises: UserError ``collection_unreadable``."""

    def __init__(self, directory: Path) -> None:
        try:
            self._database = sqlite3.connect(f"{(directory / _FILE).resolve().as_uri()}?mode=ro", uri=True)
            self.changes = [
                ChangeRecord(number, item, json.loads(record), vector, text_vectors, bool(keeps_image))
                for number, item, record, vector, text_vectors, keeps_image in self._database.execute(_SELECT)
            ]
        except sqlite3.Error as error:
            message = f"the changes of the collection cannot be read ({error}); resume the run"
            raise UserError(message, code="collection_unreadable", file=directory) from error

    def image(self, item: str) -> bytes:
        """The bytes that are stored with the change of an image, if it does not keep its image."""
        (data,) = self._database.execute("SELECT image FROM changes WHERE item = ?", (item,)).fetchone()
        return bytes(data)
