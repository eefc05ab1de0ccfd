"""Cataclysm: Dark Days Ahead: objects of a game, drawn as sprites by four teams, with the game's own descriptions.

Objects are JSON by id and inherit fields; sprites are numbered cells of sheets, and tiles combine them. One team's
drawings are held out, and a tenth of the names. It is a game of survival and horror: texts about gore, drugs and sex
are left out, weapons and zombies stay.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from examples.corpora.images import WHITE, ImageOptions
from examples.corpora.packages import apt
from examples.corpora.rows import PairRow, SourceRows, group_documents, hash_fraction, plain_text
from examples.corpora.sources.base import CorpusSource, SourceFiles
from lcl_core.data.formats.html.chunking import split_sentences

_MAX_INHERITANCE = 8  # of an inheritance


class GameEntities:
    """Several objects may have one id: of different types, or parts of one."""

    def __init__(self, objects: dict[str, list[dict[str, Any]]]) -> None:
        self._objects = objects

    def type_of(self, id: str) -> str | None:
        return self._objects[id][0].get("type") if id in self._objects else None

    def text(self, id: str, key: str, depth: int = 0) -> str | None:
        """A text of the first object that says it, or inherits it."""
        for entity in self._objects.get(id, ()):
            value = entity.get(key)
            if isinstance(value, dict):  # singular and plural
                value = value.get("str") or value.get("str_sp")
            if isinstance(value, str) and value:
                return value
            parent = entity.get("copy-from")
            if parent and parent != id and depth < _MAX_INHERITANCE:
                inherited = self.text(parent, key, depth + 1)
                if inherited:
                    return inherited
        return None


def load_entities(folder: Path, things: Collection[str]) -> GameEntities:
    """Of every JSON file below ``folder``, in the order of their names.

    Args:
        things: requested types; of several objects with one id those of such a type come first.
    """
    objects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    files = (path for pattern in ("*.json", "*.json.gz") for path in folder.rglob(pattern))
    for path in sorted(files, key=lambda path: (path.parent.as_posix(), path.name)):
        value = json.loads(_read_text(path))
        for entity in value if isinstance(value, list) else [value]:
            for id in _entity_ids(entity):
                objects[id].append(entity)
    for named in objects.values():
        named.sort(key=lambda entity: entity.get("type") not in things)
    return GameEntities(dict(objects))


def _read_text(path: Path) -> str:
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def _entity_ids(entity: Any) -> list[str]:
    if not isinstance(entity, dict):
        return []
    named = entity.get("id") or entity.get("abstract") or []
    return [id for id in ([named] if isinstance(named, str) else named) if isinstance(id, str)]


class _SpriteSheets:
    """Cells are numbered through all sheets, row by row."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        usual = config["tile_info"][0]
        self._starts: list[int] = []
        self._sheets: list[tuple[Image.Image, int, int]] = []
        self._cells = 0
        for facts in config["tiles-new"]:
            sheet = _load_sheet(folder / facts["file"])
            if sheet is not None:
                width, height = facts.get("sprite_width", usual["width"]), facts.get("sprite_height", usual["height"])
                self._starts.append(self._cells)
                self._sheets.append((sheet, width, height))
                self._cells += (sheet.width // width) * (sheet.height // height)

    def cell(self, number: int) -> Image.Image | None:
        if not 0 <= number < self._cells:
            return None
        at = bisect_right(self._starts, number) - 1
        sheet, width, height = self._sheets[at]
        row, column = divmod(number - self._starts[at], sheet.width // width)
        left, top = column * width, row * height
        return sheet.crop((left, top, left + width, top + height))


def _load_sheet(path: Path) -> Image.Image | None:
    """Some teams name sheets that they do not ship."""
    try:
        with Image.open(path) as image:
            return image.convert("RGBA")
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Tile:
    """A drawing of one thing or several."""

    ids: tuple[str, ...]
    _sheets: _SpriteSheets
    _facts: dict[str, Any]

    def image(self) -> Image.Image | None:
        """RGBA, what stands in front over what lies behind; None where there is nothing to see."""
        front = self._cell("fg")
        if front is None or front.getbbox() is None:
            return None
        back = self._cell("bg")
        if back is None or back.size != front.size:
            return front
        back.alpha_composite(front)
        return back

    def _cell(self, layer: str) -> Image.Image | None:
        number = _first_sprite(self._facts.get(layer))
        return None if number is None else self._sheets.cell(number)


def _first_sprite(value: Any) -> int | None:
    """Of variants, rotations and weighted choices the first."""
    while isinstance(value, list | dict):
        value = value.get("sprite") if isinstance(value, dict) else value[0] if value else None
    return value


def read_tiles(folder: Path) -> Iterator[Tile]:
    """Every tile of a team that has a front."""
    config = json.loads((folder / "tile_config.json").read_text(encoding="utf-8"))
    sheets = _SpriteSheets(folder, config)
    for facts in config["tiles-new"]:
        for tile in facts["tiles"]:
            if "fg" in tile:
                ids = tile["id"] if isinstance(tile["id"], list) else [tile["id"]]
                yield Tile(tuple(ids), sheets, tile)


LICENCE = "CC-BY-SA-3.0"
HELD_OUT = 0.10  # of the names
MIN_WORDS = 4  # of a description
SETS = {"UltimateCataclysm": "train", "MshockXotto+": "train", "BrownLikeBears": "train", "Cuteclysm": "test_vendor"}
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
_ROOT = "usr/share/games/cataclysm-dda/"
_PACKAGE = apt(
    "cataclysm-dda-data", "0.H-1", "6b225d32b22197e1cf7449aea22027664fca63dccbfbcbcf1af4e3e03a4f2a1c",
    f"{_ROOT}json/", *(f"{_ROOT}gfx/{name}/" for name in SETS),
)  # fmt: skip


def build(files: SourceFiles) -> SourceRows:
    root = files.packages[_PACKAGE.name] / _ROOT
    entities = load_entities(root / "json", CATEGORIES)
    pairs = [pair for name in SETS for pair in _pairs(files, entities, root, name)]
    return SourceRows(
        pairs, list(group_documents(pairs, _topic, lambda pair: split_sentences(pair.long or ""), LICENCE, _title))
    )


def _topic(pair: PairRow) -> tuple[str, ...]:
    return (pair.vendor or "", pair.labels["category"])


def _title(topic: tuple[str, ...]) -> str:
    return f"{topic[1]}."


def _pairs(files: SourceFiles, entities: GameEntities, root: Path, team: str) -> Iterator[PairRow]:
    """The same drawing for several things is taken for the first of them."""
    seen_digests: set[bytes] = set()
    seen_ids: set[str] = set()
    for tile in read_tiles(root / "gfx" / team):
        for id in tile.ids:
            description = None if id in seen_ids else _describe(entities, id)
            image = None if description is None else tile.image()
            if description is None or image is None:
                continue
            digest = hashlib.sha256(image.tobytes()).digest()
            if digest in seen_digests:
                continue
            seen_digests.add(digest)
            seen_ids.add(id)
            place = f"cdda/{team.replace('+', '')}/{_UNUSUAL.sub('_', id)}"
            put = files.images.put(_on_square(image), place, ImageOptions(lossless=True))
            if put is not None:
                yield _pair(put, team, description)


@dataclass(frozen=True, slots=True)
class _Description:
    """What the game says of a thing."""

    name: str
    description: str
    category: str


def _describe(entities: GameEntities, id: str) -> _Description | None:
    """None for what is no thing, has no description, or one that is left out."""
    category = CATEGORIES.get(entities.type_of(id) or "")
    name, description = (_TAG.sub("", entities.text(id, key) or "") for key in ("name", "description"))
    name, description = plain_text(name), plain_text(description)
    if category is None or not name or len(description.split()) < MIN_WORDS:
        return None
    return None if _LEFT_OUT.search(f"{name} {description}") else _Description(name, description, category)


def _pair(image: str, team: str, description: _Description) -> PairRow:
    first = split_sentences(description.description)[0]
    unseen = hash_fraction(f"cdda:{description.name.lower()}") < HELD_OUT
    split = {("train", True): "test_concept", ("test_vendor", True): "test_both"}.get((SETS[team], unseen), SETS[team])
    return PairRow(
        image,
        (f"{description.name}. {first}", description.name),
        {"concept": description.name, "category": description.category},
        split,
        "cdda",
        LICENCE,
        vendor=team,
        long=f"{description.name}. {description.description}",
    )


def _on_square(sprite: Image.Image) -> Image.Image:
    """Standing on the lower edge of a white square."""
    side = max(sprite.size)
    square = Image.new("RGBA", (side, side), (*WHITE, 255))
    square.alpha_composite(sprite, ((side - sprite.width) // 2, side - sprite.height))
    return square


SOURCE = CorpusSource(
    "cdda", "things of the game Cataclysm: Dark Days Ahead, by four teams", (_PACKAGE,), (LICENCE,), build
)
