"""From a plan to a corpus in the project's own form: build directory, duplicates across splits, licence notices.

The build directory is hidden beside the target and kept when the work is interrupted. ``build_tiny`` makes the sample
that ships with the project: a few thousand small images, permissive licences only, in one zip.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import re
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.dataset_builder.documents import DocumentRow, PairRow, hash_fraction, json_line
from lcl_core.dataset_builder.images import (
    COLOURS,
    ImageWriter,
    main_colour_of_file,
    map_in_processes,
    renderer_version,
)
from lcl_core.dataset_builder.packages import Log, Package, PackageCache
from lcl_core.dataset_builder.sources import SOURCES, CorpusSource, SourceFiles
from lcl_core.dataset_builder.sources.base import LicenceChoice, is_licence_allowed
from lcl_core.dataset_builder.sources.emoji import emoji_documents
from lcl_core.dataset_builder.sources.openclipart import clipart_documents

COMPARED_SIDE = 24  # pixels of the small copies that are compared
DUPLICATE_DISTANCE = 6.0  # root mean square difference of levels below which two are the same image
_COMPARED_ROWS = 256
COLOUR_WORDS = {*COLOURS, "white", "gray", "gold", "golden", "silver", "colour", "color"}
_WORD = re.compile(r"[a-z]+")


def remove_cross_split_duplicates(pairs: Sequence[PairRow], images: Path) -> list[PairRow]:
    """``pairs`` without those of val and test whose image is equal or nearly equal to one of train.

    Args:
        images: folder that the images' names are relative to.
    """
    train = [number for number, pair in enumerate(pairs) if pair.split == "train"]
    held_out = [number for number, pair in enumerate(pairs) if pair.split != "train"]
    if not train or not held_out:
        return list(pairs)
    small = np.stack([_small_pixels(images / pair.image) for pair in pairs])
    known = small[train]
    lengths = (known**2).sum(1)
    duplicates: set[int] = set()
    for start in range(0, len(held_out), _COMPARED_ROWS):
        numbers = held_out[start : start + _COMPARED_ROWS]
        rows = small[numbers]
        squares = (rows**2).sum(1)[:, None] + lengths - 2 * rows @ known.T
        nearest = squares.min(1) / rows.shape[1]
        duplicates.update(
            number for number, square in zip(numbers, nearest, strict=True) if square < DUPLICATE_DISTANCE**2
        )
    return [pair for number, pair in enumerate(pairs) if number not in duplicates]


def _small_pixels(path: Path) -> np.ndarray:
    """f32 [SIDE * SIDE * 3]."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()


NOTICES_FOLDER, NOTICE_FILE = "licences", "NOTICE"
_NOTICE_HEAD = """\
This corpus is made of works of others. Images were made smaller, put on a white background and saved as WebP; texts
were cut into sentences. Each line of pairs/ and interleaved/ names the licence of its work ("see pairs": of each of
its images), and licences/ holds what the packages say of authors and terms. Whoever passes the corpus on passes
these on with it, and keeps to them.
"""


def write_notices(folder: Path, sources: list[CorpusSource], files: Mapping[str, Path], choice: LicenceChoice) -> None:
    """Leave ``NOTICE`` and ``licences/`` in ``folder``. ``files``: the unpacked packages, by name."""
    parts = [_NOTICE_HEAD]
    for source in sources:
        taken = ", ".join(licence for licence in source.licences if is_licence_allowed(licence, choice))
        parts.append(f"\n{source.name}: {source.about}\n  {taken}\n")
        for package in source.needs(choice):
            kept = _copy_notices(folder / NOTICES_FOLDER / _package_folder(package), package, files[package.name])
            parts.append(f"  {package.client} package {package.name} {package.version}: {', '.join(kept)}\n")
    (folder / NOTICE_FILE).write_text("".join(parts), encoding="utf-8")


def copy_notices(corpus: Path, out: Path) -> None:
    """Copy ``NOTICE`` and ``licences/`` of a corpus, if it has them, to one that is made of its images and texts."""
    if (corpus / NOTICE_FILE).is_file():
        shutil.copyfile(corpus / NOTICE_FILE, out / NOTICE_FILE)
    if (corpus / NOTICES_FOLDER).is_dir():
        shutil.copytree(corpus / NOTICES_FOLDER, out / NOTICES_FOLDER, dirs_exist_ok=True)


def add_colours(pairs: Sequence[PairRow], images: Path) -> list[PairRow]:
    """``pairs`` with the main colour of their images as attribute, unless a text of theirs names a colour itself."""
    nameless = [number for number, pair in enumerate(pairs) if not COLOUR_WORDS & _words(pair)]
    colours = map_in_processes(main_colour_of_file, [images / pairs[number].image for number in nameless], at_once=64)
    found = {number: (colour,) for number, colour in zip(nameless, colours, strict=True) if colour}
    return [replace(pair, attributes=found.get(number)) for number, pair in enumerate(pairs)]


def _words(pair: PairRow) -> set[str]:
    texts = (*pair.captions, *(pair.keywords or ()), pair.name or "")
    return {word for text in texts for word in _WORD.findall(text.lower())}


def _copy_notices(folder: Path, package: Package, files: Path) -> list[str]:
    """Copies of the package's notices; their names in the corpus. Some packages only link to another's."""
    kept = []
    for name in package.notices:
        if (files / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / Path(name).name
            shutil.copyfile(files / name, target)
            kept.append(f"{NOTICES_FOLDER}/{folder.name}/{target.name}")
    return kept or ["no notice of its own"]


def _package_folder(package: Package) -> str:
    return package.name.replace("@", "").replace("/", "-")


PAIRS, IMAGES, DOCUMENTS, FIGURES = "pairs", "images", "interleaved", "statistics.json"
SPLITS = ("train", "val")
_STEPS, _DONE_FILE = "steps", "done.json"


class BuildDir:
    """The build directory: finished sources of a corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / IMAGES

    def done(self, source: str, key: str) -> dict[str, Any] | None:
        """Figures of a source that was finished from the same inputs, of which ``key`` is a hash; else None."""
        try:
            done = json.loads((self._step(source) / _DONE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return done["figures"] if done["key"] == key else None

    def begin(self, source: str) -> None:
        """Remove the files of an interrupted attempt at a source."""
        for leftover in (self._step(source), self.images / source):
            shutil.rmtree(leftover, ignore_errors=True)
        self._step(source).mkdir(parents=True)

    def finish(
        self, source: str, key: str, pairs: Iterable[PairRow], documents: Iterable[DocumentRow], figures: Any
    ) -> None:
        step, listed = self._step(source), list(documents)
        _write_rows(step / f"{PAIRS}.jsonl", (pair.to_json() for pair in pairs))
        for split in SPLITS:
            _write_rows(step / f"{split}.jsonl", (document.to_json() for document in listed if document.split == split))
        write_json_atomically(step / _DONE_FILE, {"key": key, "figures": figures})

    def assemble(self, sources: list[str]) -> dict[str, Any]:
        """Join the sources in this order; returns their figures."""
        figures = {}
        for folder in (PAIRS, DOCUMENTS):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
            (self.folder / folder).mkdir()
        for split in SPLITS:
            with (self.folder / DOCUMENTS / f"{split}.jsonl").open("wb") as target:
                for source in sources:
                    with (self._step(source) / f"{split}.jsonl").open("rb") as part:
                        shutil.copyfileobj(part, target)
        for source in sources:
            step = self._step(source)
            figures[source] = json.loads((step / _DONE_FILE).read_text(encoding="utf-8"))["figures"]
            if (step / f"{PAIRS}.jsonl").stat().st_size:
                shutil.copyfile(step / f"{PAIRS}.jsonl", self.folder / PAIRS / f"{source}.jsonl")
        self._drop_others(sources)
        return figures

    def publish(self, target: Path) -> None:
        """Rename the folder to the target."""
        self.folder.rename(target)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _drop_others(self, sources: list[str]) -> None:
        """Remove the steps, and images of sources that are not part of this build."""
        shutil.rmtree(self.folder / _STEPS)
        for leftover in self.images.iterdir() if self.images.is_dir() else ():
            if leftover.name not in sources:
                shutil.rmtree(leftover)

    def _step(self, source: str) -> Path:
        return self.folder / _STEPS / source


_AGAIN = "run it again: it goes on after the sources that are finished"


@contextlib.contextmanager
def report_system_errors(target: Path) -> Iterator[None]:
    """Errors of disks and processes as errors for the user.

    Raises: UserError ``disk_full``, ``file_inaccessible`` or ``build_died``.
    """
    try:
        yield
    except BrokenExecutor as error:
        message = f"a process of the build ended, perhaps for lack of memory; free some and {_AGAIN}"
        raise UserError(message, code="build_died", file=target) from error
    except OSError as error:
        file = error.filename or target
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"the disk is full; free some space and {_AGAIN}"
            raise UserError(message, code="disk_full", file=file) from error
        message = f"it cannot be read or written ({error.strerror or error}); choose another place, or mend that and "
        raise UserError(message + _AGAIN, code="file_inaccessible", file=file) from error


@contextlib.contextmanager
def open_build_dir(target: Path) -> Iterator[BuildDir]:
    """The build directory of ``target``; an unpublished one is kept for the next attempt.

    Raises: UserError ``target_exists`` or ``build_running``.
    """
    if target.exists():
        raise UserError("there is something already; choose another place", code="target_exists", file=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.building")
    lock_file = target.with_name(f".{target.name}.lock")
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another build to this place is running; wait for it or choose another place"
            raise UserError(message, code="build_running", file=target) from error
        folder.mkdir(exist_ok=True)
        try:
            yield BuildDir(folder)
        finally:
            with contextlib.suppress(OSError):  # not empty, or published
                folder.rmdir()
            lock_file.unlink(missing_ok=True)


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(map(json_line, rows))


SIDE = 128  # pixels of the longest side, unless a source has its own
MIN_SIDE = 16
_FORM = 4  # raised when the same inputs give another result


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What to build.

    Attributes:
        side: longest side of an image, px.
        licences: which works are taken.
    """

    sources: tuple[CorpusSource, ...]
    side: int = SIDE
    licences: LicenceChoice = "any"

    def __post_init__(self) -> None:
        """Raises: UserError ``bad_side``."""
        if self.side < MIN_SIDE:
            message = f"the longest side of an image must have at least {MIN_SIDE} pixels, not {self.side}"
            raise UserError(message, code="bad_side", field="side")


def build(plan: BuildPlan, cache: PackageCache, target: Path, say: Log) -> dict[str, Any]:
    """Make the corpus at ``target``, a folder that appears only when all is done; returns its figures.

    An interrupted build goes on after the sources that it had finished. The same packages give the same corpus.

    Raises: UserError ``target_exists``, ``build_running``, ``nothing_chosen``, ``packages_missing``, ``missing_extra``,
        ``disk_full``…
    """
    with report_system_errors(target), open_build_dir(target) as build_dir:
        figures = build_in(build_dir, plan, cache, say)
        build_dir.publish(target)
    return figures


def build_in(build_dir: BuildDir, plan: BuildPlan, cache: PackageCache, say: Log) -> dict[str, Any]:
    """Build the corpus in its build directory; returns its figures."""
    sources = [source for source in plan.sources if source.has(plan.licences)]
    if not sources:
        message = f"none of the chosen sources has works with {plan.licences} licences"
        raise UserError(message, code="nothing_chosen", field="licence")
    cache.require([package for source in sources for package in source.needs(plan.licences)])
    files: dict[str, Path] = {}
    for source in sources:
        files |= {package.name: cache.files_of(package) for package in source.needs(plan.licences)}
        started, figures = time.monotonic(), build_dir.done(source.name, _input_key(source, plan))
        if figures is None:
            figures = _build_source(build_dir, source, plan, files)
        say(f"{source.name}: {_summary(figures)}, {time.monotonic() - started:.1f} s")
    write_notices(build_dir.folder, sources, files, plan.licences)
    figures = build_dir.assemble([source.name for source in sources])
    write_json_atomically(build_dir.folder / FIGURES, figures)
    return figures


def _build_source(build_dir: BuildDir, source: CorpusSource, plan: BuildPlan, files: dict[str, Path]) -> dict[str, Any]:
    build_dir.begin(source.name)
    images = ImageWriter(build_dir.images, plan.side)
    built = source.build(SourceFiles(files, images, plan.licences))
    pairs = built.pairs
    if not source.exam:
        pairs = add_colours(remove_cross_split_duplicates(pairs, build_dir.images), build_dir.images)
    figures = {"pictures": len(images), "leaks": len(built.pairs) - len(pairs), **_counts(pairs, built.documents)}
    build_dir.finish(source.name, _input_key(source, plan), pairs, built.documents, figures)
    return figures


def _counts(pairs: Sequence[PairRow], documents: Sequence[DocumentRow]) -> dict[str, Any]:
    return {
        "pairs": dict(sorted(Counter(pair.split for pair in pairs).items())),
        "documents": dict(sorted(Counter(document.split for document in documents).items())),
        "placed": sum(len(document.images) for document in documents),
        "sentences": sum(len(document.sentences) for document in documents),
        "words": sum(len(sentence.split()) for document in documents for sentence in document.sentences),
    }


def _summary(figures: dict[str, Any]) -> str:
    pairs, documents = (sum(figures[name].values()) for name in ("pairs", "documents"))
    return f"{figures['pictures']:,} images, {pairs:,} pairs, {documents:,} documents"


def _input_key(source: CorpusSource, plan: BuildPlan) -> str:
    """Stands for everything that the source's part of the corpus depends on."""
    inputs = {
        "form": _FORM,
        "packages": [package.sha256 for package in source.needs(plan.licences)],
        "side": plan.side,
        "licences": plan.licences,
        "pillow": PIL.__version__,
        "resvg": renderer_version(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


TINY_SIDE, TINY_QUALITY = 64, 80
TINY_VENDORS = ("twemoji", "noto", "noto-v1", "emojione", "fluent-3d")  # the last one tests
TINY_GROUPS = ("animals & nature", "food & drink", "travel & places", "activities", "objects")
TINY_CLIPART = 600  # drawings
EXTRA_VENDORS = ("twemoji", "noto", "noto-v1", "emojione", "fxemoji", "streamline")  # the last one validates
EXTRA_GROUPS = (*TINY_GROUPS, "smileys & emotion")
EXTRA_SPLIT = "extra"
_EXCLUDED_CATEGORIES = ("signs", "shapes", "unsorted", "computer")  # categories of clip art
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # so that the same contents are the same bytes


def build_tiny(cache: PackageCache, target: Path, say: Log) -> dict[str, Any]:
    """Make the zip at ``target``; its figures. Raises: as ``build`` does.

    Documents, and the lines of all splits but ``val``, are those of the first sample, so that runs that began with that
    go on as they would have. What came later has a split of its own.
    """
    with report_system_errors(target), open_build_dir(target) as build_dir:
        build_in(build_dir, BuildPlan((SOURCES["emoji"], SOURCES["openclipart"]), SIDE, "permissive"), cache, say)
        rows = _read_pairs(build_dir, "emoji")
        emoji, clipart = select_emoji(rows), select_clipart(_read_pairs(build_dir, "openclipart"))
        pairs = [replace(pair, name=None, keywords=None, attributes=None) for pair in emoji]
        pairs += [replace(pair, name=None, attributes=None) for pair in clipart]
        pairs += select_extra(rows, emoji)
        documents = [*emoji_documents(emoji), *clipart_documents(clipart)]
        beside = build_dir.folder / "sample.zip"
        _write_zip(beside, build_dir, pairs, documents)
        beside.rename(target)
        build_dir.remove()
    return {"pictures": len(pairs), "documents": len(documents), "bytes": target.stat().st_size}


def select_emoji(rows: Iterable[PairRow]) -> list[PairRow]:
    """The concepts of some groups that every team drew."""
    drawn: dict[str, dict[str, PairRow]] = {}
    for pair in rows:
        if pair.labels["group"] in TINY_GROUPS and pair.vendor in TINY_VENDORS:
            drawn.setdefault(pair.labels["concept"], {})[pair.vendor] = pair
    concepts = [concept for concept, teams in drawn.items() if len(teams) == len(TINY_VENDORS)]
    concepts.sort(key=lambda concept: hash_fraction(f"tiny:{concept}"))
    return [drawn[concept][team] for concept in concepts for team in TINY_VENDORS]


def select_extra(rows: Iterable[PairRow], chosen: Iterable[PairRow]) -> list[PairRow]:
    """Further drawings that train or validate: faces, and things that not every team drew.

    Args:
        chosen: what ``select_emoji`` chose of the rows.

    Returns: those that train in the split ``EXTRA_SPLIT``.
    """
    images = {pair.image for pair in chosen}
    splits = {"train": EXTRA_SPLIT, "val": "val"}
    extra = [
        replace(pair, split=splits[pair.split])
        for pair in rows
        if pair.vendor in EXTRA_VENDORS and pair.labels["group"] in EXTRA_GROUPS
        if pair.split in splits and pair.image not in images
    ]
    return sorted(extra, key=lambda pair: (hash_fraction(f"tiny:{pair.labels['concept']}"), pair.image))


def select_clipart(rows: Iterable[PairRow]) -> list[PairRow]:
    """Some drawings of things, picked by their names alone."""
    scenes = [pair for pair in rows if not pair.labels["category"].startswith(_EXCLUDED_CATEGORIES)]
    return sorted(scenes, key=lambda pair: hash_fraction(f"tiny:{pair.image}"))[:TINY_CLIPART]


def _read_pairs(build_dir: BuildDir, source: str) -> list[PairRow]:
    text = (build_dir.folder / PAIRS / f"{source}.jsonl").read_text(encoding="utf-8")
    return [PairRow.from_json(json.loads(line)) for line in text.split("\n")[:-1]]


def _write_zip(path: Path, build_dir: BuildDir, pairs: list[PairRow], documents: list[DocumentRow]) -> None:
    with zipfile.ZipFile(path, "w") as bundle:
        for pair in pairs:
            bundle.writestr(
                zipfile.ZipInfo(f"images/{pair.image}", _ZIP_DATE), _encode_small(build_dir.images / pair.image)
            )
        for name, rows in (("pairs.jsonl", pairs), ("interleaved.jsonl", documents)):
            text = "".join(json_line(row.to_json()) for row in rows)
            bundle.writestr(zipfile.ZipInfo(name, _ZIP_DATE), text, zipfile.ZIP_DEFLATED)


def _encode_small(path: Path) -> bytes:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((TINY_SIDE, TINY_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=TINY_QUALITY, method=6)
    return buffer.getvalue()
