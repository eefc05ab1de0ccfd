"""Spread of the pooled latents of encoders over images: effective rank, and the mean cosine between two images.

Effective rank is exp of the entropy of the singular values' shares; the mean is not subtracted. 1: all latents are
parallel, the encoder has collapsed; at most the number of images or of dimensions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.linear_probe import features_of, read_features
from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.corpus.base import Corpus
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.objectives.emu import effective_rank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", type=Path, required=True, nargs="+", help="directories of encoders")
    parser.add_argument("--corpus", type=Path, required=True, help="captioned images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--source", help="images of this source alone")
    parser.add_argument("--limit", type=int, help="images at most, the first ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    corpus = open_corpus(options.corpus)
    names = image_names(corpus, options.split, options.source, options.limit)
    rows = {
        str(path): measure(read_features(corpus, names, features_of(load_image_encoder(path))))
        for path in options.encoder
    }
    print(json.dumps({"images": len(names), "rows": rows}, indent=None if options.json else 1))


def image_names(corpus: Corpus, split: str, source: str | None, limit: int | None) -> list[str]:
    """Images of the split, each once. Raises: UserError where there are fewer than two."""
    names = [pair.image for pair in corpus.pairs(split) if source in (None, pair.source)]
    names = list(dict.fromkeys(names))[:limit]
    if len(names) < 2:
        wanted = f"split {split!r}" + (f" of source {source!r}" if source else "")
        raise UserError(f"{wanted} has {len(names)} images, two are needed", code="bad_option", field="split")
    return names


def measure(latents: Tensor) -> dict[str, float]:
    """Effective rank of [n, D], and the mean cosine over pairs of different rows."""
    units = F.normalize(latents.double(), dim=1)
    count = len(units)
    cosine = (units.sum(0).square().sum() - count) / (count * (count - 1))
    return {"effective_rank": round(float(effective_rank(latents)), 3), "mean_cosine": round(float(cosine), 4)}
