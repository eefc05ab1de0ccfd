"""``python -m lcl_core.collections.match_job RUN_DIR``: assign images to sentences, and write the dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from PIL import Image

from lcl_core.common.errors import UserError, import_optional
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
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.specs.corpus_jobs import MatchSpec
from lcl_core.specs.parsing import parse_spec

MAX_SENTENCES = 4096  # of a document that is assigned as a whole; the matrix has images x sentences cells
ImageFeatures = Callable[[Sequence[Image.Image]], np.ndarray]
TextFeatures = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """[n] images or texts -> [n, d] float32, each row of length 1."""

    images: ImageFeatures
    texts: TextFeatures


def max_similarity_assignment(similarities: np.ndarray) -> list[tuple[int, int]]:
    """(image, sentence) pairs whose similarities have the largest sum, images ascending.

    Args:
        similarities: [images, sentences], finite; at most min(images, sentences) pairs come out.

    Raises: UserError ``missing_extra`` without scipy.
    """
    solve = import_optional("scipy.optimize", "matching images to sentences").linear_sum_assignment
    rows, columns = solve(similarities, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def match_records(records: Iterable[Record | BadItem], encoder: PairEncoder) -> Iterator[Record | BadItem]:
    """Documents become matched records with the encoder's similarities; captioned images pass unchanged.

    The texts of a sequence are its sentences. An image that cannot be read is listed as a BadItem before its record,
    which continues without it; a document without words or readable images is listed and left out.
    """
    for record in records:
        if isinstance(record, BadItem) or isinstance(record.body, CaptionedImage):
            yield record
        else:
            yield from _assign_images(record, encoder)


def _assign_images(record: Record, encoder: PairEncoder) -> Iterator[Record | BadItem]:
    sentences, names = body_texts(record.body), body_image_names(record.body)
    worded = [number for number, text in enumerate(sentences) if text.strip()][:MAX_SENTENCES]
    if not worded or not names:
        yield BadItem(record.id, 0, "nothing to match", "the document has no words" if names else "it has no images")
        return
    images, files = [], []
    for name in names:
        try:
            data = _find_image(record, name).load()
            images.append(decode_image(data, name))
            files.append((name, data))
        except UserError as error:
            yield BadItem(record.id, 0, error.code, str(error))
    if not images:
        yield BadItem(record.id, 0, "no usable image", "none of the document's images can be read")
        return
    similarities = encoder.images(images) @ encoder.texts([sentences[number] for number in worded]).T
    matches = tuple(
        ImageMatch(files[image][0], worded[sentence], round(float(similarities[image, sentence]), 6))
        for image, sentence in max_similarity_assignment(similarities)
    )
    # the bytes are in memory: they are not loaded a second time
    kept = {match.image for match in matches}
    loaded = tuple(RecordImage(name, partial(bytes, data)) for name, data in files if name in kept)
    # fields of the images are in the order of the earlier matches
    extra = {key: value for key, value in record.extra.items() if key != "image_info"}
    yield replace(record, body=MatchedDocument(tuple(sentences), matches), images=loaded, extra=extra)


def _find_image(record: Record, name: str) -> RecordImage:
    """Raises: UserError where the record does not come with it."""
    for image in record.images:
        if image.name == name:
            return image
    raise UserError("the record names an image that it does not have", code="file_missing", file=name)


def run_match_job(run_dir: RunDir) -> dict[str, Any]:
    """Do what ``run.json`` asks; leaves ``artifacts/dataset``.

    Raises:
        UserError: bad spec, encoder or corpus; ``encoder_changed``; ``nothing_converted``.
        Cancelled: after SIGTERM.
    """
    run = run_dir.read_run()
    spec = cast(MatchSpec, parse_spec("match", run["spec"]))
    paths = run.get("encoders", {})
    if spec.encoder not in paths:
        message = f"encoder {spec.encoder!r} is not registered; the list of encoders has the names"
        raise UserError(message, code="unknown_encoder", field="encoder")
    session = EncoderEngine(paths[spec.encoder], registered=run.get("encoder_files", {}).get(spec.encoder))
    encoder = PairEncoder(session.embed_images, session.embed_texts)
    change = partial(match_records, encoder=encoder)
    result = write_dataset(run_dir, spec, "matching", change, encoder_hash=session.hash)
    return result | {"encoder": spec.encoder, "encoder_hash": session.hash}


if __name__ == "__main__":
    sys.exit(run_main(run_match_job))
