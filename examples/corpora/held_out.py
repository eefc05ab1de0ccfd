"""``python -m examples.corpora.held_out CORPUS OUT``: captioned images out of the held-out documents of a corpus.

CORPUS is a folder that ``python -m examples.corpora`` made. OUT becomes another one, with pairs alone: each image of
``interleaved/val.jsonl`` with the sentence that it is matched to (split ``val``), and, for a head to learn from, those
of the training documents of the same sources (split ``train``). An image that several documents of a split show has
the sentence of the first. An image of both splits is one of ``train``, since an encoder may have been trained on it;
with ``--shared-images val`` it is one of ``val``. Images are hard links, so OUT is on CORPUS's file system; the notices
of CORPUS are copied.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from examples.corpora.build import SPLITS, copy_notices
from examples.corpora.rows import Json, read_rows, write_rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.corpora.held_out", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared-images", choices=SPLITS, default="train", help="split of an image that both have")
    options = parser.parse_args()
    sys.stdout.write(f"{json.dumps(make(options.corpus, options.out, options.shared_images))}\n")


def make(corpus: Path, out: Path, shared_images: str = "train") -> dict[str, int]:
    """Returns: the number of images of each split."""
    held_out = read_rows(corpus / "interleaved" / "val.jsonl")
    sources = {document["source"] for document in held_out}
    trained = [each for each in read_rows(corpus / "interleaved" / "train.jsonl") if each["source"] in sources]
    found: dict[str, dict[str, Json]] = {}
    for split, documents in (("val", held_out), ("train", trained)):
        found[split] = {}
        for pair in _pairs(documents, split):
            found[split].setdefault(pair["image"], pair)
    (other,) = {*SPLITS} - {shared_images}
    for name in found["val"].keys() & found["train"].keys():
        del found[other][name]
    pairs = found["val"] | found["train"]
    for name in pairs:
        image = out / "images" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            os.link(corpus / "images" / name, image)
    write_rows(out / "pairs" / "documents.jsonl", pairs.values())
    copy_notices(corpus, out)
    return {split: len(found[split]) for split in found}


def _pairs(documents: Iterable[Json], split: str) -> Iterator[Json]:
    for document in documents:
        for image in document["image_info"]:
            yield {
                "image": image["image_name"],
                "captions": [document["text_list"][image["matched_text_index"]]],
                "labels": {"manual": document["source"]},
                "split": split,
                "source": "documents",
                "licence": document["licence"],
            }


if __name__ == "__main__":
    main()
