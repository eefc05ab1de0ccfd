"""What a training step of each objective costs, in useful operations, relative to ``lcl`` on the same documents.

Counted for the paper's ViT-B/32 over an epoch of a corpus as each view gives it: whole documents, and each matched
image with its sentence. Objectives that learn from pairs alone have no count over documents.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lcl_core.data import SAMPLE_CORPUS, Sample, SampleStream, clip_tokenizer, open_corpus
from lcl_core.model import LCLConfig
from lcl_core.objectives import OBJECTIVES, build_objective
from lcl_core.specs.data import VIEW_ITEMS, DataSpec, SourceSpec, View
from lcl_core.specs.pretrain import METHODS, ObjectiveSpec

_VIEWS: tuple[View, ...] = ("interleaved", "matched_pairs")
_DOCUMENTS = 32  # in a batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, default=SAMPLE_CORPUS, help="its documents are counted")
    parser.add_argument("--documents", type=int, default=10_000, help="of each view at most")


def main(options: argparse.Namespace) -> None:
    config = LCLConfig()
    report = {view: _report(config, list(_rows(options, config, view)), view) for view in _VIEWS}
    print(json.dumps(report, indent=1))


def _rows(options: argparse.Namespace, config: LCLConfig, view: View) -> Iterator[Tensor]:
    """Token ids of an epoch's documents."""
    data, corpora = DataSpec(sources=(SourceSpec(dataset="it", view=view),)), {"it": open_corpus(options.corpus)}
    stream = SampleStream(
        data, corpora, clip_tokenizer(), config.num_image_tokens, config.patch_size, config.context_length, seed=0
    )
    for position in range(min(stream.documents_per_epoch, options.documents)):
        sample = stream[position]
        if isinstance(sample, Sample):
            yield torch.from_numpy(sample.token_ids).long()


def _report(config: LCLConfig, rows: list[Tensor], view: View) -> dict[str, object]:
    names = [name for name in OBJECTIVES if VIEW_ITEMS[view] in METHODS[name].reads]
    flops = {name: _flops(name, config, rows) for name in names}
    images = sum(_images(row, config) for row in rows)
    return {
        "documents": len(rows),
        "images": images,
        "gflop_per_image": {name: round(count / images / 1e9, 2) for name, count in flops.items()},
        "relative_to_lcl": {name: round(count / flops["lcl"], 3) for name, count in flops.items()},
    }


def _flops(name: str, config: LCLConfig, rows: list[Tensor]) -> float:
    objective, total = build_objective(ObjectiveSpec.model_validate({"name": name}), config), 0.0
    for start in range(0, len(rows), _DOCUMENTS):
        batch = rows[start : start + _DOCUMENTS]
        pictures = torch.empty(sum(_images(row, config) for row in batch), 3, 0, 0)
        total += objective.flops(config, objective.collate(batch, pictures, config))
    return total


def _images(row: Tensor, config: LCLConfig) -> int:
    return int((row == config.soi_token_id).sum())
