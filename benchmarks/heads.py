"""What a second head costs: an evaluation of one, then of another on the features that the first left in the cache.

Without ``--encoder`` the encoder is a ViT-B/32 at 224 pixels with the weights that it starts from.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lcl_core.common.run_dir import RunDir
from lcl_core.data import SAMPLE_CORPUS, train_bpe
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.model import LCLConfig, LCLProcessor
from lcl_core.train.factory import build_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", type=Path, help="a saved encoder's directory")
    parser.add_argument("--corpus", type=Path, default=SAMPLE_CORPUS)
    parser.add_argument("--train-split", default="test_vendor")
    parser.add_argument("--split", default="test_concept")
    parser.add_argument("--label", default="group")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--heads", type=int, default=2, help="evaluations, each with a seed of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options)
    print(json.dumps(report, indent=None if options.json else 1))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each evaluation, and the later ones as shares of the first."""
    encoder = options.encoder or save_base_encoder(folder / "encoder")
    seconds, result = [], {}
    for seed in range(options.heads):
        run_dir = _prepared(folder, encoder, options, seed)
        start = time.perf_counter()
        result = evaluate(run_dir)
        seconds.append(time.perf_counter() - start)
    return {
        "first_s": round(seconds[0], 2),
        "later_s": [round(each, 2) for each in seconds[1:]],
        "later_of_first": [round(each / seconds[0], 3) for each in seconds[1:]],
        "pictures_asked": result["rows"][0]["count"],
        "epochs": options.epochs,
        "threads": torch.get_num_threads(),
    }


def save_base_encoder(folder: Path) -> Path:
    """The paper's ViT-B/32 with a text tower that is as small as may be: the bench reads no texts."""
    tokenizer = train_bpe(["a few words"], 300)
    specials = tokenizer.specials
    config = LCLConfig(
        image_size=224, patch_size=32, vision_width=768, vision_layers=12, vision_head_width=64,
        text_width=64, text_layers=1, text_heads=1, context_length=64, vocab_size=tokenizer.vocab_size,
        sot_token_id=specials.sot, eot_token_id=specials.eot, img_token_id=specials.img,
        soi_token_id=specials.soi, eoi_token_id=specials.eoi,
    )  # fmt: skip
    build_model(config, seed=0).save_pretrained(folder)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(folder)
    return folder


def _prepared(folder: Path, encoder: Path, options: argparse.Namespace, seed: int) -> RunDir:
    spec = {
        "encoder": "encoder", "dataset": "corpus", "splits": [options.split], "tasks": ["classification"],
        "classification": {
            "labels": [options.label], "train_split": options.train_split, "epochs": options.epochs,
        },
        "untrained_baseline": False, "figures": False, "seed": seed,
    }  # fmt: skip
    run_dir = RunDir(folder / f"run{seed}")
    run_dir.path.mkdir()
    places = {"datasets": {"corpus": str(options.corpus)}, "encoders": {"encoder": str(encoder)}}
    run_dir.prepare(
        {"run_id": f"run{seed}", "kind": "evaluate", "spec": spec, "cache": str(folder / "cache"), **places}
    )
    return run_dir
