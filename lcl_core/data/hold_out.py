"""An exam held out of a corpus: images with their passages, of documents that training does not read.

Documents belong together that are of one page or file, or share an image, also one recoloured, encoded again or
cropped, or half of their sentences. Such a group is on one side. What both sides share nevertheless, icons of many
documents and single sentences, leaves the exam.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.common.processes import usable_cores
from lcl_core.data.image_decoding import decode_image
from lcl_core.data.records import (
    DEFAULT_SPLIT,
    BadItem,
    Body,
    CaptionedImage,
    ImageSegment,
    MatchedDocument,
    Record,
    TextSegment,
    body_image_names,
    body_texts,
)

NEAR, CONFIRMED = 0.85, 0.84  # cosines of coarse and of fine histograms from which on two images are one
LEFT_OUT = "in training too"  # reason in the quarantine
_SIDE = 96  # pixels of the grey copies that are compared
_CELLS, _DIRECTIONS = 16, 4  # cells a side of the fine histogram; directions of an edge
_PARTS = (92, 88, 84, 80, 76)  # sides of the parts, nine of each, that are compared with whole images
_BLOCK = 128  # images compared with all others at once
_MANY_DOCUMENTS = 5  # what stands in more joins none: a logo, a licence
_FEW_FILES = 20  # of fewer the documents are held out one by one
_WORDS = 6  # of a sentence that can be recognised
_SMALLEST_CAP, _CAP = 50, 0.02  # images, and share of all, that a group may grow to
_AT_ONCE = 256  # records whose images are in memory


def edge_maps(copies: np.ndarray) -> np.ndarray:
    """uint8 [n, S, S], grey → f32 [n, 4, S, S]: strength of the edges in each of four directions.

    Without signs, so that inversion changes nothing, and colours hardly anything.
    """
    levels = copies.astype(np.float32)
    across, down = np.zeros_like(levels), np.zeros_like(levels)
    across[:, :, 1:-1] = levels[:, :, 2:] - levels[:, :, :-2]
    down[:, 1:-1] = levels[:, 2:] - levels[:, :-2]
    direction = np.floor(np.arctan2(down, across) / np.pi * _DIRECTIONS + 0.5).astype(np.int8) % _DIRECTIONS
    return np.where(direction[:, None] == np.arange(_DIRECTIONS)[:, None, None], np.hypot(across, down)[:, None], 0)


def edge_histograms(maps: np.ndarray, left: int, top: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse f32 [n, 4 · 8²] and fine [n, 4 · 16²] histograms of a square part, of length 1 or, without edges, 0."""
    starts = np.linspace(0, side, _CELLS, endpoint=False).astype(int)
    part = maps[:, :, top : top + side, left : left + side]
    fine = np.add.reduceat(np.add.reduceat(part, starts, axis=3), starts, axis=2)
    coarse = fine.reshape(*fine.shape[:2], _CELLS // 2, 2, _CELLS // 2, 2).sum((3, 5))
    return _unit_rows(coarse), _unit_rows(fine)


def _unit_rows(sums: np.ndarray) -> np.ndarray:
    rows = np.sqrt(sums.reshape(len(sums), -1))
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit


def near_images(copies: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows that show the same image, one of them whole, the other whole or a part of it, and their cosine.

    Compares all with all: 10,000 images take minutes on two cores, ten times as many some hours.

    Args:
        copies: uint8 [n, S, S], grey.
    """
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(copies), _BLOCK)]
    wholes = [edge_histograms(edge_maps(copies[block]), 0, 0, _SIDE) for block in blocks]
    whole, fine = (np.concatenate(each) for each in zip(*wholes, strict=True))
    parts = [(0, 0, _SIDE)]
    parts += [(x * (_SIDE - s) // 2, y * (_SIDE - s) // 2, s) for s in _PARTS for x in range(3) for y in range(3)]
    for block in blocks:
        maps = edge_maps(copies[block])
        for part in parts:
            coarse, details = edge_histograms(maps, *part)
            cosines = coarse @ whole.T
            rows, others = np.nonzero(cosines >= NEAR)
            different = others > rows + block.start if part[2] == _SIDE else others != rows + block.start
            rows, others = rows[different], others[different]
            same = np.einsum("ne,ne->n", details[rows], fine[others]) >= CONFIRMED
            rows, others = rows[same], others[same]
            yield from zip((rows + block.start).tolist(), others.tolist(), cosines[rows, others].tolist(), strict=True)


def _file_of(record: Record) -> str:
    """The file or page that a record was cut out of; its own id where that is not known."""
    return str(record.extra.get("file") or record.extra.get("page") or record.id)


class _Survey:
    """What the documents of a corpus show and say."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.files: defaultdict[str, list[int]] = defaultdict(list)  # documents of each
        self.images: list[tuple[int, str]] = []  # document and name
        self.copies: list[np.ndarray] = []
        self.sentences: defaultdict[str, set[int]] = defaultdict(set)  # documents of each

    def add(self, record: Record, copies: Mapping[str, np.ndarray]) -> None:
        document = len(self.names)
        self.names.append(record.id)
        self.files[_file_of(record)].append(document)
        for name, copy in copies.items():
            self.images.append((document, name))
            self.copies.append(copy)
        for text in body_texts(record.body):
            if key := _sentence_key(text):
                self.sentences[key].add(document)

    def shared_texts(self) -> Iterator[tuple[int, int]]:
        """Documents of which one says at least half of what the other says."""
        own: Counter[int] = Counter()
        shared: Counter[tuple[int, int]] = Counter()
        for documents in self.sentences.values():
            own.update(documents)
            if len(documents) <= _MANY_DOCUMENTS:
                shared.update(combinations(sorted(documents), 2))
        return (pair for pair, number in shared.items() if 2 * number >= min(own[pair[0]], own[pair[1]]) >= 2)


def _sentence_key(text: str) -> str:
    """Equal for equal sentences, empty for one too short to be recognised."""
    words = text.lower().split()
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).hexdigest() if len(words) >= _WORDS else ""


def _grey_copies(record: Record) -> dict[str, np.ndarray]:
    """Of the images that can be read; conversion names the others."""
    copies = {}
    named = set(body_image_names(record.body))
    for image in record.images:
        if image.name in named:
            try:
                decoded = decode_image(image.load(), image.name)
            except UserError:
                continue
            copies[image.name] = np.asarray(decoded.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    return copies


class _Groups:
    """Union-find over documents. ``images``: of the group of each root."""

    def __init__(self, images: list[int]) -> None:
        self._above, self.images = list(range(len(images))), images

    def root(self, document: int) -> int:
        while self._above[document] != document:
            self._above[document] = document = self._above[self._above[document]]
        return document

    def join(self, one: int, other: int, most: float = float("inf")) -> None:
        """``most``: images above which a group does not grow."""
        one, other = sorted((self.root(one), self.root(other)))
        if one != other and self.images[one] + self.images[other] <= most:
            self._above[other] = one
            self.images[one] += self.images[other]


def plan_exam(
    items: Iterable[Record | BadItem], share: float, on_progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Choose the documents of the exam, the same ones for the same corpus.

    Args:
        share: of the images, for the split test; half as many are for val. Records of other splits than train stay.

    Returns: a JSON value for :func:`split_off_exam`: ``splits`` by record, ``images`` [record, name] and ``sentences``
        that leave the exam, and ``report``.

    Raises:
        UserError: ``no_data`` where nothing can be held out.
    """
    survey, done, records = _Survey(), 0, iter(items)
    with ThreadPoolExecutor(usable_cores()) as pool:
        while part := list(islice(records, _AT_ONCE)):
            chosen = [item for item in part if isinstance(item, Record) and item.split == DEFAULT_SPLIT]
            for record, copies in zip(chosen, pool.map(_grey_copies, chosen), strict=True):
                survey.add(record, copies)
            done += len(part)
            on_progress(done)
    owner, near = [document for document, _ in survey.images], _same_images(survey)
    groups = _group_documents(survey, owner, near)
    sides = _choose_sides(survey, groups, share)
    side = [sides.get(groups.root(document), DEFAULT_SPLIT) for document in range(len(survey.names))]
    cut = set()
    for one, other, _ in near:
        ours, theirs = side[owner[one]], side[owner[other]]
        if ours != theirs or ours != DEFAULT_SPLIT:  # of two equal ones in the exam the first stays
            cut.add(one if ours != DEFAULT_SPLIT and (theirs == DEFAULT_SPLIT or one > other) else other)
    said_in = {key: {side[document] for document in documents} for key, documents in survey.sentences.items()}
    held_out = Counter(side[document] for row, document in enumerate(owner) if row not in cut)
    report = {name: held_out[name] for name in ("test", "val")} | {"near_duplicates": len(near), "left_out": len(cut)}
    return {
        "splits": {name: split for name, split in zip(survey.names, side, strict=True) if split != DEFAULT_SPLIT},
        "images": sorted([survey.names[owner[row]], survey.images[row][1]] for row in cut),
        "sentences": sorted(key for key, kinds in said_in.items() if len(kinds) > 1 and DEFAULT_SPLIT in kinds),
        "report": report,
    }


def _group_documents(survey: _Survey, owner: list[int], near: list[tuple[int, int, float]]) -> _Groups:
    """``owner``: document of each image; ``near``: pairs of images, the most alike first."""
    images, seen_in = Counter(owner), defaultdict(set)
    groups = _Groups([images[document] for document in range(len(survey.names))])
    if len(survey.files) >= _FEW_FILES:
        for first, *others in survey.files.values():
            for other in others:
                groups.join(first, other)
    for one, other, _ in near:
        seen_in[one].add(owner[other])
        seen_in[other].add(owner[one])
    cap = max(_SMALLEST_CAP, int(_CAP * len(owner)))
    for one, other, _ in near:
        if max(len(seen_in[one]), len(seen_in[other])) <= _MANY_DOCUMENTS:
            groups.join(owner[one], owner[other], cap)
    for pair in survey.shared_texts():
        groups.join(*pair, cap)
    return groups


def _same_images(survey: _Survey) -> list[tuple[int, int, float]]:
    """Pairs of rows, the most alike first; equal images without edges too."""
    first: dict[bytes, int] = {}
    best: dict[tuple[int, int], float] = {}
    for row, copy in enumerate(survey.copies):
        if (earlier := first.setdefault(copy.tobytes(), row)) != row:
            best[earlier, row] = 1.0
    for one, other, cosine in near_images(np.stack(survey.copies)) if survey.copies else ():
        pair = min(one, other), max(one, other)
        best[pair] = max(cosine, best.get(pair, 0.0))
    return sorted(((*pair, cosine) for pair, cosine in best.items()), key=lambda each: (-each[2], each))


def _choose_sides(survey: _Survey, groups: _Groups, share: float) -> dict[int, str]:
    """Split of each group that is held out, in an order that depends on the names alone. Raises: UserError."""
    roots = {groups.root(document) for document in range(len(survey.names))}
    order = sorted(roots, key=lambda root: hashlib.sha256(survey.names[root].encode("utf-8", "replace")).digest())
    sides: dict[int, str] = {}
    for split, wanted in (("test", share * len(survey.images)), ("val", share / 2 * len(survey.images))):
        for root in order:
            if root not in sides and 0 < groups.images[root] <= wanted + 1:
                sides[root] = split
                wanted -= groups.images[root]
        if split not in sides.values():
            message = f"{len(survey.images)} images in {len(roots)} groups of documents are too few for {split}"
            raise UserError(f"{message}; bring more, or name a larger share", code="no_data", field="hold_out")
    return sides


def split_off_exam(plan_file: Path, items: Iterable[Record | BadItem]) -> Iterator[Record | BadItem]:
    """The records, those of held-out documents as captioned images of their split: each image with its own passage."""
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    images, sentences = {tuple(each) for each in plan["images"]}, set(plan["sentences"])
    for item in items:
        if isinstance(item, BadItem) or item.split != DEFAULT_SPLIT or item.id not in plan["splits"]:
            yield item
            continue
        loads = {image.name: image for image in item.images}
        for number, (name, captions) in enumerate(_captions(item.body, sentences)):
            if (item.id, name) in images or not captions or name not in loads:
                yield BadItem(item.id, 0, LEFT_OUT, f"image {name} or its text")
                continue
            labels = item.body.labels if isinstance(item.body, CaptionedImage) else {}
            yield replace(
                item,
                id=f"{item.id}@{number}",
                body=CaptionedImage(name, captions, labels),
                images=(loads[name],),
                split=plan["splits"][item.id],
            )


def _captions(body: Body, shared: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each image with what only the exam says of it: its captions or sentence, or else the texts beside it.

    Those are the text after the image and, where that is short, such as an alternative text, the one before.
    """
    if isinstance(body, CaptionedImage):
        yield body.image, _without(body.captions, shared)
    elif isinstance(body, MatchedDocument):
        for match in body.matches:
            yield match.image, _without([body.sentences[match.sentence]], shared)
    else:
        parts = body.segments
        for at, part in enumerate(parts):
            if isinstance(part, ImageSegment):
                before, after = (
                    _without([each.text for each in beside if isinstance(each, TextSegment)], shared)
                    for beside in (parts[max(0, at - 1) : at], parts[at + 1 : at + 2])
                )
                if not after or len(after[0].split()) < _WORDS:
                    after = before + after
                yield part.name, (" ".join(after),) if after else ()


def _without(texts: Sequence[str], shared: Collection[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if _sentence_key(text) not in shared)
