"""``python -m examples.corpora.composed CORPUS OUT``: documents whose contexts say of an image what a spec decides.

CORPUS is a folder that ``python -m examples.corpora`` made. OUT becomes another one, with documents alone: sentences of
the corpus's documents and captioned images in turn, each image matched to its own caption. A document begins with a
sentence, and no two of its images are related, since both are drawn at random. So what is before an image says nothing
of it, unless its own caption does: that is the case for the share ``1 - image_first_probability`` of the images, a
field of the training spec. Texts, images and lengths are the same at every share.

Each image of the split ``train`` is in one document of each pass; passes differ in their order. Images are hard links,
so OUT is on CORPUS's file system; the notices of CORPUS are copied.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from examples.corpora.build import copy_notices
from examples.corpora.rows import Json, read_rows, write_rows
from lcl_core.common.errors import UserError

IMAGES_PER_DOCUMENT = 4
WORDS = range(5, 15)  # of a sentence: long enough to be one, short beside an image's tokens


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.corpora.composed", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sources", nargs="+", default=["emoji", "openclipart", "stamps"], help="of captioned images")
    parser.add_argument("--passes", type=int, default=4, help="documents that each image is in")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        counts = make(options.corpus, options.out, options.sources, options.passes, options.seed)
    except UserError as error:
        raise SystemExit(str(error)) from None
    sys.stdout.write(f"{json.dumps(counts)}\n")


def make(corpus: Path, out: Path, sources: Sequence[str], passes: int, seed: int) -> dict[str, int]:
    """Returns: the number of documents, of distinct images, and of distinct sentences to draw from.

    Raises: UserError ``corpus_unreadable`` where a file is missing, a source has no captioned image to train on, or no
    document has a sentence without an image.
    """
    licences = dict(_sentences(read_rows(corpus / "interleaved" / "train.jsonl")))
    sentences = sorted(licences)
    pairs = [pair for source in sources for pair in _training_pairs(corpus, source)]
    if not sentences:
        raise UserError("no document has a sentence without an image", code="corpus_unreadable", file=corpus)
    for pair in pairs:
        image = out / "images" / pair["image"]
        image.parent.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            os.link(corpus / "images" / pair["image"], image)
    draw = random.Random(seed)  # noqa: S311 - an order of images, not a secret
    documents: list[Json] = []
    for _ in range(passes):
        draw.shuffle(pairs)
        for start in range(0, len(pairs), IMAGES_PER_DOCUMENT):
            drawn = pairs[start : start + IMAGES_PER_DOCUMENT]
            documents.append(_document(drawn, sentences, licences, draw))
    write_rows(out / "interleaved" / "train.jsonl", documents)
    copy_notices(corpus, out)
    return {"documents": len(documents), "images": len(pairs), "sentences": len(sentences)}


def _document(
    pairs: Sequence[Json], sentences: Sequence[str], licences: Mapping[str, str], draw: random.Random
) -> Json:
    """``sentence, caption, sentence, caption, …, sentence``; every second text is an image's caption.

    ``licences``: of each sentence. The document has these and those of its images.
    """
    texts = [draw.choice(sentences)]
    images: list[Json] = []
    for pair in pairs:
        images.append({"image_name": pair["image"], "matched_text_index": len(texts), "matched_sim": 1.0})
        texts += [f"{pair['captions'][0].rstrip('.')}.", draw.choice(sentences)]
    found = {pair["licence"] for pair in pairs} | {licences[text] for text in texts[::2]}
    return {"source": "composed", "licence": ", ".join(sorted(found)), "text_list": texts, "image_info": images}


def _training_pairs(corpus: Path, source: str) -> list[Json]:
    path = corpus / "pairs" / f"{source}.jsonl"
    pairs = [pair for pair in read_rows(path) if pair["split"] == "train"]
    if not pairs:
        raise UserError("it has no captioned image of the split train", code="corpus_unreadable", file=path)
    return pairs


def _sentences(documents: Iterable[Json]) -> Iterator[tuple[str, str]]:
    """Whole sentences that no image is matched to, each as often as it stands there, with the document's licence."""
    for document in documents:
        matched = {image["matched_text_index"] for image in document["image_info"]}
        for number, text in enumerate(document["text_list"]):
            whole = text[:1].isupper() and text.endswith(".") and len(text.split()) in WORDS
            if number not in matched and whole:
                yield text, document["licence"]


if __name__ == "__main__":
    main()
