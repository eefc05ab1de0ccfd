"""Tux Paint's stamps: drawings and photographs, each with a sentence for children."""

from __future__ import annotations

from pathlib import Path

from lcl_core.corpora.packages import apt
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.corpora.steps.documents import grouped
from lcl_core.corpora.steps.drawings import rasterised
from lcl_core.corpora.steps.pictures import usual
from lcl_core.corpora.steps.rows import Built, Pair
from lcl_core.corpora.steps.texts import plain, split_of

LICENCE = "GPL-2.0"
_ROOT = "usr/share/tuxpaint/stamps/"
_PACKAGE = apt(
    "tuxpaint-stamps-default", "2025.03.31-1",
    "6312d03a37d0220b10fc91a7467bf2a2a2336e08c2f416de04311d25fd7aeacb", _ROOT,
)  # fmt: skip


def build(material: Material) -> Built:
    root = material.files[_PACKAGE.name] / _ROOT
    pairs = [pair for key, path in _stamps(root) if (pair := _pair(material, key, path)) is not None]
    documents = grouped(pairs, lambda pair: pair.labels["subcategory"], lambda pair: pair.captions[:1], LICENCE)
    return Built(pairs, list(documents))


def _stamps(root: Path) -> list[tuple[str, Path]]:
    """Those with a text, by name; of two forms the pixels."""
    found: dict[str, Path] = {}
    for suffix in (".png", ".svg"):
        for path in root.rglob(f"*{suffix}"):
            key = path.relative_to(root).with_suffix("").as_posix()
            if not key.endswith(("_mirror", "_flip")) and path.with_suffix(".txt").is_file():
                found.setdefault(key, path)
    return sorted(found.items())


def _pair(material: Material, key: str, path: Path) -> Pair | None:
    caption = plain(path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").partition("\n")[0])
    if not caption:
        return None
    picture: Path | bytes | None = path
    if path.suffix == ".svg":
        picture = rasterised(path.read_text(encoding="utf-8", errors="replace"), material.pictures.side)
    image = None if picture is None else material.pictures.put(picture, f"stamps/{usual(key)}")
    if image is None:
        return None
    folders = key.split("/")
    labels = {"category": folders[0], "subcategory": "/".join(folders[:2])}
    return Pair(image, (caption,), labels, split_of(f"st:{caption.lower()}"), "stamps", LICENCE)


SOURCE = Source("stamps", "Tux Paint's stamps with a sentence each", (_PACKAGE,), (LICENCE,), build)
