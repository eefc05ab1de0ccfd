"""The encoder that comes out of a run: a directory that LCLModel, LCLProcessor and the Auto classes load."""

from __future__ import annotations

import hashlib
import shutil
from typing import Any

from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.rundir import RunDir, write_json_atomically
from lcl_core.specs import PretrainSpec
from lcl_core.train.checkpoint import Progress


def export_encoder(
    model: LCLModel,
    processor: LCLProcessor,
    run_dir: RunDir,
    spec: PretrainSpec,
    progress: Progress,
    last_metrics: dict[str, Any],
) -> dict[str, Any]:
    """Write ``artifacts/encoder`` and return the run's result."""
    target = run_dir.artifacts / "encoder"
    beside = run_dir.artifacts / ".encoder.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(beside)
    processor.save_pretrained(beside)
    write_json_atomically(beside / "training.json", spec.model_dump(mode="json"))
    beside.rename(target)
    with (target / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "encoder": {
            "path": "artifacts/encoder",
            "hash": digest,
            "parameters": model.num_parameters(),
            "images_seen": progress.images_seen,
            "documents_seen": progress.documents_seen,
            "tokens_seen": progress.tokens_seen,
            "skipped": progress.skipped,
            "steps": progress.step,
            "seconds": round(progress.seconds, 2),
        },
        "final": last_metrics,
    }
