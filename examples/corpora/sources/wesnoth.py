"""The Battle for Wesnoth: portraits and sprites of its units with their descriptions, and an article on each people.

A document is an article's next sentences, then four units of the people, each image before its text: the texts as
they were written, the order ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.corpora.images import safe_image_name
from examples.corpora.packages import apt
from examples.corpora.rows import (
    DocumentRow,
    PairRow,
    SourceRows,
    build_documents,
    hash_fraction,
    plain_text,
    split_by_hash,
)
from examples.corpora.sources.base import CorpusSource, SourceFiles
from lcl_core.data.formats.html.chunking import split_sentences
from lcl_core.data.formats.html.parser import ImageItem, PageItem, TextItem

LICENCE = "GPL-2.0-or-later"
UNITS, MAX_WORDS = 4, 600  # of a document
_INTRODUCTION = 6  # sentences of the article
_VAL = 0.05
_ROOT = "usr/share/games/wesnoth/1.18/data/core/"
_PACKAGE = apt(
    "wesnoth-1.18-data", "1:1.18.5-1", "6db473c8af6242d5a9a824f5af79619a0f5769460e896b90f529bacc405aeffd",
    *(f"{_ROOT}{part}" for part in ("units.cfg", "units/", "images/")),
)  # fmt: skip
_MARKUP = re.compile(r"<[^>]*>|\b(?:dst|text)='[^']*'")
_RACE = re.compile(r"\[race\](.*?)\[/race\]", re.DOTALL)
_RACE_ID = re.compile(r"\n\s*id=(\w+)")
_RACE_NAME = re.compile(r'plural_name=\s*_\s*"(?:[^"^]*\^)?([^"]*)"')
_RACE_TEXT = re.compile(r'description=\s*_\s*"(.*?)"', re.DOTALL)
_UNIT_NAME = re.compile(r'^\s*name=\s*_\s*"(?:[^"^]*\^)?([^"]*)"', re.MULTILINE)
_UNIT_TEXT = re.compile(r'^\s*description=\s*_\s*"(.*?)"', re.MULTILINE | re.DOTALL)
_ANIMATION = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True, slots=True)
class _Unit:
    """``images``: names below the images' folder, the portrait first where there is one."""

    name: str
    text: str
    race: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Race:
    title: str
    text: str = ""


def build(files: SourceFiles) -> SourceRows:
    root = files.packages[_PACKAGE.name] / _ROOT
    races = dict(_races((root / "units.cfg").read_text(encoding="utf-8")))
    families: dict[tuple[str, str], list[_Unit]] = {}
    for folder, unit in _units(root):
        families.setdefault((unit.race, folder), []).append(unit)
    pairs: list[PairRow] = []
    documents: list[DocumentRow] = []
    for (race, folder), units in sorted(families.items(), key=lambda family: family[0]):
        article = races.get(race, _Race(race))
        for start in range(0, len(units), UNITS):
            chunk = units[start : start + UNITS]
            items = [*_introduction(article, start), *_unit_items(files, root, chunk, pairs)]
            documents += _documents(items, f"wesnoth:{folder}/{race}/{start}", f"wes{race}{start}")
    return SourceRows(pairs, documents)


def _races(config: str) -> Iterator[tuple[str, _Race]]:
    for block in _RACE.findall(config):
        id, name, text = (pattern.search(block) for pattern in (_RACE_ID, _RACE_NAME, _RACE_TEXT))
        if id and text:
            yield id[1], _Race(name[1] if name else id[1], _strip_markup(text[1]))


def _units(root: Path) -> Iterator[tuple[str, _Unit]]:
    """Folder and unit of each file that has a name, a description and an image."""
    for path in sorted((root / "units").rglob("*.cfg"), key=lambda path: path.as_posix()):
        config = path.read_text(encoding="utf-8")
        name, text = _UNIT_NAME.search(config), _UNIT_TEXT.search(config)
        names = (_image_name(config, key) for key in ("profile", "image"))
        images = tuple(each for each in names if _is_image(root, each))
        if name and text and images:
            yield path.parent.name, _Unit(name[1], _strip_markup(text[1]), _value(config, "race") or "other", images)


def _value(config: str, key: str) -> str:
    found = re.search(rf'^\s*{key}\s*=\s*"?([^"\n]*)"?', config, re.MULTILINE)
    return found[1] if found else ""


def _image_name(config: str, key: str) -> str:
    """Without the functions that colour it, and the frames of an animation."""
    return _ANIMATION.sub("", _value(config, key).split("~")[0])


def _is_image(root: Path, name: str) -> bool:
    inside = ".." not in name.split("/") and not name.startswith("/")
    return inside and name.endswith((".png", ".webp")) and (root / "images" / name).is_file()


def _strip_markup(text: str) -> str:
    return plain_text(_MARKUP.sub(" ", text))


def _introduction(race: _Race, start: int) -> Iterator[PageItem]:
    """The article's next sentences, chunk by chunk of the units."""
    yield TextItem(f"{race.title}.", 0)
    if race.text:
        article = split_sentences(race.text)
        first = start * 2 % len(article)
        yield TextItem(" ".join(article[first : first + _INTRODUCTION]), 0)


def _unit_items(files: SourceFiles, root: Path, units: list[_Unit], pairs: list[PairRow]) -> Iterator[PageItem]:
    """The units as items of a document; each also becomes a pair. Held-out units stay out of the document."""
    for unit in units:
        split = split_by_hash(f"wes:images/{unit.images[0]}")  # by portrait, which some units share
        for name in unit.images:
            image = files.images.put(root / "images" / name, f"wesnoth/{safe_image_name(name[:-4])}")
            if image is None:
                continue
            first = name == unit.images[0]
            if split == "train":
                yield ImageItem((image,), unit.name, 0, captions=[unit.name] if first else [])
                if first and unit.text:
                    yield TextItem(unit.text, 0)
            if first:
                pairs.append(_pair(image, unit, split))


def _pair(image: str, unit: _Unit, split: str) -> PairRow:
    caption = f"{unit.name}. {split_sentences(unit.text)[0]}" if unit.text else unit.name
    return PairRow(
        image, (caption, unit.name), {"concept": unit.name, "category": unit.race}, split, "wesnoth", LICENCE
    )


def _documents(items: list[PageItem], url: str, key: str) -> Iterator[DocumentRow]:
    split = "val" if hash_fraction(key) < _VAL else "train"
    for number, (texts, placed) in enumerate(build_documents(items, MAX_WORDS)):
        yield DocumentRow(f"{url}.{number}", "wesnoth", LICENCE, tuple(texts), tuple(placed), split)


SOURCE = CorpusSource(
    "wesnoth", "units of the game The Battle for Wesnoth, and articles on its peoples", (_PACKAGE,), (LICENCE,), build
)
