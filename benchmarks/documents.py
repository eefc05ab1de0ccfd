"""Documents for benchmarks: token ids and seeds of random images, ready in memory before the clock starts."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD
from lcl_core.model import LCLConfig, PackedBatch

_MEAN_TOKENS, _SPREAD = 415, 0.5  # of a document's text; the last sentence adds its half
_IMAGES = (1, 2, 2, 3, 3, 3, 4, 4, 5)  # three on average


def documents_of(path: Path | None, config: LCLConfig) -> list[dict[str, Any]]:
    """Those of a file, or made-up ones."""
    return made_up_documents(config.sot_token_id) if path is None else read_documents(path)


def made_up_documents(vocabulary: int, count: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of the mean lengths that MMC4 is published with, of random tokens below ``vocabulary``."""
    draw = random.Random(seed)  # noqa: S311
    return [_made_up(draw, vocabulary) for _ in range(count)]


def _made_up(draw: random.Random, vocabulary: int) -> dict[str, Any]:
    sentences = list[dict[str, Any]]()
    wanted = draw.lognormvariate(math.log(_MEAN_TOKENS) - _SPREAD**2 / 2, _SPREAD)
    while sum(len(sentence["ids"]) for sentence in sentences) < wanted:
        sentences.append({"ids": [draw.randrange(1, vocabulary) for _ in range(draw.randint(5, 35))]})
    for _ in range(draw.choice(_IMAGES)):
        sentences.insert(draw.randint(0, len(sentences)), {"image": draw.randrange(1 << 31)})
    return {"items": sentences}


def read_documents(path: Path) -> list[dict[str, Any]]:
    """Lines of ``{"items": [{"ids": […]} | {"image": seed}, …]}``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def to_batches(documents: list[dict[str, Any]], config: LCLConfig, batch_size: int) -> list[PackedBatch]:
    """Documents in order, ``batch_size`` a batch, each ``sot items eot`` at its own length."""
    groups = [documents[start : start + batch_size] for start in range(0, len(documents), batch_size)]
    return [_to_batch(group, config) for group in groups]


def _to_batch(documents: list[dict[str, Any]], config: LCLConfig) -> PackedBatch:
    rows = sorted(((_token_ids(document, config), document) for document in documents), key=lambda row: -len(row[0]))
    seeds = [item["image"] for _, document in rows for item in document["items"] if "image" in item]
    return PackedBatch.pack([ids for ids, _ in rows], torch.stack([_image(seed, config) for seed in seeds]), config)


def _token_ids(document: dict[str, Any], config: LCLConfig) -> Tensor:
    image = [config.soi_token_id, *[config.img_token_id] * config.num_image_tokens, config.eoi_token_id]
    body = [token for item in document["items"] for token in (image if "image" in item else item["ids"])]
    return torch.tensor([config.sot_token_id, *body, config.eot_token_id])


def _image(seed: int, config: LCLConfig) -> Tensor:
    side = config.image_size
    levels = np.random.RandomState(seed).randint(0, 256, (side, side, 3))
    return torch.from_numpy((levels / 255 - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1).float()
