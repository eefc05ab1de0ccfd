"""Icons of thirty teams out of Iconify sets, each with its name and, where its set has them, its category.

A name is the icon's without what says its style ("umbrella-bold" → "umbrella"), so styles of one icon share a caption.
Icons of one colour get one that set and key decide, not the name: else a colour would tell the name. Sets of brands,
flags of their own and letters are left out; so are all of the teams that test (OpenMoji, Fluent). Streamline's sets
validate, as its emoji do. Names that are held-out concepts of the emoji are held out here too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from examples.corpora.images import ImageOptions, map_in_processes, rasterise_svg
from examples.corpora.packages import Package, npm
from examples.corpora.rows import DocumentRow, PairRow, SourceRows, group_documents, hash_fraction
from examples.corpora.sources.base import CorpusSource, SourceFiles
from examples.corpora.sources.emoji import HELD_OUT, SIDE, icon_svg
from lcl_core.data.records import name_words

MAX_STYLES = 6  # of one icon
# colours of icons that leave theirs to whoever draws them; dark enough on white
COLOURS = ("#111111", "#1f4e9c", "#a61e22", "#1f7a3a", "#7a3e9d", "#b35a00", "#0f6f78", "#5c4326")
_STYLE = re.compile(
    r"(-(outline|outlined|filled|fill|solid|sharp|rounded|round|bold|thin|light|regular|duotone|twotone|linear|broken"
    r"|line|\d+))+$"
)
_WORD = re.compile(r"[a-z]{3}")


@dataclass(frozen=True, slots=True)
class IconSet:
    """One team's icons: an Iconify set.

    Attributes:
        role: what they are for.
    """

    name: str
    version: str
    licence: str
    sha256: str
    role: Literal["train", "val"] = "train"

    @property
    def package(self) -> Package:
        package = npm(f"@iconify-json/{self.name}", self.version, self.sha256, "icons.json", "metadata.json")
        return replace(package, licence=self.licence)


SETS = (
    IconSet("game-icons", "1.2.4", "CC-BY-3.0", "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4"),
    IconSet("flat-color-icons", "1.2.3", "MIT", "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786"),
    IconSet("healthicons", "1.2.13", "MIT", "4c2552c45737788a6599da3c5b72610c7fb4e7f87075d401c56fa16d487d4caf"),
    IconSet("meteocons", "1.2.4", "MIT", "1c0b49c6375c0e35c3ed65db6e41e9811a0cbd2368c13ee27f870f60c6185ff0"),
    IconSet("icon-park", "1.2.4", "Apache-2.0", "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f"),
    IconSet("fa6-solid", "1.2.4", "CC-BY-4.0", "082c792eaad4751626438773fa7360cb23f495b687cf2dd01b2b0fccc7f6af8b"),
    IconSet("mdi", "1.2.3", "Apache-2.0", "ddd817a7213f91de51147943915c0cda8c8b818a53c92b5c068cfa9883c6d7ac"),
    IconSet("tabler", "1.2.41", "MIT", "3bf99af156d28d05568aff524a35ed1ba238df640a7835a5e02e1f8e439685f6"),
    IconSet("ph", "1.2.2", "MIT", "e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc"),
    IconSet("lucide", "1.2.137", "ISC", "e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3"),
    IconSet("carbon", "1.2.29", "Apache-2.0", "8e3059dc90933875439c29ff36ae4370767bc02d8beca6923b1f2bb856cf327a"),
    IconSet("solar", "1.2.13", "CC-BY-4.0", "9efec9045e9188c5dd5cf9de52f8ad968ffabee565026480a6c74bfe63b3bbc2"),
    IconSet("pepicons-pop", "1.2.4", "CC-BY-4.0", "a65d9619c50f38880b6ec4153eaaf8dbf825009680a8946dbe859740c98c5dad"),
    IconSet("pixelarticons", "1.2.9", "MIT", "f3e7c9b8ae9fb75f214207d5657e7a75084f9f368ea9d6cbfb211fa96d8978fb"),
    IconSet("pixel", "1.2.2", "CC-BY-4.0", "6a6c2b81d196d86d28bf9f778f7569ea6a3f3bd78ab48750349c94582c331487"),
    IconSet("marketeq", "1.2.2", "MIT", "80070c7b0fb41ed5198ecadb9145984d2221b975bb9e0f52f563beb241d549cb"),
    IconSet("duo-icons", "1.2.2", "MIT", "aa69efff27e1bfeecc434cc0ba58d15e443cdebb3e7a65a89d815867f62a8ca0"),
    IconSet("maki", "1.2.5", "CC0-1.0", "cbf41d1b7262fad2eecdc6425ae5afed2de9b3512093c4c778fb456e788d7e12"),
    IconSet("map", "1.2.2", "OFL-1.1", "8d6966f60f3826cf95e601e6adb55b943f7c76b518b5920aa5e2a1e5d7daea9d"),
    IconSet("medical-icon", "1.2.0", "MIT", "00a8e57a05b36d72483bf15cbc7aa89b7e26a179159111610a3eb29705bcc58c"),
    IconSet("fontisto", "1.2.1", "MIT", "42e7922ebf43cbd11e710c453b4431c6bbfd46c9c1bad98c6e7fcfde7791abbc"),
    IconSet("hugeicons", "1.2.35", "MIT", "cca09de913319938961fa0613a8eb42952f76c3ee13a7c68ef411091590c5d8b"),
    IconSet("iconoir", "1.2.11", "MIT", "8e5d3bfbd55aa8ef3878f0c2f248cf71fe99822172fd07990e32ab7fe7a68b1e"),
    IconSet("lineicons", "1.2.6", "MIT", "96677311fcdd11291dde4d79f1abbd4a2fcfc2509f63e37f960728c27b8e1a25"),
    IconSet("clarity", "1.2.4", "MIT", "6ea2d256f5fc8b4a1778d332533fab81daf4197d3809e2ac8df82ab54fd02f26"),
    IconSet("ion", "1.2.7", "MIT", "4103445dba712aa0f6d119706df00b2e821634f9ca96faac5ddbfb3bad65927f"),
    IconSet("temaki", "1.2.6", "CC0-1.0", "24a874e1d81a7de9d56e534fdc56287cfe6e73488a24ef5c8982d4fd5f294d8d"),
    IconSet("wi", "1.2.1", "OFL-1.1", "970218cb228d136a6203596f3aa287470fb771d62ed1a0dcd71b704658e056f6"),
    IconSet("mynaui", "1.2.19", "MIT", "ed3fbfc8e945b6dd918ff6648c79b366f81f95c72dc95449a51040f9029521c2"),
    IconSet(
        "material-symbols", "1.2.98", "Apache-2.0", "142d50bf28e7db85362795be335ebc29dac611d73c404fc1e6fc5cc198e2b3d0"
    ),
    IconSet(
        "guidance", "1.2.2", "CC-BY-4.0", "87a0b6a5791954a33c8694bfdb2635d38d1226bfbd3f58f853e036b365bd30fb", "val"
    ),
    IconSet("covid", "1.2.3", "CC-BY-4.0", "935c4b2e92d1fc6d0876715acb7b7e35a299fae6642daf40138770054113c2ee", "val"),
)


@dataclass(frozen=True, slots=True)
class Icon:
    """One drawing: its name in the set, what it shows, and its category ("" where the set has none)."""

    key: str
    name: str
    category: str
    svg: str


def read_icons(folder: Path, set_name: str) -> Iterator[Icon]:
    """The icons of an unpacked set whose names have a word, in its order; at most ``MAX_STYLES`` of one name."""
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    categories = _read_categories(folder / "metadata.json")
    styles: Counter[str] = Counter()
    for key, icon in icons["icons"].items():
        name = _STYLE.sub("", key).replace("-", " ")
        styles[name] += 1
        if icon.get("hidden") or not _WORD.search(name) or styles[name] > MAX_STYLES:
            continue
        colour = COLOURS[int(hash_fraction(f"colour:{set_name}/{key}") * len(COLOURS))]
        yield Icon(key, name, categories.get(key, ""), icon_svg(icons, icon, colour))


def _read_categories(file: Path) -> dict[str, str]:
    """The first category of each icon, in lower case."""
    if not file.is_file():
        return {}
    metadata: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for category, keys in metadata.get("categories", {}).items():
        for key in keys:
            found.setdefault(key, category.lower())
    return found


def build(files: SourceFiles) -> SourceRows:
    found: list[tuple[PairRow, str]] = []
    for each in SETS:
        if files.allows(each.licence):
            found += _rows_of_set(each, files.packages[each.package.name])
    drawings = map_in_processes(partial(rasterise_svg, side=SIDE), [svg for _, svg in found], at_once=64)
    pairs = []
    for (pair, _), drawing in zip(found, drawings, strict=True):
        image = None if drawing is None else files.images.put(drawing, pair.image, ImageOptions(side=SIDE))
        if image is not None:
            pairs.append(replace(pair, image=image))
    return SourceRows(pairs, list(icon_documents(pairs)))


def _rows_of_set(each: IconSet, folder: Path) -> Iterator[tuple[PairRow, str]]:
    for icon in read_icons(folder, each.name):
        captions = (icon.name, f"{icon.name}: {icon.category}") if icon.category else (icon.name,)
        labels = {"concept": icon.name} | ({"category": icon.category} if icon.category else {})
        split: str = each.role
        if hash_fraction(f"concept:{icon.name}") < HELD_OUT:
            if each.role != "train":
                continue
            split = "test_concept"
        image = f"icons/{each.name}/{icon.key}"
        facts = (captions, labels, split, "icons", each.licence, each.name, name_words(icon.name))
        yield PairRow(image, *facts, name=icon.name), icon.svg


def icon_documents(pairs: Iterable[PairRow]) -> Iterator[DocumentRow]:
    """One team's icons of one category, or of one last word where the set has no categories, with their names."""
    return group_documents(pairs, _topic, lambda pair: pair.captions[:1], "see pairs", lambda topic: f"{topic[1]}.")


def _topic(pair: PairRow) -> tuple[str, ...]:
    return (pair.vendor or "", pair.labels.get("category") or pair.captions[0].rsplit(" ", 1)[-1])


SOURCE = CorpusSource(
    "icons",
    "icons by thirty teams with their names and categories",
    tuple(each.package for each in SETS),
    tuple(dict.fromkeys(each.licence for each in SETS)),
    build,
)
