"""``python -m lcl_core.pretrained RUN OUT``: pack a run's encoder, rounded to bf16, to come with the product."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file, write_json_atomically

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_COPIED = ("processor_config.json", "tokenizer.json", "training.json")


def pack(source: Path, target: Path, info: dict[str, Any]) -> str:
    """Write ``source``, the directory of an encoder, rounded to ``target``, which must not be there yet.

    Args:
        info: what ``origin.json`` shall say of it beside the hash.

    Returns: sha256 of the rounded weights.

    Raises:
        UserError: ``encoder_unreadable``, or ``exists`` for a target that is there.
    """
    if target.exists():
        raise UserError("there is something here already; name another folder", code="conflict", file=target)
    try:
        weights = load_file(source / _WEIGHTS)
        config = json.loads((source / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"not the directory of an encoder: {error}", code="encoder_unreadable", file=source) from error
    target.mkdir(parents=True)
    rounded = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    save_file(rounded, target / _WEIGHTS, metadata={"format": "pt"})
    write_json_atomically(target / _CONFIG, {**config, "dtype": "bfloat16"})
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    digest = sha256_file(target / _WEIGHTS)
    write_json_atomically(target / "origin.json", {"hash": digest, **info})
    return digest


_INFO_FIELDS = ("parameters", "images_seen", "documents_seen", "tokens_seen", "steps", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lcl_core.pretrained", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a finished pre-training")
    parser.add_argument("out", type=Path, help="folder to make")
    options = parser.parse_args()
    try:
        digest = pack(options.run / "artifacts" / "encoder", options.out, _run_info(options.run / "result.json"))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{digest}\n")
    return 0


def _run_info(result: Path) -> dict[str, object]:
    try:
        said = json.loads(result.read_text(encoding="utf-8"))["encoder"]
    except (OSError, ValueError, KeyError) as error:
        message = f"a run that made an encoder says so here ({error})"
        raise UserError(message, code="encoder_unreadable", file=result) from error
    return {name: said[name] for name in _INFO_FIELDS if name in said}


if __name__ == "__main__":
    sys.exit(main())
