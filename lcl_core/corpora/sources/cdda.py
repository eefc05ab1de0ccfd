"""Cataclysm: Dark Days Ahead: things of a game, drawn as sprites by four teams, with the game's own descriptions.

One team's drawings are held out, and a tenth of the names. It is a game of survival and horror: texts about gore,
drugs and sex are left out, weapons and zombies stay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lcl_core.corpora.packages import apt
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.corpora.sources.cdda_game import Entities, load_entities
from lcl_core.corpora.sources.cdda_tiles import tiles_of
from lcl_core.corpora.steps.documents import grouped
from lcl_core.corpora.steps.pictures import WHITE, Wanted
from lcl_core.corpora.steps.rows import Built, Pair
from lcl_core.corpora.steps.texts import plain, sentences, share_of

LICENCE = "CC-BY-SA-3.0"
HELD_OUT = 0.10  # of the names
MIN_WORDS = 4  # of a description
SETS = {
    "UltimateCataclysm": "train",
    "MshockXotto+": "train",
    "BrownLikeBears": "train",
    "Cuteclysm": "test_vendor",
}
CATEGORIES = {
    "COMESTIBLE": "food and drink", "MONSTER": "creature", "GENERIC": "item", "ARMOR": "clothing", "TOOL": "tool",
    "BOOK": "book", "furniture": "furniture", "terrain": "terrain", "TOOL_ARMOR": "clothing", "MAGAZINE": "item",
    "ENGINE": "item", "WHEEL": "item",
}  # fmt: skip
_LEFT_OUT = re.compile(
    r"corpse|blood|gore|drug|cocaine|heroin|meth(amphetamine)?\b|sex|porn|nude|naked|flesh|entrails|"
    r"human (meat|flesh|fat)|suicid|torture|viscera|dismember|brothel|stripper|fetish|bondage",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[\w_ -]+>")
_UNUSUAL = re.compile(r"[^\w-]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_ROOT = "usr/share/games/cataclysm-dda/"
_PACKAGE = apt(
    "cataclysm-dda-data", "0.H-1", "6b225d32b22197e1cf7449aea22027664fca63dccbfbcbcf1af4e3e03a4f2a1c",
    f"{_ROOT}json/", *(f"{_ROOT}gfx/{name}/" for name in SETS),
)  # fmt: skip


def build(material: Material) -> Built:
    root = material.files[_PACKAGE.name] / _ROOT
    entities = load_entities(root / "json", CATEGORIES)
    pairs = [pair for name in SETS for pair in _pairs(material, entities, root, name)]
    return Built(pairs, list(grouped(pairs, _topic, lambda pair: sentences(pair.long or ""), LICENCE, _title)))


def _topic(pair: Pair) -> tuple[str, ...]:
    return (pair.vendor or "", pair.labels["category"])


def _title(topic: tuple[str, ...]) -> str:
    return f"{topic[1]}."


def _pairs(material: Material, entities: Entities, root: Path, team: str) -> Iterator[Pair]:
    """The same drawing for several things is taken for the first of them."""
    drawn: set[bytes] = set()
    named: set[str] = set()
    for tile in tiles_of(root / "gfx" / team):
        for id in tile.ids:
            told = None if id in named else _told(entities, id)
            image = None if told is None else tile.image()
            if told is None or image is None:
                continue
            digest = hashlib.sha256(image.tobytes()).digest()
            if digest in drawn:
                continue
            drawn.add(digest)
            named.add(id)
            place = f"cdda/{team.replace('+', '')}/{_UNUSUAL.sub('_', id)}"
            put = material.pictures.put(_on_square(image), place, Wanted(lossless=True))
            if put is not None:
                yield _pair(put, team, told)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the game says of a thing."""

    name: str
    description: str
    category: str


def _told(entities: Entities, id: str) -> _Told | None:
    """None for what is no thing, has no description, or one that is left out."""
    category = CATEGORIES.get(entities.type_of(id) or "")
    name, description = (_TAG.sub("", entities.text(id, key) or "") for key in ("name", "description"))
    name, description = plain(name), plain(description)
    if category is None or not name or len(description.split()) < MIN_WORDS:
        return None
    return None if _LEFT_OUT.search(f"{name} {description}") else _Told(name, description, category)


def _pair(image: str, team: str, told: _Told) -> Pair:
    first = _SENTENCE_END.split(told.description)[0]
    unseen = share_of(f"cdda:{told.name.lower()}") < HELD_OUT
    split = {
        ("train", True): "test_concept",
        ("test_vendor", True): "test_both",
    }.get((SETS[team], unseen), SETS[team])
    return Pair(
        image,
        (f"{told.name}. {first}", told.name),
        {"concept": told.name, "category": told.category},
        split,
        "cdda",
        LICENCE,
        vendor=team,
        long=f"{told.name}. {told.description}",
    )


def _on_square(sprite: Image.Image) -> Image.Image:
    """Standing on the lower edge of a white square."""
    side = max(sprite.size)
    square = Image.new("RGBA", (side, side), (*WHITE, 255))
    square.alpha_composite(sprite, ((side - sprite.width) // 2, side - sprite.height))
    return square


SOURCE = Source(
    "cdda", "things of the game Cataclysm: Dark Days Ahead, by four teams", (_PACKAGE,), (LICENCE,), build
)
