"""Linear probe: logistic regression on frozen features of encoders, beside the first one untrained and raw pixels.

Features are pooled latents, or means of patch tokens over each cell of a grid (``--cells``): what a latent for contrast
leaves out is still in the patches.

Features are standardised by the training images. The weight of the L2 penalty is chosen on every tenth training image,
from the same grid for each kind of features; then the probe is fitted on all and asked once about the test split.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.device import keep_freed_memory
from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.records import CaptionPair
from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.registry import load_image_encoder

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
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
    parser.add_argument("--cells", type=int, default=0, help="cells a side of the grid of patches; 0: pooled latents")
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
    first = next(iter(encoders.values()))
    untrained = first.random_init().fold_norms()
    kinds = {name: features_of(encoder.fold_norms(), options.cells) for name, encoder in encoders.items()} | {
        "untrained": features_of(untrained, options.cells),
        "pixels": lambda images: raw_pixels(images, options.pixels),
    }
    rows = {name: measure(corpus, train, test, options.label, features) for name, features in kinds.items()}
    report = {"train": len(train), "test": len(test), "cells": options.cells, "rows": rows}
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(report, indent=None if options.json else 1))


def labelled(corpus: Corpus, split: str, label: str, limit: int | None) -> list[CaptionPair]:
    """Raises: UserError where the split has no such images."""
    pairs = [pair for pair in corpus.pairs(split) if label in pair.labels][:limit]
    if not pairs:
        raise UserError(f"no image of split {split!r} has a label {label!r}", code="bad_option", field="label")
    return pairs


@torch.inference_mode()
def measure(
    corpus: Corpus, train: Sequence[CaptionPair], test: Sequence[CaptionPair], label: str, features: Features
) -> dict[str, float]:
    """Accuracy on ``test``, its standard error, the accuracy on held-out training images, and the chosen penalty."""
    classes = sorted({pair.labels[label] for pair in train})
    rows, asked = (read_features(corpus, [pair.image for pair in pairs], features) for pairs in (train, test))
    own, others = (torch.tensor([classes.index(pair.labels[label]) for pair in pairs]) for pairs in (train, test))
    mean, deviation = rows.mean(0), rows.std(0).clamp_min(1e-6)
    rows, asked = (rows - mean) / deviation, (asked - mean) / deviation
    held_out = torch.arange(len(rows)) % HELD_OUT_EVERY == 0
    chosen, best = PENALTIES[0], -1.0
    for penalty in PENALTIES:
        fitted = fit(rows[~held_out], own[~held_out], len(classes), penalty)
        if (found := accuracy(fitted, rows[held_out], own[held_out])) > best:
            chosen, best = penalty, found
    value = accuracy(fit(rows, own, len(classes), chosen), asked, others)
    error = (value * (1 - value) / len(asked)) ** 0.5
    return {"accuracy": round(value, 4), "error": round(error, 4), "held_out": round(best, 4), "penalty": chosen}


@torch.inference_mode(mode=False)
def fit(rows: Tensor, classes: Tensor, count: int, penalty: float) -> Tensor:
    """[n, D], [n] → weights [D + 1, C] of multinomial logistic regression; the last row is the bias, not penalised."""
    rows = F.pad(rows.clone(), (0, 1), value=1.0)
    weights = torch.zeros(rows.shape[1], count, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weights, classes.clone()) + penalty * weights[:-1].square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def accuracy(weights: Tensor, rows: Tensor, classes: Tensor) -> float:
    return ((F.pad(rows, (0, 1), value=1.0) @ weights).argmax(1) == classes).double().mean().item()


def raw_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """[n, side²] grey levels in [0, 1]."""
    grey = (image.convert("L").resize((side, side), Image.Resampling.BICUBIC) for image in images)
    return torch.stack([torch.tensor(list(each.tobytes()), dtype=torch.float32) / 255 for each in grey])


def features_of(encoder: ImageEncoder, cells: int) -> Features:
    """Pooled latents without ``cells``, or of an encoder without pooling means over patches; else means over cells.

    Raises (on use): UserError where the patches are not in a square.
    """

    def features(images: Sequence[Image.Image]) -> Tensor:
        pooled, patches = encoder.encode(encoder.preprocess(images))
        if cells:
            return cell_means(patches.float(), cells)
        return (patches.mean(1) if pooled is None else pooled).float()

    return features


def cell_means(patches: Tensor, cells: int) -> Tensor:
    """Patch tokens [n, S², W] → means over ``cells`` × ``cells`` cells, [n, W * cells²]. Raises: UserError."""
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or cells > side:
        message = f"the encoder's {patches.shape[1]} patches are no square of {cells} cells a side or more"
        raise UserError(message, code="bad_option", field="cells")
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, cells).flatten(1)


def read_features(corpus: Corpus, names: Sequence[str], features: Features) -> Tensor:
    """[n, D] of the images with these names. Raises: UserError naming a damaged file."""
    batches = (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))
    return torch.cat([features([corpus.read_image(name) for name in batch]) for batch in batches])
