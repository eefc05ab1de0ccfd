"""Checkpoints for exact resume: written beside and renamed, checksummed, the newest valid one wins.

    checkpoints/step_00000100/
      model.safetensors       weights
      optimizer.safetensors   first and second moments by parameter name, and the step of each
      state.json              step, data position, counters
      manifest.json           sha256 of the files above; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcl_core.rundir import write_json_atomically

if TYPE_CHECKING:
    from lcl_core.model import LCLModel

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Progress:
    """Where a run stands; all that is not a tensor.

    Attributes:
        step: optimiser steps done.
        position: the next document of the stream, one counter for all sources and epochs.
        images_seen, documents_seen, tokens_seen: what the steps have read.
        skipped: documents left out so far, by reason.
        seconds: training time of all attempts.
        pending: (contrastive loss, generation loss, accuracy) of the steps since the last metric line.
    """

    step: int = 0
    position: int = 0
    images_seen: int = 0
    documents_seen: int = 0
    tokens_seen: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    pending: list[list[float]] = field(default_factory=list)


def save_checkpoint(
    folder: Path, model: LCLModel, optimizer: torch.optim.Optimizer, progress: Progress, keep: int
) -> Path:
    """Write the checkpoint of ``progress.step``, then drop all but the newest ``keep``."""
    target = folder / f"step_{progress.step:08d}"
    beside = folder / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, beside / _FILES[0])
    save_file(_optimizer_tensors(model, optimizer), beside / _FILES[1])
    write_json_atomically(beside / _FILES[2], asdict(progress))
    write_json_atomically(beside / "manifest.json", {name: _sha256(beside / name) for name in _FILES})
    if target.exists():
        shutil.rmtree(target)
    beside.rename(target)
    for old in _checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path, model: LCLModel, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Restore the newest checkpoint that is whole, or none. A torn one is named on standard error and passed over."""
    for path in _checkpoints(folder):
        if problem := _damage(path):
            print(f"checkpoint {path.name} is passed over: {problem}", file=sys.stderr)  # noqa: T201
            continue
        model.load_state_dict(load_file(path / _FILES[0]))
        _restore_optimizer(model, optimizer, load_file(path / _FILES[1]))
        return Progress(**json.loads((path / _FILES[2]).read_text(encoding="utf-8")))
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), reverse=True)


def _damage(path: Path) -> str | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        wrong = [name for name in _FILES if manifest[name] != _sha256(path / name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"checksum of {', '.join(wrong)} does not match" if wrong else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _optimizer_tensors(model: LCLModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {"rng": torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            tensors |= {f"{name}.{moment}": state[moment].contiguous() for moment in _MOMENTS}
    return tensors


def _restore_optimizer(model: LCLModel, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["rng"])
    for name, parameter in model.named_parameters():
        if f"{name}.step" in tensors:
            moved = {moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS}
            optimizer.state[parameter] = moved
