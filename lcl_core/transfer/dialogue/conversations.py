"""Conversations about pictures in LLaVA's JSON.

    [{"id", "image": "name in the folder", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                             {"from": "gpt", "value": "…"}, …]}, …]

An entry without ``image`` is a conversation without a picture. Source: github.com/haotian-liu/LLaVA
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import InstructionsSpec
from lcl_core.transfer.answers.files import read_entries, reading, refuse
from lcl_core.transfer.bridge.turns import MARK, Turn
from lcl_core.transfer.dialogue.albums import FolderAlbum, JointAlbum
from lcl_core.transfer.gallery import Picture

_ASKS, _ANSWERS = "human", "gpt"


@dataclass(frozen=True)
class Conversation:
    """Questions with their answers, about a picture or none; the first question shows it."""

    image: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Conversations:
    """Conversations and where their pictures lie.

    Attributes:
        pictures: each once.
        rows: the picture of each conversation; none: it has none.
        without_picture: conversations that are not used because their picture is not there.
    """

    corpus: Corpus
    pictures: list[Picture]
    conversations: list[Conversation]
    rows: list[int | None]
    without_picture: int


def read_conversations(sources: Sequence[InstructionsSpec], *, field: str) -> Conversations:
    """Read all files. Conversations whose picture is not in the file's folder are left out and counted.

    Args:
        field: of the evaluation's spec that holds ``sources``.

    Raises:
        UserError: ``benchmark_unreadable`` naming the file and the entry, or ``nothing_to_learn``.
    """
    albums, kept, gone = [], [], 0
    for place, source in enumerate(sources):
        album = FolderAlbum(Path(source.images), field=f"{field}.{place}.images")
        found = conversations_of(read_entries(Path(source.path)), Path(source.path))
        there = [each for each in found if each.image is None or album.has(each.image)]
        if not any(each.image for each in there):
            raise UserError(
                f"none of the pictures that {Path(source.path).name} names are in this folder",
                code="nothing_to_learn", field=f"{field}.{place}.images", file=source.images,
            )  # fmt: skip
        albums.append(album)
        gone += len(found) - len(there)
        kept += [replace(each, image=f"{place}/{each.image}") if each.image else each for each in there]
    return gathered(JointAlbum(albums), kept, without_picture=gone)


def gathered(corpus: Corpus, conversations: list[Conversation], *, without_picture: int = 0) -> Conversations:
    """Conversations with their pictures numbered."""
    names = dict.fromkeys(each.image for each in conversations if each.image is not None)
    row_of = {name: row for row, name in enumerate(names)}
    rows = [None if each.image is None else row_of[each.image] for each in conversations]
    return Conversations(corpus, [Picture(name, (), {}) for name in names], conversations, rows, without_picture)


def conversations_of(entries: Sequence[dict[str, Any]], file: Path) -> list[Conversation]:
    """Entries of a file in LLaVA's layout."""
    return [_conversation(entry, place, file) for place, entry in enumerate(entries)]


def _conversation(entry: dict[str, Any], place: int, file: Path) -> Conversation:
    with reading(file, entry.get("id", place)):
        image = entry.get("image")
        if image is not None and not isinstance(image, str):
            refuse(f"entry {entry.get('id', place)} has several pictures; one can be shown", file)
        said = [(str(each["from"]), str(each["value"])) for each in entry["conversations"]]
        turns = list(_turns(said[1:] if said and said[0][0] != _ASKS else said))
        if not turns:
            raise ValueError("no question with an answer")
        return Conversation(image, _shown(turns) if image is not None else tuple(turns))


def _turns(said: Sequence[tuple[str, str]]) -> list[Turn]:
    """Questions and answers by turns; a question at the end that nobody answered is dropped."""
    turns = []
    for asked, answered in zip(said[::2], said[1::2], strict=False):
        if (asked[0], answered[0]) != (_ASKS, _ANSWERS):
            raise ValueError(f"{asked[0]} and {answered[0]} where {_ASKS} and {_ANSWERS} are expected")
        turns.append(Turn(asked[1].replace(MARK, "").strip(), answered[1]))
    return turns


def _shown(turns: list[Turn]) -> tuple[Turn, ...]:
    """The picture stands at the head of the first question, wherever the file had it."""
    return Turn(f"{MARK}\n{turns[0].question}", turns[0].answer), *turns[1:]
