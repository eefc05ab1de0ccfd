"""Our own folder or zip of JSON lines (``lcl_core.data.corpus``): its documents, then its captioned images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lcl_core.data.checks import check_pair
from lcl_core.data.lines import JsonLines
from lcl_core.data.pairs import DEFAULT_SPLIT
from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.documents import Origin, image_name_problem, read_document
from lcl_core.data.readers.loading import read_stored
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.segments import read_sequence
from lcl_core.data.readers.values import BadValue, plain_json
from lcl_core.data.record import BadItem, Pair, Picture, Record
from lcl_core.data.store import Store, open_store
from lcl_core.errors import UserError

_STEMS = ("interleaved", "pairs")
_PAIR_FIELDS = frozenset(("image", "captions", "labels", "split", "source"))


class NativeReader(Reader[ReaderOptions]):
    """Matched records of ``interleaved.jsonl``, Sequence records of its lines with ``segments``, Pair records of
    ``pairs.jsonl``; ids ``FILE:LINE``.

    Where there are several files, ``interleaved/NAME.jsonl``, the split of a document is NAME if that is ``val`` or
    begins with ``test``, or else ``train``.
    """

    format = "native"

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if path.is_dir():
            return any((path / f"{stem}.jsonl").is_file() or any((path / stem).glob("*.jsonl")) for stem in _STEMS)
        with path.open("rb") as file:
            if file.read(4) != b"PK\3\4":
                return False
        store = open_store(path)
        return any(_files_of(store, stem) for stem in _STEMS)

    def records(self) -> Iterator[Record | BadItem]:
        store = open_store(self.path)
        files = [name for stem in _STEMS for name in _files_of(store, stem)]
        if not files:
            raise UserError(
                "there is neither interleaved.jsonl nor pairs.jsonl", code="corpus_unreadable", file=self.path
            )
        for name in files:
            read = self._document if name.startswith("interleaved") else self._pair
            for item in _objects(store, name):
                if isinstance(item, BadItem):
                    yield item
                else:
                    yield from read(store, name, *item)

    def _document(self, store: Store, name: str, number: int, line: dict[str, Any]) -> Iterator[Record | BadItem]:
        def find(image: dict[str, Any]) -> Picture:
            return _picture(store, image["image_name"])

        origin = Origin(name, number, f"{name}:{number}", _split_of(name))
        if "segments" in line:
            yield from read_sequence(line, origin, find)
        else:
            yield from read_document(line, origin, find)

    def _pair(self, store: Store, name: str, number: int, line: dict[str, Any]) -> Iterator[Record | BadItem]:
        problem = check_pair(line)
        if problem is None and (reason := image_name_problem(line["image"])) is not None:
            problem = f"image {reason}"
        if problem is not None:
            yield BadItem(name, number, "bad pair", problem)
            return
        yield Record(
            id=f"{name}:{number}",
            body=Pair(line["image"], tuple(line["captions"]), line.get("labels", {})),
            pictures=(_picture(store, line["image"]),),
            split=line.get("split", DEFAULT_SPLIT),
            source=line.get("source", ""),
            extra={key: value for key, value in line.items() if key not in _PAIR_FIELDS},
        )


def _picture(store: Store, name: str) -> Picture:
    return Picture(name, partial(read_stored, store, f"images/{name}"))


def _files_of(store: Store, stem: str) -> list[str]:
    """``STEM.jsonl``, or else the files ``STEM/*.jsonl``, as in a Corpus but for the held-out documents."""
    if store.has(f"{stem}.jsonl"):
        return [f"{stem}.jsonl"]
    return [name for name in store.names() if name.startswith(f"{stem}/") and name.endswith(".jsonl")]


def _split_of(name: str) -> str:
    part = name.removeprefix("interleaved/").removesuffix(".jsonl")
    return part if "/" not in part and (part == "val" or part.startswith("test")) else DEFAULT_SPLIT


def _objects(store: Store, name: str) -> Iterator[tuple[int, dict[str, Any]] | BadItem]:
    """Every object of a file of JSON lines with the number of its line."""
    try:
        lines = JsonLines(store.buffer(name), name, lambda value: None)
    except UserError as error:
        yield BadItem(name, 0, "unreadable file", error.message)
        return
    for index in range(len(lines)):
        number = lines.line_number(index)
        try:
            yield number, plain_json(lines[index])
        except UserError as error:
            yield BadItem(name, number, "bad line", error.message)
        except BadValue as error:
            yield BadItem(name, number, "bad line", str(error))
