"""Checkpoint of a trained projector and of what was trained with it.

bridge.json                hashes of the encoder and the language model, sizes
bridge.safetensors         the projector
encoder.safetensors        full transfer: the fine-tuned image encoder
language/                  where the language model was trained: model and tokenizer, Hugging Face layout
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.base import ImageEncoder
from lcl_core.evaluation.vlm.language_model import load_language_model, resolve_language_model
from lcl_core.evaluation.vlm.model import LlavaModel, VisionLanguageModel
from lcl_core.specs.evaluate import LanguageModelSpec

_METADATA, _PROJECTOR, _ENCODER, _LANGUAGE = "bridge.json", "bridge.safetensors", "encoder.safetensors", "language"


def save_vlm(folder: Path, vlm: VisionLanguageModel, encoder: ImageEncoder, spec: LanguageModelSpec) -> None:
    """Write the folder anew.

    Args:
        encoder: with its weights before the training.
        spec: names the language model.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    llava, tuned = vlm.llava, vlm.source.trained_encoder
    save_model(llava.projector, str(folder / _PROJECTOR))
    if tuned is not None:
        save_model(tuned.module, str(folder / _ENCODER))
    if vlm.language_lr is not None:
        llava.language.model.save_pretrained(folder / _LANGUAGE)
        llava.language.tokenizer.save_pretrained(folder / _LANGUAGE)
    metadata = {
        "encoder": encoder.identity["weights"], "width": encoder.width, "tokens": encoder.tokens,
        "language": llava.language.weights_hash, "language_model": spec.model_dump(mode="json"),
    }  # fmt: skip
    write_json_atomically(folder / _METADATA, metadata)


def load_vlm(
    folder: Path,
    encoder: ImageEncoder,
    cache: Path,
    *,
    language_model: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[LlavaModel, ImageEncoder, LanguageModelSpec]:
    """The projector with its language model, its image encoder, and the spec of the language model.

    Args:
        encoder: as it was before the training; a fine-tuned copy is returned where there is one.
        cache: for the unpacked weights of GGUF files.
        language_model: folder of the language model, where it has moved.

    Raises:
        UserError: ``bridge_unreadable``, or the encoder or language model is another one.
    """
    metadata = _read_metadata(folder)
    if encoder.identity["weights"] != metadata["encoder"]:
        raise _unreadable(folder, "was taught on another encoder; name that one")
    spec = LanguageModelSpec(**metadata["language_model"])
    if language_model is not None:
        spec = spec.model_copy(update={"path": language_model})
    trained = (folder / _LANGUAGE).is_dir()
    own = spec.model_copy(update={"path": str(folder / _LANGUAGE)}) if trained else spec
    files = resolve_language_model(own, field="language_model")
    language = load_language_model(files, cache, dtype=dtype, device=encoder.device, field="language_model")
    if not trained and language.weights_hash != metadata["language"]:
        raise _unreadable(folder, "was taught before another language model; name that one")
    llava = LlavaModel(language, metadata["width"], metadata["tokens"], seed=0)
    try:
        load_model(llava.projector, str(folder / _PROJECTOR), device=str(encoder.device))
        if (folder / _ENCODER).is_file():
            encoder = encoder.copy()
            load_model(encoder.module, str(folder / _ENCODER), device=str(encoder.device))
            encoder.module.requires_grad_(False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, f"cannot be read ({error}); evaluate again") from error
    return llava, encoder, spec


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise _unreadable(folder, f"has no {_METADATA} that can be read ({error})") from error


def _unreadable(folder: Path, problem: str) -> UserError:
    return UserError(f"this bridge {problem}", code="bridge_unreadable", field="bridge", file=folder)
