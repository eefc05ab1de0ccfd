"""``python -m lcl_core.collections.index_job RUN_DIR``: embed every image and caption of a corpus into a collection.

The images, and then the distinct captions, are embedded in parts (``embedding_parts``), whose output lies in the run's
``checkpoints/parts`` until the collection is whole: an attempt that follows an interruption embeds what is missing. An
encoder that reads images alone leaves the captions without vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from lcl_core.collections.embedding_parts import (
    EmbeddingTasks,
    image_task,
    is_whole,
    part_ranges,
    read_images,
    read_rejected,
    read_vectors,
    text_task,
)
from lcl_core.collections.file_format import Dtype
from lcl_core.collections.labels import choose_types
from lcl_core.collections.writer import AppendSource, CollectionWriter, open_append_source
from lcl_core.common.errors import UserError, item_errors_suppressed
from lcl_core.common.processes import usable_cores
from lcl_core.common.run_dir import RunDir, run_main
from lcl_core.data import CaptionPair, Corpus, open_corpus
from lcl_core.data.records import illustrated_texts
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.part_runners import Handler, Json, PartTask, Runner, task_threads
from lcl_core.parts import PART_ITEMS, CompletionLog, NumberedTasks, execute, fingerprint, start_runner
from lcl_core.specs.corpus_jobs import RESERVED_LABELS, IndexSpec, LabelType
from lcl_core.specs.parsing import parse_spec
from lcl_core.vector_indexes import FILES

F16_BYTES = 512 << 20  # vectors above this are kept as f16: half the memory for a slower search
MAX_CAPTION = 200  # characters of a document's text that stands as the caption of an image
READERS = min(4, usable_cores())


def run_index_job(run_dir: RunDir, part_items: int = PART_ITEMS) -> dict[str, Any]:
    """Run ``run.json``: writes ``artifacts/collection`` and, if images were rejected, ``artifacts/quarantine.jsonl``.

    Raises:
        UserError: bad spec, encoder or corpus; ``no_images``; ``no_readable_image``; ``encoder_mismatch``;
            ``encoder_changed``; ``part_failed``.
        JobCancelled: between two batches after SIGTERM; the next attempt continues.
    """
    run = run_dir.read_run()
    spec = cast(IndexSpec, parse_spec("index", run["spec"]))
    existing = open_append_source(run, spec)
    path = None if spec.dataset is None else _registered_path(run, "dataset", spec.dataset)
    corpus = None if path is None else open_corpus(path)
    pairs = [] if corpus is None else [pair for pair in select_pairs(corpus, spec) if pair.image not in existing]
    label_types = _label_types(spec, pairs, existing)
    files = run.get("encoder_files", {}).get(spec.encoder)
    encoder = _registered_path(run, "encoder", spec.encoder)
    open_engine = partial(EncoderEngine, encoder, precision=spec.precision, registered=files)
    # of several processes none is this one, which reads the hash and the width alone
    engine = open_engine() if spec.processes == 1 else open_engine("cpu", warm_up=False)
    if existing.collection is not None:
        existing.collection.check_encoder(engine.hash)
    encoder_hash, dim, reads_texts = engine.hash, engine.dim, engine.reads_texts
    index = existing.index if spec.index == "auto" else spec.index
    dataset_hash = existing.dataset_hash if corpus is None else corpus.content_hash()
    rejected, progress = RejectedItems(run_dir), IndexProgress(run_dir, pairs, existing, embeds_texts=reads_texts)
    inputs = {"encoder": encoder_hash, "dataset": dataset_hash, "precision": spec.precision}
    parts = EmbeddingParts(run_dir, pairs, spec.batch_size, part_items, **inputs)
    if spec.processes == 1:
        make = partial(EmbeddingTasks, lambda: engine, lambda: cast(Corpus, corpus), readers=READERS)
    else:
        del engine
        readers = min(READERS, task_threads(spec.processes))
        make = partial(EmbeddingTasks, open_engine, partial(open_corpus, path or ""), readers=readers, threads=1)
    with CollectionWriter(
        run_dir.artifacts / "collection",
        name=existing.name or spec.collection,
        encoder_hash=encoder_hash,
        dataset_hash=dataset_hash,
        dim=dim,
        dtype=dtype_for(existing.images + len(pairs), dim),
        label_types=label_types,
        text_vectors=reads_texts,
    ) as writer:
        kept = existing.copy_into(writer, progress.advance)
        with parts, start_runner(spec.processes, gpus=1)(parts.handler(make)) as runner:
            parts.embed_images(runner, progress)
            added = parts.merge_images(writer, dim, rejected)
            rejected.raise_if_all(len(pairs))
            if reads_texts:
                parts.embed_texts(runner, progress, writer, existing, dim)
        texts = len(writer.texts)
        if index == FILES:  # another is written by the worker
            progress.start("links", writer.rows_to_index())
            writer.link(progress.advance)
    parts.remove()
    header = {"path": "artifacts/collection", "name": existing.name or spec.collection, "encoder_hash": encoder_hash}
    sizes = {"images": kept + added, "texts": texts, "dim": dim, "index": index}
    made = {"collection": {**header, **sizes, **existing.metadata}, "skipped": dict(rejected.counts)}
    counts = {"kept": kept, "added": added} if spec.mode == "add" else {}
    return {**made, **counts, "dataset_hash": dataset_hash}


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


def _label_types(spec: IndexSpec, pairs: Sequence[CaptionPair], existing: AppendSource) -> dict[str, LabelType]:
    """The stated types, checked before hours of embedding.

    Raises: UserError ``unknown_label`` for a type of a label that no image has; ``bad_label`` for a value of another.
    """
    values = {label: dict.fromkeys(texts) for label, texts in existing.label_texts.items()}
    for pair in pairs:
        for label, value in pair.labels.items():
            values.setdefault(label, {})[value] = None
    for label in spec.label_types:
        if label not in values:
            known = ", ".join(sorted(set(values) - set(RESERVED_LABELS))) or "none"
            message = f"label_types: no image has a label {label!r}; the labels: {known}"
            raise UserError(message, code="unknown_label", field=f"label_types.{label}")
    return choose_types(values, {**existing.stated_types, **spec.label_types}).stated_types()


def dtype_for(rows: int, dim: int) -> Dtype:
    return "f16" if rows * dim * 4 > F16_BYTES else "f32"


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
        """Raises: UserError ``no_readable_image`` if no image could be read."""
        if self._last and self.counts.total() == images:
            message = f"none of the {images} images can be read; the last one: {self._last['message']}"
            raise UserError(message, code="no_readable_image", field="dataset", file=self._last.get("file"))


class IndexProgress:
    """Writes a metrics line a batch and stops on request. A step is an image or a distinct caption.

    The time left is by the pace of the phase.

    Images and captions copied from ``existing`` count too.

    Args:
        embeds_texts: False: captions are no steps, because the encoder reads images alone.
    """

    def __init__(
        self,
        run_dir: RunDir,
        pairs: Sequence[CaptionPair],
        existing: AppendSource,
        *,
        embeds_texts: bool = True,
    ) -> None:
        self._run_dir = run_dir
        self._done = 0
        texts = {caption for pair in pairs for caption in pair.captions if caption.strip()}
        self._total = existing.images + len(pairs) + (existing.texts + len(texts) if embeds_texts else 0)
        self._begin("kept" if existing.images else "images")

    @property
    def left(self) -> int:
        """Remaining steps."""
        return self._total - self._done

    def start(self, phase: str, steps: int) -> None:
        """``steps``: of this phase and all later ones."""
        self._begin(phase)
        self._total = self._done + steps

    def skip(self, steps: int) -> None:
        """Count steps that need not be done again; they tell nothing of the pace."""
        if steps:
            self._phase_skipped += steps
            self.advance(steps)

    def reach(self, done: int) -> None:
        """As ``advance``, up to a number of steps of this phase; a part that is done again is not counted twice."""
        if done > self._phase_done:
            self.advance(done - self._phase_done)
        else:
            self._run_dir.raise_if_stopped()

    def advance(self, steps: int) -> None:
        """Raises: JobCancelled."""
        self._done += steps
        self._phase_done += steps
        rate = (self._phase_done - self._phase_skipped) / max(time.monotonic() - self._phase_started, 1e-9)
        known = {"seconds_left": round(self.left / rate, 1) if rate else 0.0} if rate or not self.left else {}
        figures = {**known, f"{self._phase}_per_s": round(rate, 1)}
        self._run_dir.append_metrics(step=self._done, total_steps=self._total, phase=self._phase, **figures)
        self._run_dir.raise_if_stopped()

    def _begin(self, phase: str) -> None:
        self._phase, self._phase_started = phase, time.monotonic()
        self._phase_done = self._phase_skipped = 0


class EmbeddingParts:
    """The parts of one index run, and the log of those that are complete.

    Args:
        part_items: images, or texts, of a part; at least a batch.
        settings: what else the vectors depend on.
    """

    def __init__(
        self, run_dir: RunDir, pairs: Sequence[CaptionPair], batch_size: int, part_items: int, **settings: str
    ) -> None:
        self._pairs, self._batch_size, self._part_items = pairs, batch_size, part_items
        self._ranges = part_ranges(len(pairs), batch_size, part_items)
        self._work = run_dir.checkpoints / "parts"
        self._folder = self._work / "parts"
        images = hashlib.sha256()
        for pair in pairs:
            images.update(repr((pair.image, pair.captions, pair.labels, pair.split, pair.source)).encode())
        settings["images"] = images.hexdigest()
        self._log = CompletionLog(
            self._work, fingerprint([], batch_size=batch_size, part_items=part_items, settings=settings)
        )
        self._images = self._completed("images")
        self._texts = self._completed("texts")
        self._remove_unknown()

    def handler(self, make: Callable[..., Handler]) -> Callable[[], Handler]:
        """Makes the handler of the tasks."""
        return partial(make, parts=self._folder, batch_size=self._batch_size)

    def embed_images(self, runner: Runner, progress: IndexProgress) -> None:
        def task(number: int) -> PartTask:
            chosen = self._ranges[number]
            return image_task(number, self._pairs[chosen.start : chosen.stop], chosen.start)

        progress.start("images", progress.left)
        self._images = self._execute(task, self._ranges, self._images, runner, progress)

    def merge_images(self, writer: CollectionWriter, dim: int, rejected: RejectedItems) -> int:
        """Add the images of all parts to the collection; their number."""
        added = 0
        for number in range(len(self._ranges)):
            part = self._folder / self._images[number]["folder"]
            for items, vectors in read_images(part, dim, self._batch_size):
                writer.add_items(items, vectors)
                added += len(items)
            for error in read_rejected(part):
                rejected.add(error)
        return added

    def embed_texts(
        self, runner: Runner, progress: IndexProgress, writer: CollectionWriter, existing: AppendSource, dim: int
    ) -> None:
        """The texts that the collection has by now; those that ``existing`` has are not embedded."""
        texts = writer.texts
        progress.start("texts", len(texts))
        ranges = part_ranges(len(texts), self._batch_size, self._part_items)

        def batches(number: int) -> Iterator[tuple[list[str], np.ndarray, list[int]]]:
            """Texts, their vectors as far as they are known, and the places of those that are not."""
            chosen = ranges[number]
            for start in range(chosen.start, chosen.stop, self._batch_size):
                chunk = texts[start : min(start + self._batch_size, chosen.stop)]
                yield chunk, *existing.text_vectors(chunk, dim)

        def new(number: int) -> list[list[str]]:
            return [[chunk[at] for at in places] for chunk, _, places in batches(number) if places]

        digests = [_digest(new(number)) for number in range(len(ranges))]
        known: dict[int, Json] = {number: {} for number, digest in enumerate(digests) if digest == _digest([])}
        for number, result in self._texts.items():
            if digests[number : number + 1] == [result["digest"]]:
                known[number] = result
        results = self._execute(
            lambda number: text_task(number, new(number), digests[number]), ranges, known, runner, progress
        )
        for number in range(len(ranges)):
            rows, at = self._vectors(results[number], dim), 0
            for _, vectors, places in batches(number):
                vectors[places] = rows[at : at + len(places)]
                at += len(places)
                writer.add_text_vectors(vectors, unit=True)  # as the engine gives them

    def remove(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.__exit__(kind, error, trace)

    def _execute(
        self,
        make: Callable[[int], PartTask],
        ranges: Sequence[range],
        known: dict[int, Json],
        runner: Runner,
        progress: IndexProgress,
    ) -> dict[int, Json]:
        """Results of all parts, by number. ``known``: of those that are complete."""
        tasks = NumberedTasks([len(chosen) for chosen in ranges], make, known)
        progress.skip(tasks.items)
        execute(tasks, runner, self._log, progress.reach)
        progress.reach(tasks.items)
        return tasks.results

    def _vectors(self, result: Json, dim: int) -> np.ndarray:
        return read_vectors(self._folder / result["folder"], dim) if result else np.empty((0, dim), np.float32)

    def _completed(self, kind: str) -> dict[int, Json]:
        """Results of the parts that earlier attempts have completed, by number, as far as their files are there."""
        return {
            entry["arguments"]["number"]: entry["result"]
            for entry in self._log.entries()
            if entry["kind"] == kind and is_whole(self._folder / entry["result"]["folder"], entry["result"]["bytes"])
        }

    def _remove_unknown(self) -> None:
        """Remove what interrupted attempts at parts have left."""
        self._folder.mkdir(exist_ok=True)
        known = {result["folder"] for results in (self._images, self._texts) for result in results.values()}
        with os.scandir(self._folder) as found:
            for folder in found:
                if folder.name not in known:
                    shutil.rmtree(folder.path, ignore_errors=True)


def _digest(batches: Sequence[Sequence[str]]) -> str:
    return hashlib.sha256(json.dumps(batches).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(run_main(run_index_job))
