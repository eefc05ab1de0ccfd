"""Emoji as ten teams of artists drew them, with the names and keywords of Unicode's CLDR.

Two things are held out, each everywhere: teams, and a tenth of the concepts. The two Fluent sets are the same
drawings in two styles (a pixel nearest neighbour in one finds the concept in the other 92 times in 100; between any
other two sets at most 30), so they stay on one side. Packages hold one file a drawing, or all in one Iconify JSON.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from examples.corpora.images import ImageOptions, map_in_processes, rasterise_svg
from examples.corpora.packages import Package, npm
from examples.corpora.rows import DocumentRow, PairRow, SourceRows, group_documents, hash_fraction
from examples.corpora.sources.base import CorpusSource, SourceFiles

Drawing = str | Path  # a vector drawing's source, or a file of pixels
Role = Literal["train", "val", "test"]
_JSON = ("icons.json", "chars.json")
_ICONIFY_SIDE = 16  # Iconify's, where a set says nothing
_VARIANT = "fe0f"


@dataclass(frozen=True, slots=True)
class DrawingSet:
    """One team's drawings.

    Attributes:
        role: what its drawings are for.
        files: where they lie, a file each; empty: in an Iconify set.
    """

    name: str
    role: Role
    licence: str
    package: Package
    files: str = ""


SETS = (
    DrawingSet("twemoji", "train", "CC-BY-4.0", npm(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7", *_JSON)),
    DrawingSet("noto", "train", "Apache-2.0", npm(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", *_JSON)),
    DrawingSet("noto-v1", "train", "Apache-2.0", npm(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", *_JSON)),
    DrawingSet("emojione", "train", "CC-BY-4.0", npm(
        "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        *_JSON)),
    DrawingSet("emojione-v1", "train", "CC-BY-SA-4.0", npm(
        "@iconify-json/emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
        *_JSON)),
    DrawingSet("fxemoji", "train", "Apache-2.0", npm(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", *_JSON)),
    DrawingSet("streamline", "val", "CC-BY-4.0", npm(
        "@iconify-json/streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        *_JSON)),
    DrawingSet("openmoji", "test", "CC-BY-SA-4.0", npm(
        "openmoji", "17.0.0", "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68", "color/svg/"),
        "color/svg/*.svg"),
    DrawingSet("fluent-3d", "test", "MIT", npm(
        "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "assets/"), "assets/*.webp"),
    DrawingSet("fluent-flat", "test", "MIT", npm(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        *_JSON)),
)  # fmt: skip


def strip_variant(code: str) -> str:
    """A sequence of code points in lower-case hexadecimal, without selectors of a variant."""
    return "-".join(part for part in code.lower().split("-") if part != _VARIANT)


def name_slugs(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Code points by their name as sets without code points write it, hyphenated or in one word.

    Args:
        names: (name, code points).
    """
    found: dict[str, str] = {}
    squashed: dict[str, str] = {}
    for name, code in names:
        plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode().replace("'", "")
        for form in (plain, plain.replace("flag: ", "flag for ")):
            slug = re.sub(r"[^a-z0-9]+", "-", form).strip("-")
            found.setdefault(slug, code)
            squashed.setdefault(slug.replace("-", ""), code)
    return squashed | found


def read_drawings(each: DrawingSet, files: Path, slugs: Mapping[str, str]) -> dict[str, Drawing]:
    """By code points. ``slugs``: code points by the slug of their name."""
    found: dict[str, Drawing] = {}
    if each.files:
        for path in sorted(files.glob(each.files), key=lambda path: (len(path.stem), path.stem)):
            found.setdefault(
                strip_variant(path.stem), _read_drawing(path)
            )  # what is named without a selector comes first
        return found
    icons = json.loads((files / "icons.json").read_text(encoding="utf-8"))
    codes = json.loads((files / "chars.json").read_text(encoding="utf-8"))
    for code, name in _icon_names(icons, codes, slugs):
        if name in icons["icons"]:
            found.setdefault(strip_variant(code), icon_svg(icons, icons["icons"][name]))
    return found


def _read_drawing(path: Path) -> Drawing:
    return path.read_text(encoding="utf-8") if path.suffix == ".svg" else path


def _icon_names(icons: dict[str, Any], codes: dict[str, str], slugs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(code points, name of the icon). Some sets give code points, some only names, some other names for these."""
    yield from codes.items()
    yield from ((slugs[name], name) for name in icons["icons"] if name in slugs)
    yield from ((slugs[name], facts["parent"]) for name, facts in icons.get("aliases", {}).items() if name in slugs)


def icon_svg(icons: dict[str, Any], icon: dict[str, Any], colour: str = "black") -> str:
    """The drawing of an entry of an Iconify set. ``colour``: of what leaves its colour open."""
    width, height = (icon.get(side, icons.get(side, _ICONIFY_SIDE)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" color="{colour}">{icon["body"]}</svg>'
    )


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
        keywords: all that CLDR has; captions leave out those that stand in the name.
    """

    code: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    keywords: tuple[str, ...]


def build(files: SourceFiles) -> SourceRows:
    data = files.packages[_DATA.name] / "en"
    entries = _read_json(data / "data.json")
    concepts = list(_concepts(entries, _read_json(data / "messages.json")))
    slugs = name_slugs((entry["label"], entry["hexcode"]) for entry in entries)
    drawings = {
        each.name: read_drawings(each, files.packages[each.package.name], slugs)
        for each in SETS
        if files.allows(each.licence)
    }
    pairs = list(_pairs(files, concepts, drawings))
    return SourceRows(pairs, list(emoji_documents(pairs)))


def emoji_documents(pairs: Iterable[PairRow]) -> Iterator[DocumentRow]:
    """One team's drawings of one subgroup, with names and keywords."""
    return group_documents(pairs, _topic, lambda pair: pair.captions[-1:], "see pairs", _title)


def _title(topic: tuple[str, ...]) -> str:
    return topic[1].replace("-", ", ") + "."


def _topic(pair: PairRow) -> tuple[str, ...]:
    return (pair.vendor or "", pair.labels["subgroup"])


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _concepts(entries: list[dict[str, Any]], messages: dict[str, Any]) -> Iterator[Concept]:
    subgroups = {message["order"]: message["message"] for message in messages["subgroups"]}
    for entry in entries:
        if entry.get("group", _COMPONENT) == _COMPONENT:
            continue
        name = entry["label"]
        tags = tuple(dict.fromkeys(entry.get("tags", ())))
        listed = [word for word in tags if word.lower() not in name.lower()]
        captions = (name, f"{name}: {', '.join(listed)}") if listed else (name,)
        subgroup = subgroups.get(entry.get("subgroup"), "")
        labels = {"concept": name, "group": GROUPS[entry["group"]], "subgroup": subgroup}
        yield Concept(strip_variant(entry["hexcode"]), captions, labels, tags)


def _split(role: str, concept: Concept) -> str | None:
    """``role``: of the team. None: in no split."""
    unseen = hash_fraction(f"concept:{concept.labels['concept']}") < HELD_OUT
    return {
        ("train", False): "train",
        ("train", True): "test_concept",
        ("val", False): "val",
        ("test", False): "test_vendor",
        ("test", True): "test_both",
    }.get((role, unseen))


def _pairs(files: SourceFiles, concepts: list[Concept], drawings: dict[str, dict[str, Drawing]]) -> Iterator[PairRow]:
    found: list[tuple[PairRow, Drawing]] = []
    for concept in concepts:
        for each in SETS:
            drawing, split = drawings.get(each.name, {}).get(concept.code), _split(each.role, concept)
            if drawing is not None and split is not None:
                facts = (concept.captions, concept.labels, split, "emoji", each.licence, each.name, concept.keywords)
                pair = PairRow(f"emoji/{each.name}/{concept.code}", *facts, name=concept.labels["concept"])
                found.append((pair, drawing))
    vectors = [drawing for _, drawing in found if isinstance(drawing, str)]
    pixels = iter(map_in_processes(partial(rasterise_svg, side=SIDE), vectors, at_once=64))
    for pair, drawing in found:
        content = next(pixels) if isinstance(drawing, str) else drawing
        image = None if content is None else files.images.put(content, pair.image, ImageOptions(side=SIDE))
        if image is not None:
            yield replace(pair, image=image)


SOURCE = CorpusSource(
    "emoji",
    "emoji by ten teams with CLDR names and keywords",
    (_DATA, *(replace(each.package, licence=each.licence) for each in SETS)),
    tuple(dict.fromkeys(each.licence for each in SETS)),
    build,
)
