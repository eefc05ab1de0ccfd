"""``python -m lcl_core.collections.index_job RUN_DIR``: embed every image and caption of a corpus into a collection."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor

from lcl_core.collections.file_format import Dtype
from lcl_core.collections.thumbnail import thumbnail
from lcl_core.collections.writer import EMPTY_SOURCE, AppendSource, CollectionItem, CollectionWriter, open_append_source
from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir, run_main
from lcl_core.common.threads import usable_cores
from lcl_core.data import CaptionPair, Corpus, open_corpus
from lcl_core.data.image_decoding import decode_image
from lcl_core.data.records import illustrated_texts
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.specs.corpus_jobs import IndexSpec
from lcl_core.specs.parsing import parse_spec
from lcl_core.vector_indexes import FILES, INDEXES, IndexLocation, check_index

F16_BYTES = 512 << 20  # vectors above this are kept as f16: half the memory for a slower search
MAX_PGVECTOR_DIM = 4000  # of a vector that pgvector indexes
MAX_CAPTION = 200  # characters of a document's text that stands as the caption of an image
READERS = min(4, usable_cores())


def run_index_job(run_dir: RunDir) -> dict[str, Any]:
    """Run ``run.json``: writes ``artifacts/collection`` and, if images were rejected, ``artifacts/quarantine.jsonl``.

    Raises:
        UserError: bad spec, encoder or corpus; ``no_images``; ``no_readable_image``; ``encoder_mismatch``;
            ``encoder_changed``; ``vector_too_wide``.
        Cancelled: between two batches after SIGTERM; nothing half-written remains.
    """
    run = run_dir.read_run()
    spec = cast(IndexSpec, parse_spec("index", run["spec"]))
    existing = open_append_source(run, spec)
    corpus = None if spec.dataset is None else open_corpus(_registered_path(run, "dataset", spec.dataset))
    pairs = [] if corpus is None else [pair for pair in select_pairs(corpus, spec) if pair.image not in existing]
    files = run.get("encoder_files", {}).get(spec.encoder)
    engine = EncoderEngine(_registered_path(run, "encoder", spec.encoder), registered=files)
    if not engine.reads_texts:
        message = f"encoder {spec.encoder!r} reads no texts, and a collection holds captions; name one that does"
        raise UserError(message, code="no_text_encoder", field="encoder")
    existing.check_encoder(engine.hash)
    index = _choose_index(spec, existing, engine.dim)
    dataset_hash = existing.dataset_hash if corpus is None else corpus.content_hash()
    rejected, progress = RejectedItems(run_dir), IndexProgress(run_dir, pairs, existing)
    with CollectionWriter(
        run_dir.artifacts / "collection",
        name=existing.name or spec.collection,
        encoder_hash=engine.hash,
        dataset_hash=dataset_hash,
        dim=engine.dim,
        dtype=dtype_for(len(existing) + len(pairs), engine.dim),
    ) as writer:
        kept = existing.copy_into(writer, progress.advance)
        progress.start("images", progress.left)
        added = _add_images(writer, corpus, pairs, engine, spec.batch_size, rejected, progress) if corpus else 0
        rejected.raise_if_all(len(pairs))
        _add_texts(writer, existing, engine, spec.batch_size, progress)
        texts = len(writer.texts)
        if index == FILES or INDEXES[index].writer == "job":
            progress.start("links", writer.rows_to_index(index))
            writer.link(progress.advance, index)
    header = {"path": "artifacts/collection", "name": existing.name or spec.collection, "encoder_hash": engine.hash}
    sizes = {"images": kept + added, "texts": texts, "dim": engine.dim, "index": index}
    made = {"collection": {**header, **sizes, **existing.metadata}, "skipped": dict(rejected.counts)}
    counts = {"kept": kept, "added": added} if spec.mode == "add" else {}
    return {**made, **counts, "dataset_hash": dataset_hash}


def _choose_index(spec: IndexSpec, existing: AppendSource, dim: int) -> str:
    """As in a spec, without ``auto``. Raises: UserError ``vector_too_wide``, ``missing_extra``."""
    found = existing.index if spec.index == "auto" else spec.index
    if found != FILES and INDEXES[found].writer == "job":  # else found out after hours of embedding
        check_index(found, IndexLocation(dim=dim))
    if found == "pgvector" and dim > MAX_PGVECTOR_DIM:
        message = f"pgvector indexes vectors of up to {MAX_PGVECTOR_DIM} numbers, these have {dim}; set index to files"
        raise UserError(message, code="vector_too_wide", field="index")
    return found


def _registered_path(run: dict[str, Any], kind: str, name: str) -> str:
    """The path of a name in ``run.json``."""
    paths = run.get(f"{kind}s", {})
    if name not in paths:
        message = f"{kind} {name!r} is not registered; register it or choose another"
        raise UserError(message, code=f"unknown_{kind}", field=kind)
    return paths[name]


def select_pairs(corpus: Corpus, spec: IndexSpec) -> list[CaptionPair]:
    """The captioned images of the spec's splits, each image once with all its captions.

    Of a corpus of documents alone: their images, with the text that each belongs to as its caption.

    Raises:
        UserError: ``no_images``, listing the splits.
    """
    known = sorted(corpus.splits())
    if not known and not spec.splits and (pairs := _illustrations(corpus)):
        return pairs
    unknown = [split for split in spec.splits or () if split not in known]
    found: dict[str, CaptionPair] = {}
    for pair in () if unknown else corpus.pairs(split=spec.splits):
        first = found.setdefault(pair.image, pair)
        if first is not pair:
            found[pair.image] = replace(first, captions=(*first.captions, *pair.captions))
    if not found:
        what = f"no split {unknown[0]!r}" if unknown else "no captioned images"
        message = f"dataset {spec.dataset!r} has {what}; its splits: {', '.join(known) or 'none'}"
        raise UserError(message, code="no_images", field="splits" if unknown else "dataset")
    return list(found.values())


def _illustrations(corpus: Corpus) -> list[CaptionPair]:
    """The images of documents; documents that cannot be read are left out, as in training."""
    captions: dict[str, dict[str, None]] = {}  # of each image, in order and each once
    for index in range(len(corpus.documents)):
        with suppress(UserError):
            for image, text in illustrated_texts(corpus.documents[index]):
                found = captions.setdefault(image, {})
                if text.strip():
                    found[shorten(text, MAX_CAPTION)] = None
    return [CaptionPair(image, tuple(texts), {}, "", "", {}) for image, texts in captions.items()]


def dtype_for(rows: int, dim: int) -> Dtype:
    return "f16" if rows * dim * 4 > F16_BYTES else "f32"


class RejectedItems:
    """Unreadable images: counted by reason, and listed in a file, one JSON object a line."""

    def __init__(self, run_dir: RunDir) -> None:
        self.counts: Counter[str] = Counter()
        self._path = run_dir.artifacts / "quarantine.jsonl"
        self._path.unlink(missing_ok=True)  # of an earlier attempt
        self._last: UserError | None = None

    def add(self, image: str, error: UserError) -> None:
        self.counts[error.code] += 1
        self._last = error
        line = json.dumps({"image": image, **error.to_dict()}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")

    def raise_if_all(self, images: int) -> None:
        """Raises: UserError ``no_readable_image`` if no image could be read."""
        if self._last is not None and self.counts.total() == images:
            message = f"none of the {images} images can be read; the last one: {self._last}"
            raise UserError(message, code="no_readable_image", field="dataset", file=self._last.file)


class IndexProgress:
    """Writes a metrics line a batch and stops on request. A step is an image or a distinct caption.

    Images and captions copied from ``existing`` count too.
    """

    def __init__(self, run_dir: RunDir, pairs: Sequence[CaptionPair], existing: AppendSource = EMPTY_SOURCE) -> None:
        self._run_dir = run_dir
        self._done = 0
        texts = {caption for pair in pairs for caption in pair.captions if caption.strip()}
        self._total = len(existing) + len(pairs) + existing.texts + len(texts)
        self._started = time.monotonic()
        phase = "kept" if len(existing) else "images"
        self._phase, self._phase_started, self._phase_done = phase, self._started, 0

    @property
    def left(self) -> int:
        """Remaining steps."""
        return self._total - self._done

    def start(self, phase: str, steps: int) -> None:
        """``steps``: of this phase and all later ones."""
        self._phase, self._phase_started, self._phase_done = phase, time.monotonic(), 0
        self._total = self._done + steps

    def advance(self, steps: int) -> None:
        """Raises: Cancelled."""
        self._done += steps
        self._phase_done += steps
        now = time.monotonic()
        left = (now - self._started) / self._done * (self._total - self._done)
        rate = self._phase_done / max(now - self._phase_started, 1e-9)
        self._run_dir.append_metrics(
            step=self._done,
            total_steps=self._total,
            phase=self._phase,
            seconds_left=round(left, 1),
            **{f"{self._phase}_per_s": round(rate, 1)},
        )
        self._run_dir.raise_if_stopped()


@dataclass(frozen=True, slots=True)
class _PreparedItem:
    item: CollectionItem
    pixels: Tensor  # f32 [3, S, S]


def _add_images(
    writer: CollectionWriter,
    corpus: Corpus,
    pairs: Sequence[CaptionPair],
    engine: EncoderEngine,
    batch_size: int,
    rejected: RejectedItems,
    progress: IndexProgress,
) -> int:
    """Number of images added."""
    added = 0
    for batch in _prefetch(corpus, pairs, engine, batch_size):
        images = []
        for pair, future in batch:
            try:
                images.append(future.result())
            except UserError as error:
                rejected.add(pair.image, error)
        if images:
            vectors = engine.embed_pixels(torch.stack([item.pixels for item in images]))
            writer.add_items([item.item for item in images], vectors)
        added += len(images)
        progress.advance(len(batch))
    return added


def _add_texts(
    writer: CollectionWriter, existing: AppendSource, engine: EncoderEngine, size: int, progress: IndexProgress
) -> None:
    texts = writer.texts
    progress.start("texts", len(texts))
    for start in range(0, len(texts), size):
        chunk = texts[start : start + size]
        vectors, new = existing.text_vectors(chunk, engine.dim)
        if new:
            vectors[new] = engine.embed_texts([chunk[at] for at in new])
        writer.add_text_vectors(vectors, unit=True)  # as the engine gives them
        progress.advance(len(chunk))


def _prefetch(
    corpus: Corpus, pairs: Sequence[CaptionPair], engine: EncoderEngine, batch_size: int
) -> Iterator[list[tuple[CaptionPair, Future[_PreparedItem]]]]:
    """Batches of images read in threads; the next batch is read while this one is embedded."""
    readers = ThreadPoolExecutor(READERS, "lcl-reader")
    try:
        ahead: deque[list[tuple[CaptionPair, Future[_PreparedItem]]]] = deque()
        for start in range(0, len(pairs), batch_size):
            chunk = pairs[start : start + batch_size]
            ahead.append([(pair, readers.submit(_prepare_item, corpus, pair, engine)) for pair in chunk])
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead
    finally:
        readers.shutdown(cancel_futures=True)


def _prepare_item(corpus: Corpus, pair: CaptionPair, engine: EncoderEngine) -> _PreparedItem:
    """Raises: UserError for an unreadable image."""
    raw = corpus.image_bytes(pair.image)
    decoded = decode_image(raw, f"images/{pair.image}")
    pixels = engine.preprocess([decoded])[0]
    data, media_type = thumbnail(raw, decoded)
    item = CollectionItem(
        image=pair.image,
        data=data,
        media_type=media_type,
        captions=tuple(dict.fromkeys(pair.captions)),
        labels=pair.labels,
        split=pair.split,
        source=pair.source,
    )
    return _PreparedItem(item, pixels)


if __name__ == "__main__":
    sys.exit(run_main(run_index_job))
