"""``python -m lcl_core.collections.index_job RUN_DIR``: embed every image and caption of a corpus into a collection.

The images, and then the distinct captions, are embedded in parts (``embedding_parts``), whose output lies in the run's
``checkpoints/parts`` until the collection is whole: an attempt that follows an interruption embeds what is missing. An
encoder that reads images alone leaves the captions without vectors.

A run that adds copies the existing collection, with its delta, first: vectors to the bit, without the encoder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from lcl_core.collections.changes import Delta, DeltaSnapshot
from lcl_core.collections.collection import Collection
from lcl_core.collections.embedding_parts import (
    EmbeddingTasks,
    SelectedRows,
    Selection,
    read_images,
    read_rejected,
    read_vectors,
)
from lcl_core.collections.file_format import Dtype, item_id, text_id
from lcl_core.collections.labels import choose_types
from lcl_core.collections.writer import CollectionItem, CollectionWriter
from lcl_core.common.errors import NotFound, UserError, item_errors_suppressed
from lcl_core.common.processes import usable_cores
from lcl_core.common.run_dir import JobCancelled, JobProgress, RunDir, run_main
from lcl_core.data import CaptionPair, Corpus, open_corpus
from lcl_core.data.records import illustrated_texts
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.part_runners import Handler, Json, task_threads
from lcl_core.parts import PART_ITEMS, CompletionLog, fingerprint, run_parts, start_runner
from lcl_core.specs.corpus_jobs import RESERVED_LABELS, IndexSpec, LabelType
from lcl_core.specs.parsing import parse_spec
from lcl_core.vector_indexes import FILES

F16_BYTES = 512 << 20  # vectors above this are kept as f16: half the memory for a slower search
MAX_CAPTION = 200  # characters of a document's text that stands as the caption of an image
READERS = min(4, usable_cores())
_COPY_ROWS = 256  # with their images, up to a megabyte each
_TEXTS = 10_000  # that are copied at once
log = logging.getLogger(__name__)


def run_index_job(run_dir: RunDir, part_items: int = PART_ITEMS) -> dict[str, Any]:
    """Run ``run.json``: writes ``artifacts/collection`` and, if images were rejected, ``artifacts/quarantine.jsonl``.

    Raises:
        UserError: bad spec, encoder or corpus; ``no_data``; ``encoder_mismatch``;
            ``encoder_changed``; ``part_failed``.
        JobCancelled: between two batches after SIGTERM; the next attempt continues.
    """
    run = run_dir.read_run()
    spec = cast(IndexSpec, parse_spec("index", run["spec"]))
    existing = None if spec.mode == "replace" else open_existing(run, spec)
    path = None if spec.dataset is None else _registered_path(run, "dataset", spec.dataset)
    corpus = None if path is None else open_corpus(path)
    work = run_dir.checkpoints / "parts"
    selected = select_images(corpus, spec, existing, Selection(work / "selection.sqlite"))
    label_types = _label_types(spec, selected.label_texts, existing)
    encoder = _registered_path(run, "encoder", spec.encoder)
    files = run.get("encoder_files", {}).get(spec.encoder)
    open_engine = partial(EncoderEngine, encoder, precision=spec.precision, registered=files)
    # of several processes none is this one, which reads the hash and the width alone
    engine = open_engine() if spec.processes == 1 else open_engine("cpu", warm_up=False)
    encoder_hash, dim, reads_texts = engine.hash, engine.dim, engine.reads_texts
    name, index, dataset_hash, copied = spec.collection, FILES, "", (0, 0)
    if existing is not None:
        existing.collection.check_encoder(encoder_hash)
        name, index = existing.collection.name, existing.index
        dataset_hash = existing.collection.manifest.dataset_hash
        copied = existing.collection.count("images"), existing.collection.count("texts")
    index = index if spec.index == "auto" else spec.index
    dataset_hash = dataset_hash if corpus is None else corpus.content_hash()
    texts = copied[1] + selected.selection.count("captions")
    total = copied[0] + selected.images + texts * reads_texts
    rejected = RejectedItems(run_dir)
    if spec.processes == 1:
        make = partial(EmbeddingTasks, engine=lambda: engine, corpus=lambda: cast(Corpus, corpus), readers=READERS)
    else:
        del engine
        readers = min(READERS, task_threads(spec.processes))
        open_it = partial(open_corpus, path or "")
        make = partial(EmbeddingTasks, engine=open_engine, corpus=open_it, readers=readers, threads=1)
    inputs = {"encoder": encoder_hash, "dataset": dataset_hash, "precision": spec.precision}
    embed = partial(_embed, run_dir, selected.selection, make, spec, part_items, inputs)
    with CollectionWriter(
        run_dir.artifacts / "collection",
        name=name,
        encoder_hash=encoder_hash,
        dataset_hash=dataset_hash,
        dim=dim,
        dtype=dtype_for(copied[0] + selected.images, dim),
        label_types=label_types,
        text_vectors=reads_texts,
    ) as writer:
        if existing is not None:
            existing.copy_into(writer, JobProgress(run_dir, "kept", "kept"), total)
        kept, kept_texts = writer.image_count, writer.text_count
        done = kept + kept_texts * reads_texts

        def merge_images(part: Path) -> None:
            for items, vectors in read_images(part, spec.batch_size):
                writer.add_items(items, vectors)
            for error in read_rejected(part):
                rejected.add(error)

        embed("images", done, total, selected.digest, merge_images)
        rejected.raise_if_all(selected.images)
        done += selected.images
        if reads_texts:
            total, digest = done + writer.text_count - kept_texts, hashlib.sha256()
            with selected.selection as selection:
                for start in range(kept_texts, writer.text_count, _TEXTS):
                    chunk = writer.texts(start, start + _TEXTS)
                    selection.add_texts(chunk)
                    digest.update(json.dumps(chunk).encode())
            # as the engine gives them
            add = partial(writer.add_text_vectors, unit=True)
            embed("texts", done, total, digest.hexdigest(), lambda part: add(read_vectors(part)))
            done = total
        if index == FILES:  # another is written by the worker
            progress = JobProgress(run_dir, "links", "links", done)
            writer.link(lambda linked, links: progress(done + linked, done + links))
        _arrange(writer, JobProgress(run_dir, "map", "steps", done), done)
    shutil.rmtree(work, ignore_errors=True)
    header = {"path": "artifacts/collection", "name": name, "encoder_hash": encoder_hash}
    sizes = {"images": writer.image_count, "texts": writer.text_count, "dim": dim, "index": index}
    metadata = {} if existing is None else existing.metadata
    made = {"collection": {**header, **sizes, **metadata}, "skipped": dict(rejected.counts)}
    counts = {"kept": kept, "added": writer.image_count - kept} if spec.mode == "add" else {}
    return {**made, **counts, "dataset_hash": dataset_hash}


def _embed(
    run_dir: RunDir,
    selection: Selection,
    make: Callable[..., Handler],
    spec: IndexSpec,
    part_items: int,
    inputs: Json,
    kind: str,
    start: int,
    total: int,
    digest: str,
    merge: Callable[[Path], None],
) -> None:
    """Embed the ``images`` or ``texts`` of a selection; ``merge`` gets the folder of each part in order.

    Args:
        start, total: steps of the run before this phase and, as far as they are known, of all phases.
    """
    if not selection.count(kind):
        return
    folder, rows = selection.path.parent / kind, SelectedRows(selection.path, kind)
    part_items = max(1, part_items // spec.batch_size) * spec.batch_size
    settings = {**inputs, "batch_size": spec.batch_size, "part_items": part_items, "digest": digest}
    with CompletionLog(folder, fingerprint([], **settings)) as log:
        resumed = sum(entry["result"]["items"] for entry in log.entries() if entry["kind"] == "part")
        progress = JobProgress(run_dir, kind, kind, start + resumed)  # which tell nothing of the pace
        run_parts(
            rows.sections(),
            partial(make, rows, folder, spec.batch_size),
            lambda result: merge(folder / result["folder"]),
            log,
            processes=spec.processes,
            runner=start_runner(spec.processes, gpus=1),
            part_items=part_items,
            on_progress=lambda done: progress(start + done, total),
        )


def _arrange(writer: CollectionWriter, progress: JobProgress, done: int) -> None:
    """A map that fails leaves the collection without one, which the log says. Raises: JobCancelled."""
    try:
        writer.arrange(lambda steps, total: progress(done + steps, done + total))
    except JobCancelled:
        raise
    except Exception as error:  # everything else is complete: no map is worth the run
        log.warning("the map by neighbours could not be computed (%s): it shows principal axes instead", error)


def _registered_path(run: dict[str, Any], kind: str, name: str) -> str:
    """The path of a name in ``run.json``."""
    paths = run.get(f"{kind}s", {})
    if name not in paths:
        message = f"{kind} {name!r} is not registered; register it or choose another"
        raise UserError(message, code="not_found", field=kind)
    return paths[name]


@dataclass
class SelectedImages:
    """``label_texts``: {label: its values}; ``digest``: of all that was selected."""

    selection: Selection
    images: int
    label_texts: dict[str, dict[str, None]]
    digest: str


def select_images(
    corpus: Corpus | None, spec: IndexSpec, existing: ExistingCollection | None, selection: Selection
) -> SelectedImages:
    """The captioned images of the spec's splits that do not exist yet, each image once with all its captions.

    Of a corpus of documents alone: their images, with the text that each belongs to as its caption.

    Raises: UserError ``no_data``, listing the splits.
    """
    found, values, digest = False, dict[str, dict[str, None]](), hashlib.sha256()
    with selection:
        for pair in () if corpus is None else _pairs(corpus, spec):
            found = True
            if existing is not None and existing.collection.holds(item_id(pair.image)):
                continue
            selection.add_image(pair)
            digest.update(repr((pair.image, pair.captions, pair.labels, pair.split, pair.source)).encode())
            for label, value in pair.labels.items():
                values.setdefault(label, {})[value] = None
    if corpus is not None and not found:
        known = sorted(corpus.splits())
        unknown = [split for split in spec.splits or () if split not in known]
        what = f"no split {unknown[0]!r}" if unknown else "no captioned images"
        message = f"dataset {spec.dataset!r} has {what}; its splits: {', '.join(known) or 'none'}"
        raise UserError(message, code="no_data", field="splits" if unknown else "dataset")
    return SelectedImages(selection, selection.count("images"), values, digest.hexdigest())


def _pairs(corpus: Corpus, spec: IndexSpec) -> Iterable[CaptionPair]:
    splits = corpus.splits()
    if not splits and not spec.splits:
        return _illustrations(corpus)
    return () if set(spec.splits or ()) - set(splits) else corpus.pairs(split=spec.splits)


def _illustrations(corpus: Corpus) -> list[CaptionPair]:
    """The images of documents; documents that cannot be read are left out, as in training."""
    captions: dict[str, dict[str, None]] = {}  # of each image, in order and each once
    for index in range(len(corpus.documents)):
        with item_errors_suppressed():
            for image, text in illustrated_texts(corpus.documents[index]):
                found = captions.setdefault(image, {})
                if text.strip():
                    found[shorten(text)] = None
    return [CaptionPair(image, tuple(texts), {}, "", "", {}) for image, texts in captions.items()]


def shorten(text: str) -> str:
    """``text`` on one line, of at most ``MAX_CAPTION`` characters.

    It is cut between words where a word ends near the limit: Chinese, Japanese and long addresses have no blanks.
    """
    line = " ".join(text.split())
    if len(line) <= MAX_CAPTION:
        return line
    end = line.rfind(" ", 2 * MAX_CAPTION // 3, MAX_CAPTION)
    return line[: end if end >= 0 else MAX_CAPTION - 1] + "…"


def _label_types(
    spec: IndexSpec, selected: Mapping[str, Iterable[str]], existing: ExistingCollection | None
) -> dict[str, LabelType]:
    """The stated types, checked before hours of embedding.

    Raises: UserError ``invalid_value`` for a type of a label that no image has, or a value of another type.
    """
    stated: dict[str, LabelType] = dict(spec.label_types)
    values = {label: list(texts) for label, texts in selected.items()}
    if existing is not None:
        stated = {**existing.collection.stated_types(), **stated}
        for label, texts in existing.collection.label_values().items():
            values.setdefault(label, []).extend(texts)
    for label in spec.label_types:
        if label not in values:
            known = ", ".join(sorted(set(values) - set(RESERVED_LABELS))) or "none"
            message = f"label_types: no image has a label {label!r}; the labels: {known}"
            raise UserError(message, field=f"label_types.{label}")
    choose_types(values, stated)
    return {label: kind for label, kind in stated.items() if label in values}


def dtype_for(rows: int, dim: int) -> Dtype:
    return "f16" if rows * dim * 4 > F16_BYTES else "f32"


@dataclass(frozen=True)
class ExistingCollection:
    """What an index run adds to: a collection with its delta.

    Attributes:
        metadata: for the run's result: the collection that the new directory belongs to.
        index: as in a spec.
    """

    collection: Collection
    snapshot: DeltaSnapshot
    metadata: dict[str, Any]
    index: str

    def copy_into(self, writer: CollectionWriter, progress: Callable[[int, int], None], total: int) -> None:
        """Copy all images and texts, with their vectors to the bit. Raises: what ``progress`` raises."""
        collection, images = self.collection, self.collection.count("images")
        for start in range(0, images, _COPY_ROWS):
            places = range(start, min(start + _COPY_ROWS, images))
            _, vectors = collection.at("images", places)
            writer.add_items([self._item(place) for place in places], vectors, unit=True)
            progress(places.stop, total)
        if collection.has_text_vectors:
            for start in range(0, writer.text_count, _COPY_ROWS):
                ids = map(text_id, writer.texts(start, start + _COPY_ROWS))
                vectors = np.stack([collection.vector(each) for each in ids])
                writer.add_text_vectors(vectors, unit=True)
                progress(images + start + len(vectors), total)

    def _item(self, place: int) -> CollectionItem:
        record = self.collection.record("images", place)
        has_bytes = self.collection.has_image_bytes(record["id"])
        data = (self.collection.image_bytes if has_bytes else self.snapshot.image)(record["id"])
        fields = {name: record[name] for name in ("image", "media_type", "labels", "split", "source")}
        return CollectionItem(data=data, captions=tuple(record["captions"]), **fields)


def open_existing(run: Mapping[str, Any], spec: IndexSpec) -> ExistingCollection:
    """The collection that ``run.json`` names, its checksums verified, with its delta.

    Raises: UserError ``not_found``, ``collection_unreadable``, ``collection_changed``.
    """
    entry = run.get("collections", {}).get(spec.collection)
    if entry is None:
        message = f"collection {spec.collection!r} does not exist; make it first, with mode replace"
        raise NotFound(message, field="collection")
    snapshot = DeltaSnapshot(Path(entry["changes"]))
    collection = Collection.open(entry["path"], verify=True).with_delta(Delta().with_changes(snapshot.changes))
    metadata = {"id": entry["id"], "base": entry["stored"], "through": entry["through"]}
    return ExistingCollection(collection, snapshot, metadata, entry["index"])


class RejectedItems:
    """Unreadable images: counted by reason, and listed in a file, one JSON object a line."""

    def __init__(self, run_dir: RunDir) -> None:
        self.counts: Counter[str] = Counter()
        self._path = run_dir.artifacts / "quarantine.jsonl"
        self._path.unlink(missing_ok=True)  # of an earlier attempt
        self._last: Json = {}

    def add(self, error: Json) -> None:
        """The fields of a UserError, and the name of the image."""
        self.counts[error["code"]] += 1
        self._last = error
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(error, ensure_ascii=False) + "\n")

    def raise_if_all(self, images: int) -> None:
        """Raises: UserError ``no_data`` if no image could be read."""
        if self._last and self.counts.total() == images:
            message = f"none of the {images} images can be read; the last one: {self._last['message']}"
            raise UserError(message, code="no_data", field="dataset", file=self._last.get("file"))


if __name__ == "__main__":
    sys.exit(run_main(run_index_job))
