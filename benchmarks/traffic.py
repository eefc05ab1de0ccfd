"""Request sequences of the load benchmarks. Knows no client."""

from __future__ import annotations

import base64
import io
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


TRAFFIC: dict[str, Callable[[], Iterator[Request]]] = {
    "submissions": submissions,
    "embeddings": embeddings,
    "text embeddings": text_embeddings,
    "plain embeddings": plain_embeddings,
    "searches": searches,
}
