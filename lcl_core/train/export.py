"""The encoder that comes out of a run: a directory that LCLModel, LCLProcessor and the Auto classes load."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.rundir import RunDir, write_json_atomically
from lcl_core.specs import PretrainSpec
from lcl_core.train.checkpoint import Progress
from lcl_core.train.ema import Ema


def export_encoder(
    model: LCLModel,
    processor: LCLProcessor,
    run_dir: RunDir,
    spec: PretrainSpec,
    progress: Progress,
    last_metrics: dict[str, Any],
    ema: Ema | None = None,
) -> dict[str, Any]:
    """Write ``artifacts/encoder`` with the averaged weights, if there are such, and return the run's result.

    All ranks call this, since sharded weights are gathered; rank 0 writes, and the others return an empty result.
    ``training.json`` holds the spec and says in ``weights`` which they are: ``ema`` or ``last``.
    """
    with nullcontext() if ema is None else ema.swapped():
        tensors = whole_tensors(model)
    if _rank() > 0:
        return {}
    target = run_dir.artifacts / "encoder"
    beside = run_dir.artifacts / ".encoder.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(beside, state_dict=tensors)
    processor.save_pretrained(beside)
    weights = "last" if ema is None else "ema"
    write_json_atomically(beside / "training.json", {**spec.model_dump(mode="json"), "weights": weights})
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
            "left_out": progress.left_out,
            "steps": progress.step,
            "seconds": round(progress.seconds, 2),
        },
        "final": last_metrics,
    }


def whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the model's tensors on the CPU; empty on ranks other than 0, which help to gather."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if _rank() == 0:
            tensors[name] = whole.detach().to("cpu", copy=True)
    return tensors


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
