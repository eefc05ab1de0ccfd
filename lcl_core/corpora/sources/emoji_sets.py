"""The teams' drawings, as their packages hold them: a file each, or all in one Iconify JSON."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lcl_core.corpora.packages import Package, npm

Drawing = str | Path  # a vector drawing's source, or a file of pixels
Role = Literal["train", "val", "test"]
_ICONS = ("icons.json", "chars.json")
_USUAL_SIDE = 16  # Iconify's, where a set says nothing
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
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7", *_ICONS)),
    DrawingSet("noto", "train", "Apache-2.0", npm(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", *_ICONS)),
    DrawingSet("noto-v1", "train", "Apache-2.0", npm(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", *_ICONS)),
    DrawingSet("emojione", "train", "CC-BY-4.0", npm(
        "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        *_ICONS)),
    DrawingSet("streamline", "val", "CC-BY-4.0", npm(
        "@iconify-json/streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        *_ICONS)),
    DrawingSet("openmoji", "test", "CC-BY-SA-4.0", npm(
        "openmoji", "17.0.0", "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68", "color/svg/"),
        "color/svg/*.svg"),
    DrawingSet("fluent-3d", "test", "MIT", npm(
        "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "assets/"), "assets/*.webp"),
    DrawingSet("fluent-flat", "test", "MIT", npm(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        *_ICONS)),
)  # fmt: skip


def bare(code: str) -> str:
    """A sequence of code points in lower-case hexadecimal, without selectors of a variant."""
    return "-".join(part for part in code.lower().split("-") if part != _VARIANT)


def slugs_of(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Code points by their name as sets without code points write it. ``names``: (name, code points)."""
    found: dict[str, str] = {}
    for name, code in names:
        plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode().replace("'", "")
        for form in (plain, plain.replace("flag: ", "flag for ")):
            found.setdefault(re.sub(r"[^a-z0-9]+", "-", form).strip("-"), code)
    return found


def drawings_of(each: DrawingSet, files: Path, slugs: Mapping[str, str]) -> dict[str, Drawing]:
    """By code points. ``slugs``: code points by the slug of their name."""
    found: dict[str, Drawing] = {}
    if each.files:
        for path in sorted(files.glob(each.files), key=lambda path: (len(path.stem), path.stem)):
            found.setdefault(bare(path.stem), _file(path))  # what is named without a selector comes first
        return found
    icons = json.loads((files / "icons.json").read_text(encoding="utf-8"))
    codes = json.loads((files / "chars.json").read_text(encoding="utf-8"))
    for code, name in _names(icons, codes, slugs):
        if name in icons["icons"]:
            found.setdefault(bare(code), _svg(icons, icons["icons"][name]))
    return found


def _file(path: Path) -> Drawing:
    return path.read_text(encoding="utf-8") if path.suffix == ".svg" else path


def _names(icons: dict[str, Any], codes: dict[str, str], slugs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(code points, name of the icon). Some sets give code points, some only names, some other names for these."""
    yield from codes.items()
    yield from ((slugs[name], name) for name in icons["icons"] if name in slugs)
    yield from ((slugs[name], facts["parent"]) for name, facts in icons.get("aliases", {}).items() if name in slugs)


def _svg(icons: dict[str, Any], icon: dict[str, Any]) -> str:
    width, height = (icon.get(side, icons.get(side, _USUAL_SIDE)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
