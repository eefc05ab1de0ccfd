"""From sources to a corpus in LCL's own format: rows, images, duplicates across splits, colours, licence notices."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from examples.corpora.images import COLOURS, ImageWriter, main_colour, map_in_processes
from examples.corpora.packages import Log, PackageCache
from examples.corpora.rows import PairRow, SourceRows, read_rows, write_rows
from examples.corpora.sources import CorpusSource, SourceFiles
from examples.corpora.sources.base import is_allowed
from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically

SIDE, MIN_SIDE = 128, 16  # pixels of the longest side of an image, unless a source has its own
SPLITS = ("train", "val")  # of documents
COMPARED_SIDE = 24  # pixels of the small copies that are compared
DUPLICATE_DISTANCE = 6.0  # root mean square difference of levels below which two are the same image
COLOUR_WORDS = {*COLOURS, "white", "gray", "gold", "golden", "silver", "colour", "color"}
NOTICES_FOLDER, NOTICE_FILE = "licences", "NOTICE"
NOTICE_HEAD = """\
This corpus is made of works of others. Images were made smaller, put on a white background and saved as WebP; texts
were cut into sentences. Each line of pairs/ and interleaved/ names the licence of its work ("see pairs": of each of
its images), and licences/ holds what the packages say of authors and terms. Whoever passes the corpus on passes
these on with it, and keeps to them.
"""


def build(
    sources: Sequence[CorpusSource], cache: PackageCache, target: Path, say: Log, *, side: int, permissive: bool
) -> dict[str, Any]:
    """Make the corpus at ``target``, a folder that appears only when all is done; returns its figures.

    An interrupted build goes on after the sources that it had finished, which are in a hidden folder beside the target.

    Raises: UserError ``bad_side``, ``conflict``, ``nothing_chosen``, ``packages_missing``, ``fetch_failed``.
    """
    if side < MIN_SIDE:
        raise UserError(f"the longest side needs {MIN_SIDE} pixels or more, not {side}", code="bad_side", field="side")
    if target.exists():
        raise UserError("there is something already; choose another place", code="conflict", file=target)
    chosen = [source for source in sources if any(is_allowed(each, permissive) for each in source.licences)]
    if not chosen:
        raise UserError("no source has works of that licence", code="nothing_chosen", field="licence")
    packages = [package for source in chosen for package in source.needs(permissive)]
    cache.require(packages)
    folder = target.with_name(f".{target.name}.{side}{'.permissive' * permissive}.building")
    files: dict[str, Path] = {}
    figures: dict[str, Any] = {}
    for source in chosen:
        files |= {package.name: cache.files_of(package) for package in source.needs(permissive)}
        started, done = time.monotonic(), folder / "done" / f"{source.name}.json"
        if not done.is_file():
            figures_of_source = _build_source(folder, source, files, side, permissive)
            write_json_atomically(done, figures_of_source)
        figures[source.name] = json.loads(done.read_text(encoding="utf-8"))
        say(f"{source.name}: {figures[source.name]['pictures']:,} images, {time.monotonic() - started:.1f} s")
    for split in SPLITS:
        parts = (folder / "documents" / source.name / f"{split}.jsonl" for source in chosen)
        write_rows(folder / "interleaved" / f"{split}.jsonl", (row for part in parts for row in read_rows(part)))
    write_notices(folder, chosen, files, permissive)
    write_json_atomically(folder / "statistics.json", figures)
    for leftover in ("done", "documents"):
        shutil.rmtree(folder / leftover)
    folder.rename(target)
    return figures


def _build_source(
    folder: Path, source: CorpusSource, files: Mapping[str, Path], side: int, permissive: bool
) -> dict[str, Any]:
    images = ImageWriter(folder / "images", side)
    built: SourceRows = source.build(SourceFiles(files, images, permissive))
    pairs = built.pairs
    if not source.exam:
        pairs = add_colours(remove_cross_split_duplicates(pairs, folder / "images"), folder / "images")
    if pairs:
        write_rows(folder / "pairs" / f"{source.name}.jsonl", (pair.to_json() for pair in pairs))
    for split in SPLITS:
        rows = (document.to_json() for document in built.documents if document.split == split)
        write_rows(folder / "documents" / source.name / f"{split}.jsonl", rows)
    (folder / "done").mkdir(exist_ok=True)
    return {
        "pictures": len(images),
        "leaks": len(built.pairs) - len(pairs),
        "pairs": dict(sorted(Counter(pair.split for pair in pairs).items())),
        "documents": dict(sorted(Counter(document.split for document in built.documents).items())),
        "placed": sum(len(document.images) for document in built.documents),
        "sentences": sum(len(document.sentences) for document in built.documents),
        "words": sum(len(sentence.split()) for document in built.documents for sentence in document.sentences),
    }


def remove_cross_split_duplicates(pairs: Sequence[PairRow], images: Path) -> list[PairRow]:
    """``pairs`` without those of val and test whose image is equal or nearly equal to one of train."""
    train = [number for number, pair in enumerate(pairs) if pair.split == "train"]
    held_out = [number for number, pair in enumerate(pairs) if pair.split != "train"]
    if not train or not held_out:
        return list(pairs)
    small = np.stack([_small_pixels(images / pair.image) for pair in pairs])
    known = small[train]
    lengths = (known**2).sum(1)
    duplicates: set[int] = set()
    for start in range(0, len(held_out), 256):
        numbers = held_out[start : start + 256]
        rows = small[numbers]
        squares = (rows**2).sum(1)[:, None] + lengths - 2 * rows @ known.T
        near = squares.min(1) / rows.shape[1] < DUPLICATE_DISTANCE**2
        duplicates.update(number for number, is_near in zip(numbers, near, strict=True) if is_near)
    return [pair for number, pair in enumerate(pairs) if number not in duplicates]


def _small_pixels(path: Path) -> np.ndarray:
    """f32 [SIDE * SIDE * 3]."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()


def add_colours(pairs: Sequence[PairRow], images: Path) -> list[PairRow]:
    """``pairs`` with the main colour of their images as attribute, unless a text of theirs names a colour itself."""

    def words(pair: PairRow) -> set[str]:
        texts = (*pair.captions, *(pair.keywords or ()), pair.name or "")
        return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}

    nameless = [number for number, pair in enumerate(pairs) if not COLOUR_WORDS & words(pair)]
    colours = map_in_processes(main_colour, [images / pairs[number].image for number in nameless], at_once=64)
    found = {number: (colour,) for number, colour in zip(nameless, colours, strict=True) if colour}
    return [replace(pair, attributes=found.get(number)) for number, pair in enumerate(pairs)]


def write_notices(folder: Path, sources: Sequence[CorpusSource], files: Mapping[str, Path], permissive: bool) -> None:
    """Leave ``NOTICE`` and ``licences/`` in ``folder``. ``files``: the unpacked packages, by name."""
    parts = [NOTICE_HEAD]
    for source in sources:
        taken = ", ".join(licence for licence in source.licences if is_allowed(licence, permissive))
        parts.append(f"\n{source.name}: {source.about}\n  {taken}\n")
        for package in source.needs(permissive):
            kept = []
            for name in package.notices:
                if (files[package.name] / name).is_file():
                    notice = f"{NOTICES_FOLDER}/{package.name.replace('@', '').replace('/', '-')}/{Path(name).name}"
                    (folder / notice).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(files[package.name] / name, folder / notice)
                    kept.append(notice)
            listed = ", ".join(kept) or "no notice of its own"
            parts.append(f"  {package.client} package {package.name} {package.version}: {listed}\n")
    (folder / NOTICE_FILE).write_text("".join(parts), encoding="utf-8")


def copy_notices(corpus: Path, out: Path) -> None:
    """Copy ``NOTICE`` and ``licences/`` of a corpus, if it has them, to one that is made of its images and texts."""
    if (corpus / NOTICE_FILE).is_file():
        shutil.copyfile(corpus / NOTICE_FILE, out / NOTICE_FILE)
    if (corpus / NOTICES_FOLDER).is_dir():
        shutil.copytree(corpus / NOTICES_FOLDER, out / NOTICES_FOLDER, dirs_exist_ok=True)
