"""The sample that ships with the project: a few thousand small pictures, permissive licences only, in one zip."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from lcl_core.corpora.build import SIDE, Plan, build_in
from lcl_core.corpora.cache import Cache, Say
from lcl_core.corpora.sources import SOURCES
from lcl_core.corpora.sources.emoji import documents_of_emoji
from lcl_core.corpora.sources.openclipart import documents_of_clipart
from lcl_core.corpora.steps.rows import Document, Pair, line_of
from lcl_core.corpora.steps.texts import share_of
from lcl_core.corpora.workplace import PAIRS, Workplace, workplace

TINY_SIDE, QUALITY = 64, 80
TEAMS = ("twemoji", "noto", "noto-v1", "emojione", "fluent-3d")  # the last one tests
GROUPS = ("animals & nature", "food & drink", "travel & places", "activities", "objects")
CLIPART = 600  # drawings
_NO_SCENES = ("signs", "shapes", "unsorted", "computer")  # categories of clip art
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # so that the same contents are the same bytes


def build_tiny(cache: Cache, target: Path, say: Say) -> dict[str, Any]:
    """Make the zip at ``target``; its figures. Raises: as ``build`` does."""
    with workplace(target) as place:
        build_in(place, Plan((SOURCES["emoji"], SOURCES["openclipart"]), SIDE, "permissive"), cache, say)
        emoji, clipart = chosen_emoji(_rows(place, "emoji")), chosen_clipart(_rows(place, "openclipart"))
        documents = [*documents_of_emoji(emoji), *documents_of_clipart(clipart)]
        beside = place.folder / "tiny.zip"
        _write(beside, place, [*emoji, *clipart], documents)
        beside.rename(target)
        place.remove()
    return {"pictures": len(emoji) + len(clipart), "documents": len(documents), "bytes": target.stat().st_size}


def chosen_emoji(rows: Iterable[Pair]) -> list[Pair]:
    """The concepts of some groups that every team drew."""
    drawn: dict[str, dict[str, Pair]] = {}
    for pair in rows:
        if pair.labels["group"] in GROUPS and pair.vendor in TEAMS:
            drawn.setdefault(pair.labels["concept"], {})[pair.vendor] = pair
    concepts = [concept for concept, teams in drawn.items() if len(teams) == len(TEAMS)]
    concepts.sort(key=lambda concept: share_of(f"tiny:{concept}"))
    return [drawn[concept][team] for concept in concepts for team in TEAMS]


def chosen_clipart(rows: Iterable[Pair]) -> list[Pair]:
    """Some drawings of things, picked by their names alone."""
    scenes = [pair for pair in rows if not pair.labels["category"].startswith(_NO_SCENES)]
    return sorted(scenes, key=lambda pair: share_of(f"tiny:{pair.image}"))[:CLIPART]


def _rows(place: Workplace, source: str) -> list[Pair]:
    text = (place.folder / PAIRS / f"{source}.jsonl").read_text(encoding="utf-8")
    return [Pair.from_json(json.loads(line)) for line in text.split("\n")[:-1]]


def _write(path: Path, place: Workplace, pairs: list[Pair], documents: list[Document]) -> None:
    with zipfile.ZipFile(path, "w") as bundle:
        for pair in pairs:
            bundle.writestr(zipfile.ZipInfo(f"images/{pair.image}", _LONG_AGO), _small(place.images / pair.image))
        for name, rows in (("pairs.jsonl", pairs), ("interleaved.jsonl", documents)):
            text = "".join(line_of(row.to_json()) for row in rows)
            bundle.writestr(zipfile.ZipInfo(name, _LONG_AGO), text, zipfile.ZIP_DEFLATED)


def _small(path: Path) -> bytes:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((TINY_SIDE, TINY_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()
