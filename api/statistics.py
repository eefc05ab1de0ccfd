"""What a corpus holds, as its row in the list of datasets keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcl_core.errors import UserError

if TYPE_CHECKING:
    from lcl_core.data.corpus import Corpus
    from lcl_core.data.shards import ShardedCorpus

IMAGES_TRIED = 200
SHOWN = 20


def examine(corpus: Corpus) -> dict[str, Any]:
    """Read every line and try some pictures; the corpus's figures. Of shards, the index alone is read.

    Raises:
        UserError: with file and line of the first malformed line.
    """
    from lcl_core.data.shards import ShardedCorpus

    if isinstance(corpus, ShardedCorpus):
        return _figures_of_shards(corpus)
    names, sentences, documents = Counter[str](), 0, 0
    for documents, document in enumerate(corpus.documents, start=1):
        try:
            texts, images = _contents(document)
        except UserError as error:
            error.file = corpus.documents.place_of(documents - 1)
            raise
        sentences += texts
        names.update(images)
    pairs = corpus.pairs()
    labels: dict[str, Counter[str]] = {}
    sources = Counter[str]()
    captions = 0
    for pair in pairs:
        names[pair.image] += 1
        captions += len(pair.captions)
        sources[pair.source] += 1
        for label, value in pair.labels.items():
            labels.setdefault(label, Counter())[value] += 1
    return {
        "documents": documents,
        "sentences": sentences,
        "pairs": len(pairs),
        "captions": captions,
        "images": len(names),
        "splits": corpus.splits(),
        "sources": dict(sources),
        "labels": {
            label: {"values": len(found), "most_common": dict(found.most_common(SHOWN))}
            for label, found in labels.items()
        },
        "image_check": _try_images(corpus, sorted(names)),
    }


def _contents(document: dict[str, Any]) -> tuple[int, list[str]]:
    """How many texts, and the names of the images. Raises: UserError for malformed segments."""
    if "segments" not in document:
        return len(document["text_list"]), [image["image_name"] for image in document["image_info"]]
    from lcl_core.data.document import ImageSegment
    from lcl_core.data.drafts import segments_of

    segments = segments_of(document)
    images = [segment.name for segment in segments if isinstance(segment, ImageSegment)]
    return len(segments) - len(images), images


def _figures_of_shards(corpus: ShardedCorpus) -> dict[str, Any]:
    header = corpus.index.header
    pairs = [(group, records) for group, records in header.groups if group.kind == "pair"]
    sources = Counter[str]()
    for group, records in pairs:
        sources[group.source] += records
    return {
        "documents": header.records - sum(records for _, records in pairs),
        "pairs": sum(records for _, records in pairs),
        "images": header.images,
        "splits": corpus.splits(),
        "sources": dict(sources),
        "left_out": header.quarantined,
    }


def _try_images(corpus: Corpus, names: Sequence[str]) -> dict[str, Any]:
    """Decode some pictures, spread over all."""
    stride = max(1, len(names) // IMAGES_TRIED)
    tried = names[::stride][:IMAGES_TRIED]
    bad = []
    for name in tried:
        try:
            corpus.read_image(name)
        except UserError as error:
            bad.append(str(error))
    return {"tried": len(tried), "unreadable": len(bad), "first": bad[:SHOWN]}
