"""``python -m lcl_core.collections.match_job RUN_DIR``: assign images to sentences, and write the dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from lcl_core.common.errors import NotFound, StoreError, UserError, import_optional
from lcl_core.common.processes import usable_cores
from lcl_core.common.run_dir import RunDir, run_main
from lcl_core.data.conversion import write_dataset
from lcl_core.data.image_decoding import decode_image
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageMatch,
    MatchedDocument,
    Record,
    RecordImage,
    body_image_names,
    body_texts,
)
from lcl_core.data.shards.writer import THREADS
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.specs.corpus_jobs import MatchSpec
from lcl_core.specs.parsing import parse_spec

MAX_SENTENCES = 4096  # of a document that is assigned as a whole; the matrix has images x sentences cells
# Records that are embedded together, unless their images exceed these bytes; two groups are in memory. Parts begin at
# multiples of it, since the last bits of a vector depend on the batch that it is in.
GROUP_RECORDS, GROUP_BYTES = 256, 128 << 20
BATCH_IMAGES, BATCH_TEXTS = 64, 512  # of a batch on a processor


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """[n] images or texts -> [n, d] float32, each row of length 1.

    Attributes:
        prepare: makes of an image what ``images`` takes; called in several threads.
        prepared_bytes: of what it makes.
    """

    prepare: Callable[[Image.Image], Any]
    prepared_bytes: int
    images: Callable[[Sequence[Any]], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, slots=True)
class _Document:
    """A document whose images are to be assigned.

    Attributes:
        worded: numbers of the sentences that have words.
        pending: name, bytes and future of the prepared form of each image.
        files: name, bytes and prepared form of each that can be read, once it is awaited.
        problems: of the others.
    """

    record: Record
    sentences: Sequence[str]
    worded: Sequence[int]
    pending: list[tuple[str, bytes, Future[Any]]] = field(default_factory=list)
    files: list[tuple[str, bytes, Any]] = field(default_factory=list)
    problems: list[BadItem] = field(default_factory=list)

    def await_images(self) -> bool:
        """Returns: whether any of them can be read."""
        for name, data, future in self.pending:
            try:
                self.files.append((name, data, future.result()))
            except UserError as error:
                self.problems.append(BadItem(self.record.id, 0, error.code, str(error)))
        return bool(self.files)


_Item = Record | BadItem | _Document


def max_similarity_assignment(similarities: np.ndarray) -> list[tuple[int, int]]:
    """(image, sentence) pairs whose similarities [images, sentences] have the largest sum, images ascending.

    Raises: UserError ``missing_extra`` without scipy.
    """
    solve = import_optional("scipy.optimize", "matching images to sentences").linear_sum_assignment
    rows, columns = solve(similarities, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def match_records(records: Iterable[Record | BadItem], encoder: PairEncoder) -> Iterator[Record | BadItem]:
    """Documents become matched records with the encoder's similarities; captioned images pass unchanged.

    The texts of a sequence are its sentences. An image that cannot be read is listed as a BadItem before its record,
    which continues without it; a document without words or readable images is listed and left out. Images and sentences
    of ``GROUP_RECORDS`` items are embedded together, while the images of the next ones are decoded.
    """
    with ThreadPoolExecutor(min(THREADS, usable_cores())) as pool:
        before: list[_Item] = []
        for group in _read_groups(records, encoder, pool):
            yield from _match_group(before, encoder)
            before = group
        yield from _match_group(before, encoder)


def _read_groups(
    records: Iterable[Record | BadItem], encoder: PairEncoder, pool: ThreadPoolExecutor
) -> Iterator[list[_Item]]:
    group: list[_Item] = []
    size = 0
    for number, record in enumerate(records, start=1):
        group.append(item := _read_document(record, encoder, pool))
        if isinstance(item, _Document):
            size += sum(len(data) + encoder.prepared_bytes for _, data, _ in item.pending)
        if number % GROUP_RECORDS == 0 or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    yield group


def _read_document(record: Record | BadItem, encoder: PairEncoder, pool: ThreadPoolExecutor) -> _Item:
    """Files are read in this thread, one after the other; the pool decodes them. What is not to be matched stays."""
    if isinstance(record, BadItem) or isinstance(record.body, CaptionedImage):
        return record
    sentences, names = body_texts(record.body), body_image_names(record.body)
    worded = [number for number, text in enumerate(sentences) if text.strip()][:MAX_SENTENCES]
    if not worded or not names:
        return BadItem(record.id, 0, "nothing to match", "the document has no words" if names else "it has no images")
    document, images = _Document(record, sentences, worded), {image.name: image for image in record.images}
    for name in names:
        try:
            if name not in images:
                raise UserError("the record names an image that it does not have", code="file_missing", file=name)
            data = images[name].load()
        except StoreError:
            raise
        except UserError as error:
            document.problems.append(BadItem(record.id, 0, error.code, str(error)))
        else:
            document.pending.append((name, data, pool.submit(_decode, encoder, data, name)))
    return document


def _decode(encoder: PairEncoder, data: bytes, name: str) -> Any:
    return encoder.prepare(decode_image(data, name))


def _match_group(group: Sequence[_Item], encoder: PairEncoder) -> Iterator[Record | BadItem]:
    documents = [item for item in group if isinstance(item, _Document) and item.await_images()]
    similarities = iter(_similarities(documents, encoder) if documents else ())
    for item in group:
        if not isinstance(item, _Document):
            yield item
            continue
        yield from item.problems
        if item.files:
            yield _assign_images(item, next(similarities))
        else:
            yield BadItem(item.record.id, 0, "no usable image", "none of the document's images can be read")


def _similarities(documents: Sequence[_Document], encoder: PairEncoder) -> list[np.ndarray]:
    """[images, sentences with words] of each document."""
    images = encoder.images([prepared for document in documents for _, _, prepared in document.files])
    texts = [document.sentences[number] for document in documents for number in document.worded]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # pages repeat sentences
    vectors = encoder.texts([*rows])[[rows[text] for text in texts]]
    of_images = np.split(images, np.cumsum([len(document.files) for document in documents])[:-1])
    of_texts = np.split(vectors, np.cumsum([len(document.worded) for document in documents])[:-1])
    return [ours @ theirs.T for ours, theirs in zip(of_images, of_texts, strict=True)]


def _assign_images(document: _Document, similarities: np.ndarray) -> Record:
    """The matched record, of the similarities [images, sentences with words]."""
    matches: list[ImageMatch] = []
    loaded: list[RecordImage] = []
    for image, sentence in max_similarity_assignment(similarities):
        name, data, _ = document.files[image]
        similarity = round(float(similarities[image, sentence]), 6)
        matches.append(ImageMatch(name, document.worded[sentence], similarity))
        loaded.append(RecordImage(name, partial(bytes, data), decodes=True))  # neither loaded nor decoded again
    # fields of the images are in the order of the earlier matches
    extra = {key: value for key, value in document.record.extra.items() if key != "image_info"}
    body = MatchedDocument(tuple(document.sentences), tuple(matches))
    return replace(document.record, body=body, images=tuple(loaded), extra=extra)


def run_match_job(run_dir: RunDir) -> dict[str, Any]:
    """Do what ``run.json`` asks; leaves ``artifacts/dataset``.

    Raises:
        UserError: bad spec, encoder or corpus; ``no_text_encoder``; ``encoder_changed``; ``no_data``.
        JobCancelled: after SIGTERM.
    """
    run = run_dir.read_run()
    spec = cast(MatchSpec, parse_spec("match", run["spec"]))
    paths = run.get("encoders", {})
    if spec.encoder not in paths:
        message = f"encoder {spec.encoder!r} is not registered; the list of encoders has the names"
        raise NotFound(message, field="encoder")
    files = run.get("encoder_files", {}).get(spec.encoder)
    engine = EncoderEngine(paths[spec.encoder], precision=spec.precision, registered=files)
    if not engine.reads_texts:
        message = (
            f"encoder {spec.encoder!r} reads images alone, and sentences are to be matched; name one that reads texts"
        )
        raise UserError(message, code="no_text_encoder", field="encoder")
    with _open_pair_encoder(engine, run_dir.raise_if_stopped) as encoder:
        change = partial(match_records, encoder=encoder)
        result = write_dataset(run_dir, spec, "matching", change, encoder_hash=engine.hash)
    return result | {"encoder": spec.encoder, "encoder_hash": engine.hash}


@contextmanager
def _open_pair_encoder(engine: EncoderEngine, check: Callable[[], None]) -> Iterator[PairEncoder]:
    """On a processor batches are embedded side by side in one thread each; several threads a batch gain less.

    Args:
        check: called before each batch; what it raises ends the work.
    """

    def prepare(image: Image.Image) -> Any:
        return engine.preprocess([image])[0]

    prepared_bytes = prepare(Image.new("RGB", (1, 1))).nbytes
    if engine.device.type != "cpu":
        yield PairEncoder(prepare, prepared_bytes, engine.embed_prepared, engine.embed_texts)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            images = partial(_embed, engine.embed_prepared, pool, BATCH_IMAGES, check)
            texts = partial(_embed, engine.embed_texts, pool, BATCH_TEXTS, check)
            yield PairEncoder(prepare, prepared_bytes, images, texts)
    finally:
        torch.set_num_threads(before)


def _embed(
    embed: Callable[[Sequence[Any]], np.ndarray],
    pool: ThreadPoolExecutor,
    size: int,
    check: Callable[[], None],
    items: Sequence[Any],
) -> np.ndarray:
    """Embed items in batches of ``size``. Texts of similar length share a batch, which costs a third less."""

    def embed_batch(numbers: Sequence[int]) -> np.ndarray:
        check()
        return embed([items[number] for number in numbers])

    order = sorted(range(len(items)), key=lambda number: len(items[number]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate(list(pool.map(embed_batch, batches)))[np.argsort(order)]


if __name__ == "__main__":
    sys.exit(run_main(run_match_job))
