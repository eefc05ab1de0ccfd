"""Tux Paint's stamps: drawings and photographs, each with a sentence for children."""

from __future__ import annotations

from pathlib import Path

from examples.corpora.images import rasterise_svg, safe_image_name
from examples.corpora.packages import apt
from examples.corpora.rows import PairRow, SourceRows, group_documents, plain_text, split_by_hash
from examples.corpora.sources.base import CorpusSource, SourceFiles

LICENCE = "GPL-2.0"
_ROOT = "usr/share/tuxpaint/stamps/"
_PACKAGE = apt(
    "tuxpaint-stamps-default", "2025.03.31-1",
    "6312d03a37d0220b10fc91a7467bf2a2a2336e08c2f416de04311d25fd7aeacb", _ROOT,
)  # fmt: skip


def build(files: SourceFiles) -> SourceRows:
    root = files.packages[_PACKAGE.name] / _ROOT
    pairs = [pair for key, path in _stamps(root) if (pair := _pair(files, key, path)) is not None]
    documents = group_documents(pairs, lambda pair: pair.labels["subcategory"], lambda pair: pair.captions[:1], LICENCE)
    return SourceRows(pairs, list(documents))


def _stamps(root: Path) -> list[tuple[str, Path]]:
    """Those with a text, by name; of two forms the pixels."""
    found: dict[str, Path] = {}
    for suffix in (".png", ".svg"):
        for path in root.rglob(f"*{suffix}"):
            key = path.relative_to(root).with_suffix("").as_posix()
            if not key.endswith(("_mirror", "_flip")) and path.with_suffix(".txt").is_file():
                found.setdefault(key, path)
    return sorted(found.items())


def _pair(files: SourceFiles, key: str, path: Path) -> PairRow | None:
    caption = plain_text(path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").partition("\n")[0])
    if not caption:
        return None
    content: Path | bytes | None = path
    if path.suffix == ".svg":
        content = rasterise_svg(path.read_text(encoding="utf-8", errors="replace"), files.images.side)
    image = None if content is None else files.images.put(content, f"stamps/{safe_image_name(key)}")
    if image is None:
        return None
    folders = key.split("/")
    labels = {"category": folders[0], "subcategory": "/".join(folders[:2])}
    return PairRow(image, (caption,), labels, split_by_hash(f"st:{caption.lower()}"), "stamps", LICENCE)


SOURCE = CorpusSource("stamps", "Tux Paint's stamps with a sentence each", (_PACKAGE,), (LICENCE,), build)
