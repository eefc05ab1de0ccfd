"""Seconds and peak memory of ranking a large collection both ways: made-up embeddings, memory-mapped, from a seed."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.device import peak_rss_gib
from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics import core
from lcl_core.evaluation.metrics.ranks import Floats, RetrievalRanks, rank_bidirectional

_ROWS_AT_ONCE = 8192
_SIGNAL = 0.2  # share of its image in a text: about half of the texts find theirs first among 100,000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--texts", type=int, default=25_000, help="spread evenly over the images")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--block", type=int, default=1024, help="side of a block of similarities")
    parser.add_argument("--threads", type=int, help="that count; default: one a core, at most four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="accepted; the output is JSON in any case")


def main(options: argparse.Namespace) -> None:
    sizes = (options.images, options.texts, options.width, options.block)
    if min(sizes) < 1 or options.texts < options.images:
        raise UserError("every size must be positive, and there must be a text for each image", code="bad_option")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), *sizes, seed=options.seed, threads=options.threads)
    print(json.dumps(report, indent=1))


def measure(
    folder: Path, images: int, texts: int, width: int, block: int, *, seed: int, threads: int | None = None
) -> dict[str, Any]:
    """Make the embeddings in ``folder``, rank them, and say how long that took and what it found."""
    image_rows, text_rows = embeddings(folder, images, texts, width, seed)
    pairs = np.stack([np.arange(texts) % images, np.arange(texts)], axis=1)
    start = time.perf_counter()
    found = rank_bidirectional(image_rows, text_rows, pairs, block=block, threads=threads)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "peak_rss_gib": round(peak_rss_gib(), 3),
        "images": images,
        "texts": texts,
        "width": width,
        "block": block,
        "similarities_per_s": round(images * texts / seconds),
        **_recalls("TR", found.image_to_text),
        **_recalls("IR", found.text_to_image),
    }


def embeddings(folder: Path, images: int, texts: int, width: int, seed: int) -> tuple[Floats, Floats]:
    """[N, E] and [M, E] unit vectors, memory-mapped; text j lies near image j mod N."""
    rng = np.random.default_rng(seed)
    image_rows = _new(folder / "images.npy", (images, width))
    for rows in _pieces(images):
        image_rows[rows] = _unit(rng.standard_normal((rows.stop - rows.start, width), np.float32))
    text_rows = _new(folder / "texts.npy", (texts, width))
    for rows in _pieces(texts):
        noise = _unit(rng.standard_normal((rows.stop - rows.start, width), np.float32))
        own = image_rows[np.arange(rows.start, rows.stop) % images]
        text_rows[rows] = _unit(noise + np.float32(_SIGNAL) * own)
    return image_rows, text_rows


def _recalls(way: str, ranks: RetrievalRanks) -> dict[str, float]:
    shares = {f"{way}@{k}": round(core.recall_at(ranks.rank, k), 4) for k in (1, 5, 10)}
    return {**shares, f"{way} median rank": core.median_rank(ranks.rank)}


def _new(path: Path, shape: tuple[int, int]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _pieces(total: int) -> list[slice]:
    return [slice(start, min(start + _ROWS_AT_ONCE, total)) for start in range(0, total, _ROWS_AT_ONCE)]


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
