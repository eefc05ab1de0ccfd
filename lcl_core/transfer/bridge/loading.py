"""Reading a language model: from safetensors as it lies there, from GGUF once and from then on as safetensors."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from lcl_core.errors import UserError
from lcl_core.transfer.bridge.finding import LanguageFiles
from lcl_core.transfer.bridge.language import LanguageModel

_NOT_READABLE = (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError, SafetensorError)


def load_language_model(
    files: LanguageFiles, cache: Path, *, dtype: torch.dtype, device: torch.device, field: str
) -> LanguageModel:
    """The model on ``device``, frozen, and its tokenizer. Code that lies beside the weights is never run.

    Args:
        cache: folder where the unpacked weights of GGUF files are kept, in full precision.
        dtype: of the weights.
        field: of the evaluation's spec that names the model, for messages.

    Raises:
        UserError: ``language_model_unreadable``.
    """
    digest = _digest(files.weights)
    try:
        directory = files.directory
        if files.gguf:
            directory = _unpacked(files, cache / f"{digest[:32]}-{transformers.__version__}")
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True, **_HERE)
        tokenizer = AutoTokenizer.from_pretrained(directory, **_HERE)
    except _NOT_READABLE as error:
        raise UserError(
            f"the language model cannot be read: {error}", code="language_model_unreadable", field=field,
            file=files.directory,
        ) from error  # fmt: skip
    model.to(device)  # type: ignore[arg-type]
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, digest, field=field)


_HERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _unpacked(files: LanguageFiles, entry: Path) -> Path:
    """The folder with the model as safetensors; built beside and renamed, so a reader sees all of it or nothing."""
    if entry.is_dir():
        return entry
    file = files.weights[0]
    packed = {"gguf_file": file.name, **_HERE}
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **packed
    )
    entry.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".making-"))
    try:
        model.save_pretrained(building)
        AutoTokenizer.from_pretrained(file.parent, **packed).save_pretrained(building)
        building.rename(entry)
    except OSError:
        if not entry.is_dir():  # else another process made the same entry first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return entry


def _digest(files: tuple[Path, ...]) -> str:
    """sha256 of the weights' file, or of the hashes of several."""
    each = []
    for file in files:
        with file.open("rb") as opened:
            each.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()
