"""Corpora as the API shows them: opened on demand, counted, checked and leafed through. Imports readers when asked."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from api.errors import Problem
from lcl_core.errors import UserError

if TYPE_CHECKING:
    from lcl_core.data.corpus import Corpus
    from lcl_core.data.pairs import Pair

MAX_OPEN = 8
IMAGES_TRIED = 200
SHOWN = 20
View = Literal["interleaved", "pairs"]
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


class Corpora:
    """The corpora that somebody looked at lately. Thread-safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Path, int], Corpus] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> Corpus:
        """Open, or opened before and unchanged since. Raises: UserError naming the file."""
        from lcl_core.data.corpus import open_corpus

        key = (path, path.stat().st_mtime_ns if path.exists() else 0)
        with self._lock:
            if key not in self._open:
                self._open[key] = open_corpus(path)
                while len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return self._open[key]


def confined(path: str, roots: Sequence[Path]) -> Path:
    """The real path, links resolved, if it lies in one of ``roots``. Raises: Problem 422."""
    real = Path(path).expanduser().resolve()
    allowed = [Path(root).expanduser().resolve() for root in roots]
    if not any(real.is_relative_to(root) for root in allowed):
        message = (
            f"{path} is outside the folders that may be read ({', '.join(map(str, allowed))}); "
            "put it there or add its folder to LCL_DATA_ROOTS"
        )
        raise Problem(422, "path_forbidden", message, field="path")
    if not real.exists():
        raise Problem(422, "missing_files", f"{path}: there is no such file or folder", field="path")
    return real


def examine(corpus: Corpus) -> dict[str, Any]:
    """Read every line and try some pictures; the corpus's figures.

    Raises:
        UserError: with file and line of the first malformed line.
    """
    names, sentences, documents = Counter[str](), 0, 0
    for document in corpus.documents:
        documents += 1
        sentences += len(document["text_list"])
        names.update(image["image_name"] for image in document["image_info"])
    pairs = corpus.pairs()
    labels: dict[str, Counter[str]] = {}
    captions = 0
    for pair in pairs:
        names[pair.image] += 1
        captions += len(pair.captions)
        for label, value in pair.labels.items():
            labels.setdefault(label, Counter())[value] += 1
    return {
        "documents": documents,
        "sentences": sentences,
        "pairs": len(pairs),
        "captions": captions,
        "images": len(names),
        "splits": corpus.splits(),
        "labels": {
            label: {"values": len(found), "most_common": dict(found.most_common(SHOWN))}
            for label, found in labels.items()
        },
        "image_check": _try_images(corpus, sorted(names)),
    }


def page(corpus: Corpus, name: str, view: View, offset: int, limit: int) -> dict[str, Any]:
    """Documents, or captioned images, with their pictures' addresses in place."""
    if view == "pairs":
        pairs = corpus.pairs()
        rows = [pairs[place] for place in range(offset, min(offset + limit, len(pairs)))]
        items = [_pair_item(name, offset + place, pair) for place, pair in enumerate(rows)]
        return {"items": items, "total": len(pairs), "offset": offset}
    documents = corpus.documents
    places = range(offset, min(offset + limit, len(documents)))
    items = [_document_item(name, place, documents[place]) for place in places]
    return {"items": items, "total": len(documents), "offset": offset}


def picture(corpus: Corpus, image: str) -> tuple[bytes, str]:
    """The file's bytes and what they are. Raises: Problem 404; 422 for what no browser may be given."""
    try:
        data = corpus.image_bytes(image)
    except UserError as error:
        raise Problem(404, "unknown_image", str(error)) from error
    for start, media_type in SIGNATURES:
        if data.startswith(start):
            return data, media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, "image/webp"
    raise Problem(422, "image_unreadable", f"{image}: not a PNG, JPEG, GIF or WebP file")


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


def _document_item(name: str, place: int, document: dict[str, Any]) -> dict[str, Any]:
    """Each picture stands before the sentence it was matched to."""
    texts, images = document["text_list"], document["image_info"]
    segments: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        segments += [_image(name, image) for image in images if image["matched_text_index"] == number]
        segments.append({"text": text})
    segments += [_image(name, image) for image in images if not 0 <= image["matched_text_index"] < len(texts)]
    return {"id": str(document.get("id") or document.get("url") or place), "segments": segments}


def _image(name: str, image: dict[str, Any]) -> dict[str, Any]:
    file = image["image_name"]
    return {"image": file, "image_url": image_url(name, file), "similarity": image["matched_sim"]}


def _pair_item(name: str, place: int, pair: Pair) -> dict[str, Any]:
    texts: Iterable[dict[str, Any]] = ({"text": caption} for caption in pair.captions)
    picture_ = {"image": pair.image, "image_url": image_url(name, pair.image)}
    facts = {"labels": pair.labels, "split": pair.split, "source": pair.source}
    return {"id": str(place), "segments": [picture_, *texts], **facts}


def image_url(name: str, image: str) -> str:
    return f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}"
