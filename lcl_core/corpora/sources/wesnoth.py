"""The Battle for Wesnoth: portraits and sprites of its units with their descriptions, and an article on each people.

A document is an article's next sentences, then four units of the people, each picture before its text: the texts as
they were written, the order ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lcl_core.corpora.packages import apt
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.corpora.steps.documents import documents_of
from lcl_core.corpora.steps.pages import Figure, Item, Text
from lcl_core.corpora.steps.pictures import usual
from lcl_core.corpora.steps.rows import Built, Document, Pair
from lcl_core.corpora.steps.texts import plain, sentences, share_of, split_of

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
    """``pictures``: names below the images' folder, the portrait first where there is one."""

    name: str
    text: str
    race: str
    pictures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Race:
    title: str
    text: str = ""


def build(material: Material) -> Built:
    root = material.files[_PACKAGE.name] / _ROOT
    races = dict(_races((root / "units.cfg").read_text(encoding="utf-8")))
    families: dict[tuple[str, str], list[_Unit]] = {}
    for folder, unit in _units(root):
        families.setdefault((unit.race, folder), []).append(unit)
    pairs: list[Pair] = []
    documents: list[Document] = []
    for (race, folder), units in sorted(families.items(), key=lambda family: family[0]):
        told = races.get(race, _Race(race))
        for start in range(0, len(units), UNITS):
            chunk = units[start : start + UNITS]
            items = [*_introduction(told, start), *_shown(material, root, chunk, pairs)]
            documents += _documents(items, f"wesnoth:{folder}/{race}/{start}", f"wes{race}{start}")
    return Built(pairs, documents)


def _races(config: str) -> Iterator[tuple[str, _Race]]:
    for block in _RACE.findall(config):
        id, name, text = (pattern.search(block) for pattern in (_RACE_ID, _RACE_NAME, _RACE_TEXT))
        if id and text:
            yield id[1], _Race(name[1] if name else id[1], _plain(text[1]))


def _units(root: Path) -> Iterator[tuple[str, _Unit]]:
    """Folder and unit of each file that has a name, a description and a picture."""
    for path in sorted((root / "units").rglob("*.cfg"), key=lambda path: path.as_posix()):
        config = path.read_text(encoding="utf-8")
        name, text = _UNIT_NAME.search(config), _UNIT_TEXT.search(config)
        shown = [_picture(config, key) for key in ("profile", "image")]
        pictures = tuple(picture for picture in shown if _is_picture(root, picture))
        if name and text and pictures:
            yield path.parent.name, _Unit(name[1], _plain(text[1]), _value(config, "race") or "other", pictures)


def _value(config: str, key: str) -> str:
    found = re.search(rf'^\s*{key}\s*=\s*"?([^"\n]*)"?', config, re.MULTILINE)
    return found[1] if found else ""


def _picture(config: str, key: str) -> str:
    """Without the functions that colour it, and the frames of an animation."""
    return _ANIMATION.sub("", _value(config, key).split("~")[0])


def _is_picture(root: Path, name: str) -> bool:
    inside = ".." not in name.split("/") and not name.startswith("/")
    return inside and name.endswith((".png", ".webp")) and (root / "images" / name).is_file()


def _plain(text: str) -> str:
    return plain(_MARKUP.sub(" ", text))


def _introduction(race: _Race, start: int) -> Iterator[Item]:
    """Document by document, a walk through the article on the people."""
    yield Text(f"{race.title}.")
    if race.text:
        article = sentences(race.text)
        at = start * 2 % len(article)
        yield Text(" ".join(article[at : at + _INTRODUCTION]))


def _shown(material: Material, root: Path, units: list[_Unit], pairs: list[Pair]) -> Iterator[Item]:
    """The units as items of a document; each also becomes a pair. What is held out stays out of the document."""
    for unit in units:
        split = split_of(f"wes:images/{unit.pictures[0]}")  # by portrait, which some units share
        for picture in unit.pictures:
            image = material.pictures.put(root / "images" / picture, f"wesnoth/{usual(picture[:-4])}")
            if image is None:
                continue
            first = picture == unit.pictures[0]
            if split == "train":
                yield Figure(image, unit.name)
                if first:
                    yield Text(unit.name, caption=True)
                    if unit.text:
                        yield Text(unit.text)
            if first:
                pairs.append(_pair(image, unit, split))


def _pair(image: str, unit: _Unit, split: str) -> Pair:
    caption = f"{unit.name}. {sentences(unit.text)[0]}" if unit.text else unit.name
    return Pair(image, (caption, unit.name), {"concept": unit.name, "category": unit.race}, split, "wesnoth", LICENCE)


def _documents(items: list[Item], url: str, key: str) -> Iterator[Document]:
    split = "val" if share_of(key) < _VAL else "train"
    for number, (texts, placed) in enumerate(documents_of(items, MAX_WORDS)):
        yield Document(f"{url}.{number}", "wesnoth", LICENCE, tuple(texts), tuple(placed), split)


SOURCE = Source(
    "wesnoth", "units of the game The Battle for Wesnoth, and articles on its peoples", (_PACKAGE,), (LICENCE,), build
)
