"""Emoji as eight teams of artists drew them, with the names and keywords of Unicode's CLDR.

Two things are held out, each everywhere: teams, and a tenth of the concepts. The two Fluent sets are the same
drawings in two styles (a pixel nearest neighbour in one finds the concept in the other 92 times in 100; between any
other two sets at most 30), so they stay on one side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lcl_core.corpora.packages import npm
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.corpora.sources.emoji_sets import SETS, Drawing, bare, drawings_of, slugs_of
from lcl_core.corpora.steps.documents import grouped
from lcl_core.corpora.steps.drawings import rasterised
from lcl_core.corpora.steps.pictures import Wanted, in_processes
from lcl_core.corpora.steps.rows import Built, Document, Pair
from lcl_core.corpora.steps.texts import share_of

SIDE = 64  # pixels
HELD_OUT = 0.10  # of the concepts
GROUPS = (
    "smileys & emotion", "people & body", "component", "animals & nature", "food & drink", "travel & places",
    "activities", "objects", "symbols", "flags",
)  # fmt: skip
_COMPONENT = 2  # skin tones and hair: parts of drawings
_DATA = npm(
    "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "en/data.json", "en/messages.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Concept:
    """What an emoji means.

    Attributes:
        code: its code points in hexadecimal, without the selector of a variant.
    """

    code: str
    captions: tuple[str, ...]
    labels: dict[str, str]


def build(material: Material) -> Built:
    data = material.files[_DATA.name] / "en"
    entries = _json(data / "data.json")
    concepts = list(_concepts(entries, _json(data / "messages.json")))
    slugs = slugs_of((entry["label"], entry["hexcode"]) for entry in entries)
    drawings = {
        each.name: drawings_of(each, material.files[each.package.name], slugs)
        for each in SETS
        if material.allows(each.licence)
    }
    pairs = list(_pairs(material, concepts, drawings))
    return Built(pairs, list(documents_of_emoji(pairs)))


def documents_of_emoji(pairs: Iterable[Pair]) -> Iterator[Document]:
    """One team's drawings of one subgroup, with names and keywords."""
    return grouped(pairs, _topic, lambda pair: pair.captions[-1:], "see pairs", _title)


def _title(topic: tuple[str, ...]) -> str:
    return topic[1].replace("-", ", ") + "."


def _topic(pair: Pair) -> tuple[str, ...]:
    return (pair.vendor or "", pair.labels["subgroup"])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _concepts(entries: list[dict[str, Any]], messages: dict[str, Any]) -> Iterator[Concept]:
    subgroups = {message["order"]: message["message"] for message in messages["subgroups"]}
    for entry in entries:
        if entry.get("group", _COMPONENT) == _COMPONENT:
            continue
        name = entry["label"]
        keywords = [word for word in entry.get("tags", ()) if word.lower() not in name.lower()]
        captions = (name, f"{name}: {', '.join(keywords)}") if keywords else (name,)
        labels = {"concept": name, "group": GROUPS[entry["group"]]}
        yield Concept(bare(entry["hexcode"]), captions, labels | {"subgroup": subgroups.get(entry.get("subgroup"), "")})


def _split(role: str, concept: Concept) -> str | None:
    """``role``: of the team. None: in no split."""
    unseen = share_of(f"concept:{concept.labels['concept']}") < HELD_OUT
    return {
        ("train", False): "train",
        ("train", True): "test_concept",
        ("val", False): "val",
        ("test", False): "test_vendor",
        ("test", True): "test_both",
    }.get((role, unseen))


def _pairs(material: Material, concepts: list[Concept], drawings: dict[str, dict[str, Drawing]]) -> Iterator[Pair]:
    found: list[tuple[Pair, Drawing]] = []
    for concept in concepts:
        for each in SETS:
            drawing, split = drawings.get(each.name, {}).get(concept.code), _split(each.role, concept)
            if drawing is not None and split is not None:
                facts = (concept.captions, concept.labels, split, "emoji", each.licence, each.name)
                found.append((Pair(f"emoji/{each.name}/{concept.code}", *facts), drawing))
    vectors = [drawing for _, drawing in found if isinstance(drawing, str)]
    pixels = iter(in_processes(partial(rasterised, side=SIDE), vectors, at_once=64))
    for pair, drawing in found:
        picture = next(pixels) if isinstance(drawing, str) else drawing
        image = None if picture is None else material.pictures.put(picture, pair.image, Wanted(side=SIDE))
        if image is not None:
            yield replace(pair, image=image)


SOURCE = Source(
    "emoji",
    "emoji by eight teams with CLDR names and keywords",
    (_DATA, *(replace(each.package, licence=each.licence) for each in SETS)),
    tuple(dict.fromkeys(each.licence for each in SETS)),
    build,
)
