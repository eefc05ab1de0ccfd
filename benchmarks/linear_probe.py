"""Linear probe: logistic regression on pooled latents of encoders, beside the first one untrained and raw pixels.

Features are standardised by the training images. The weight of the L2 penalty is chosen on every tenth training image,
from the same grid for each kind of features; then the probe is fitted on all and asked once about the test split.
``effective_rank`` is that of the test images: the mean is not subtracted; 1: the encoder has collapsed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lcl_core.common.device import keep_freed_memory
from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.records import CaptionPair
from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.classifiers import LogisticRegression, fit_logistic_regression
from lcl_core.objectives.emu import effective_rank

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # an image
HELD_OUT_EVERY = 10
_BATCH, _ITERATIONS = 512, 100
Features = Callable[[Sequence[Image.Image]], Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", type=Path, required=True, nargs="+", help="directories of encoders")
    parser.add_argument("--corpus", type=Path, required=True, help="captioned images with a label")
    parser.add_argument("--label", default="class")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--limit", type=int, help="images of each split at most, the first ones")
    parser.add_argument("--pixels", type=int, default=28, help="side of the raw pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    start, corpus = time.perf_counter(), open_corpus(options.corpus)
    train, test = (
        labelled(corpus, split, options.label, options.limit) for split in (options.train_split, options.test_split)
    )
    encoders = {path.resolve().name: load_image_encoder(path) for path in options.encoder}
    untrained = next(iter(encoders.values())).random_init()
    kinds = {name: features_of(each.fold_norms()) for name, each in {**encoders, "untrained": untrained}.items()}
    kinds["pixels"] = lambda images: raw_pixels(images, options.pixels)
    rows = {name: measure(corpus, train, test, options.label, features) for name, features in kinds.items()}
    report = {"train": len(train), "test": len(test), "rows": rows, "seconds": round(time.perf_counter() - start, 1)}
    print(json.dumps(report, indent=None if options.json else 1))


def labelled(corpus: Corpus, split: str, label: str, limit: int | None) -> list[CaptionPair]:
    """Raises: UserError where the split has no such images."""
    pairs = [pair for pair in corpus.pairs(split) if label in pair.labels][:limit]
    if not pairs:
        raise UserError(f"no image of split {split!r} has a label {label!r}", code="bad_option", field="label")
    return pairs


def measure(
    corpus: Corpus, train: Sequence[CaptionPair], test: Sequence[CaptionPair], label: str, features: Features
) -> dict[str, float]:
    """Accuracy on ``test``, its standard error, that on held-out training images, the chosen penalty, the rank."""
    classes = sorted({pair.labels[label] for pair in train})
    rows, asked = (read_features(corpus, [pair.image for pair in pairs], features) for pairs in (train, test))
    own, others = (torch.tensor([classes.index(pair.labels[label]) for pair in pairs]) for pairs in (train, test))
    rank = round(float(effective_rank(asked)), 3)
    mean, deviation = rows.mean(0), rows.std(0).clamp_min(1e-6)
    rows, asked = (rows - mean) / deviation, (asked - mean) / deviation
    held_out = torch.arange(len(rows)) % HELD_OUT_EVERY == 0

    def fit(chosen: Tensor, targets: Tensor, penalty: float) -> LogisticRegression:
        return fit_logistic_regression(chosen, targets, len(classes), penalty * len(chosen), iterations=_ITERATIONS)

    def accuracy(model: LogisticRegression, chosen: Tensor, targets: Tensor) -> float:
        return float((model.logits(chosen).argmax(1) == targets).double().mean())

    found = {
        penalty: accuracy(fit(rows[~held_out], own[~held_out], penalty), rows[held_out], own[held_out])
        for penalty in PENALTIES
    }
    best = max(found, key=found.__getitem__)
    value = accuracy(fit(rows, own, best), asked, others)
    error = (value * (1 - value) / len(asked)) ** 0.5
    figures = {"accuracy": round(value, 4), "error": round(error, 4), "held_out": round(found[best], 4)}
    return {**figures, "penalty": best, "effective_rank": rank}


def raw_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """[n, side²] grey levels in [0, 1]."""
    grey = (image.convert("L").resize((side, side), Image.Resampling.BICUBIC) for image in images)
    return torch.stack([torch.tensor(list(each.tobytes()), dtype=torch.float32) / 255 for each in grey])


def features_of(encoder: ImageEncoder) -> Features:
    """Pooled latents; of an encoder without pooling the means of its patches."""

    @torch.inference_mode()
    def features(images: Sequence[Image.Image]) -> Tensor:
        pooled, patches = encoder.encode(encoder.preprocess(images))
        return (patches.mean(1) if pooled is None else pooled).float()

    return features


def read_features(corpus: Corpus, names: Sequence[str], features: Features) -> Tensor:
    """[n, D] of the images with these names. Raises: UserError naming a damaged file."""
    batches = (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))
    return torch.cat([features([corpus.read_image(name) for name in batch]).clone() for batch in batches])
