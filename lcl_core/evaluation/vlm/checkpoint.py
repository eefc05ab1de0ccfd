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

_METADATA, _BRIDGE, _ENCODER, _LANGUAGE = "bridge.json", "bridge.safetensors", "encoder.safetensors", "language"


def save_vlm(folder: Path, pupil: VisionLanguageModel, encoder: ImageEncoder, spec: LanguageModelSpec) -> None:
    """Write the folder anew.

    Args:
        encoder: the tower as it was before it learnt.
        spec: names the language model.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    speaker, tuned = pupil.speaker, pupil.ground.tower
    save_model(speaker.bridge, str(folder / _BRIDGE))
    if tuned is not None:
        save_model(tuned.module, str(folder / _ENCODER))
    if pupil.language_lr is not None:
        speaker.language.model.save_pretrained(folder / _LANGUAGE)
        speaker.language.tokenizer.save_pretrained(folder / _LANGUAGE)
    facts = {
        "encoder": encoder.identity["weights"], "width": encoder.width, "tokens": encoder.tokens,
        "language": speaker.language.weights_hash, "language_model": spec.model_dump(mode="json"),
    }  # fmt: skip
    write_json_atomically(folder / _METADATA, facts)


def load_vlm(
    folder: Path,
    encoder: ImageEncoder,
    cache: Path,
    *,
    language_model: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[LlavaModel, ImageEncoder, LanguageModelSpec]:
    """The speaker, the encoder that it sees with, and how its language model was named.

    Args:
        encoder: what the bridge was taught on; a copy is returned where it was tuned.
        cache: for the unpacked weights of GGUF files.
        language_model: folder of the language model, where it lies elsewhere now.

    Raises:
        UserError: ``bridge_unreadable``, or the encoder or language model is another one.
    """
    facts = _read_metadata(folder)
    if encoder.identity["weights"] != facts["encoder"]:
        raise _unreadable(folder, "was taught on another encoder; name that one")
    spec = LanguageModelSpec(**facts["language_model"])
    if language_model is not None:
        spec = spec.model_copy(update={"path": language_model})
    trained = (folder / _LANGUAGE).is_dir()
    own = spec.model_copy(update={"path": str(folder / _LANGUAGE)}) if trained else spec
    files = resolve_language_model(own, field="language_model")
    language = load_language_model(files, cache, dtype=dtype, device=encoder.device, field="language_model")
    if not trained and language.weights_hash != facts["language"]:
        raise _unreadable(folder, "was taught before another language model; name that one")
    speaker = LlavaModel(language, facts["width"], facts["tokens"], seed=0)
    try:
        load_model(speaker.bridge, str(folder / _BRIDGE), device=str(encoder.device))
        if (folder / _ENCODER).is_file():
            encoder = encoder.copy()
            load_model(encoder.module, str(folder / _ENCODER), device=str(encoder.device))
            encoder.module.requires_grad_(False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, f"cannot be read ({error}); evaluate again") from error
    return speaker, encoder, spec


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise _unreadable(folder, f"has no {_METADATA} that can be read ({error})") from error


def _unreadable(folder: Path, why: str) -> UserError:
    return UserError(f"this bridge {why}", code="bridge_unreadable", field="bridge", file=folder)
