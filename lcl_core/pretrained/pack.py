"""A trained encoder made small enough to come with the product: its weights rounded to bf16."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lcl_core.errors import UserError
from lcl_core.rundir import write_json_atomically

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_KEPT = ("processor_config.json", "tokenizer.json", "training.json")


def pack(source: Path, target: Path, info: dict[str, Any]) -> str:
    """Write ``source``, the directory of an encoder, rounded to ``target``, which must not be there yet.

    Args:
        info: what ``origin.json`` shall say of it beside the hash.

    Returns: sha256 of the rounded weights.

    Raises:
        UserError: ``encoder_unreadable``, or ``exists`` for a target that is there.
    """
    if target.exists():
        raise UserError("there is something here already; name another folder", code="exists", file=target)
    try:
        weights = load_file(source / _WEIGHTS)
        config = json.loads((source / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"not the directory of an encoder: {error}", code="encoder_unreadable", file=source) from error
    target.mkdir(parents=True)
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    save_file(rounded, target / _WEIGHTS, metadata={"format": "pt"})
    write_json_atomically(target / _CONFIG, {**config, "dtype": "bfloat16"})
    for name in _KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    with (target / _WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_json_atomically(target / "origin.json", {"hash": digest, **info})
    return digest
