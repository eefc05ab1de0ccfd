"""Request sequences of the load benchmarks. Knows no client."""

from __future__ import annotations

import base64
import io
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle, product
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """``expected``: statuses that are right."""

    method: str
    path: str
    body: Json | None = None
    expected: tuple[int, ...] = (200,)


def submissions() -> Iterator[Request]:
    """Small valid runs, none like another."""
    for number in count():
        spec = {"preset": "sample", "steps": number + 1, "seed": number % 2**31}
        yield Request("POST", "/v1/runs", {"kind": "pretrain", "name": f"run {number}", "spec": spec}, (202,))


def mixed() -> Iterator[Request]:
    """Of twenty requests two submit, fourteen read and four are invalid."""
    rng, submitting = random.Random(0), submissions()  # noqa: S311 - no secret
    reads = (
        Request("GET", "/v1/runs"),
        Request("GET", "/v1/runs?state=queued&limit=20"),
        Request("GET", "/v1/runs?kind=pretrain&tag=absent"),
        Request("GET", "/v1/datasets"),
        Request("GET", "/v1/datasets/sample/documents?limit=5"),
        Request("GET", "/v1/datasets/sample/statistics"),
        Request("GET", "/v1/encoders"),
        Request("GET", "/v1/collections"),
        Request("GET", "/v1/studies"),
        Request("GET", "/v1/workers"),
        Request("GET", "/v1/keys/mine"),
        Request("GET", "/v1/specs/pretrain"),
        Request("GET", "/healthz"),
    )
    wrong = (
        Request("GET", "/v1/runs/run_absent/metrics", expected=(404,)),
        Request("GET", "/v1/nowhere", expected=(404,)),
        Request("POST", "/v1/runs", {"kind": "pretrain", "spec": {"steps": -1}}, (422,)),
        Request("GET", "/v1/audit", expected=(403,)),
    )
    while True:
        deck = [*reads, *wrong, next(submitting), next(submitting), Request("GET", "/readyz", expected=(200, 503))]
        rng.shuffle(deck)
        yield from deck


def embeddings() -> Iterator[Request]:
    """One image each, of the encoder called ``bench``."""
    for url in cycle(_images()):
        yield Request("POST", "/v1/embeddings", {"model": "bench", "input": url, "encoding_format": "base64"})


def text_embeddings() -> Iterator[Request]:
    """One text each, as ``searches`` have them, of the encoder called ``bench``."""
    for search in searches():
        assert search.body is not None, "they are texts"
        yield Request("POST", "/v1/embeddings", {"model": "bench", "input": search.body["text"]})


def plain_embeddings() -> Iterator[Request]:
    """The same images, as ``benchmarks.baseline_app`` takes them."""
    for url in cycle(_images()):
        yield Request("POST", "/embed", {"image": url})


def infinity_embeddings() -> Iterator[Request]:
    """The same images, as infinity's service takes them."""
    more = {"model": "bench", "modality": "image", "encoding_format": "base64"}
    for url in cycle(_images()):
        yield Request("POST", "/embeddings", {"input": url, **more})


def searches() -> Iterator[Request]:
    """Texts of three words, none like another, in the collection called ``bench``."""
    words = [name + ending for name in ("cat", "bird", "lamp", "tree", "boat", "moon", "hand") for ending in ("", "s")]
    for first, second, third in cycle(product(words, repeat=3)):
        yield Request("POST", "/v1/collections/bench/search", {"text": f"{first} {second} {third}", "k": 10})


def _images(count: int = 64, side: int = 256) -> list[str]:
    """Data URLs of JPEGs with shapes and some noise, about 20 KB each."""
    import numpy as np
    from PIL import Image

    random, urls = np.random.default_rng(0), []
    for _ in range(count):
        rough = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(rough, np.int16) + random.integers(-12, 13, (side, side, 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        urls.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


def inferences() -> Iterator[Request]:
    """Of twenty requests to ``bench`` nineteen are good, of every kind, and one holds an image that is none."""
    rng, words, bad = random.Random(0), searches(), cycle(_bad_images())  # noqa: S311 - no secret
    pictures = _images()
    while True:
        four, alone = rng.sample(pictures, 4), rng.choice(pictures)
        deck = [
            *(_embed(picture) for picture in rng.sample(pictures, 6)),
            *(_embed(rng.sample(pictures, 4)) for _ in range(2)),
            *(_embed(f"a drawing of {rng.randrange(10**6)} things") for _ in range(4)),
            *(next(words) for _ in range(4)),
            Request("POST", "/v1/collections/bench/search", {"image": alone, "k": 10}),
            Request("POST", "/v1/captions", {"model": "bench", "images": [alone], "max_new_tokens": 8}),
            _embed([*four[:3], "among images a text"]),
            _embed([*four[:2], next(bad), four[3]], (422,)),
        ]
        rng.shuffle(deck)
        yield from deck


def _embed(what: str | list[str], expected: tuple[int, ...] = (200,)) -> Request:
    return Request("POST", "/v1/embeddings", {"model": "bench", "input": what}, expected)


def _bad_images() -> list[str]:
    """No image, half of one, one of 900 million pixels, no base64."""
    whole = base64.b64decode(_images(1)[0].partition(",")[2])
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    vast = header + zlib.crc32(header[12:]).to_bytes(4, "big")
    start = "data:image/png;base64,"
    contents = (b"these are only words", whole[: len(whole) // 3], vast)
    return [*(start + base64.b64encode(content).decode() for content in contents), start + "%%%"]


TRAFFIC: dict[str, Callable[[], Iterator[Request]]] = {
    "submissions": submissions,
    "mixed": mixed,
    "embeddings": embeddings,
    "text embeddings": text_embeddings,
    "plain embeddings": plain_embeddings,
    "infinity embeddings": infinity_embeddings,
    "searches": searches,
    "inferences": inferences,
}
