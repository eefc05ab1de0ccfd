"""Detect the kind of encoder in a directory, from its files and small JSON alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.encoders.file_hashes import combined_weights_hash
from lcl_core.encoders.schemas.base import read_json_object
from lcl_core.encoders.schemas.huggingface import IMAGES, MODEL_TYPES, TEXTS

CONFIG, OPENCLIP_CONFIG = "config.json", "open_clip_config.json"
WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_OPENCLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", WEIGHTS)

Json = dict[str, Any]


@dataclass(frozen=True)
class EncoderFormat:
    """Format of a saved encoder.

    Attributes:
        kind: ``lcl``, ``openclip``, ``timm``, ``huggingface`` or ``efficientnet-lite``.
        model: the architecture, by its library's name.
        weights: names of the files that hold the weights, sorted.
        reads: ``images``, ``texts`` or both.
    """

    kind: str
    model: str
    weights: tuple[str, ...]
    reads: tuple[str, ...]


def detect_encoder(directory: Path) -> EncoderFormat:
    """The kind of encoder in ``directory``.

    Raises:
        UserError: ``bad_encoder``, naming the directory or file and what is missing.
    """
    if (directory / OPENCLIP_CONFIG).is_file():
        return _openclip(directory, _read(directory / OPENCLIP_CONFIG))
    config = _read(directory / CONFIG)
    for describes, make in _CONFIG_RULES:
        if describes(config):
            return make(directory, config)
    raise UserError(
        "it has neither model_type (Hugging Face, lcl) nor architecture (timm), so its format is unknown",
        code="bad_encoder", file=directory / CONFIG,
    )  # fmt: skip


def is_kind(directory: Path, kind: str) -> bool:
    """Does an encoder of that kind lie there?"""
    try:
        return detect_encoder(directory).kind == kind
    except UserError:
        return False


def hash_weights(directory: Path, weights: tuple[str, ...]) -> str:
    """sha256 (hex) of the file, or of the files' names and hashes where there are several."""
    return combined_weights_hash({name: sha256_file(directory / name) for name in weights}, weights)


def _read(path: Path) -> Json:
    if not path.is_file() or path.is_symlink():
        raise UserError(
            f"there is no {path.name} of its own; give a directory that save_pretrained, timm or OpenCLIP wrote",
            code="bad_encoder", file=path.parent,
        )  # fmt: skip
    try:
        return read_json_object(path)
    except UserError as error:
        raise UserError(error.message, code="bad_encoder", file=path) from error


def _openclip(directory: Path, config: Json) -> EncoderFormat:
    model = config.get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("vision_cfg"), dict):
        raise UserError("it has no model_cfg with a vision_cfg", code="bad_encoder", file=directory / OPENCLIP_CONFIG)
    sight = model["vision_cfg"]
    name = sight.get("timm_model_name") or f"vit-{sight.get('width')}x{sight.get('layers')}-{sight.get('patch_size')}"
    found = [each for each in _OPENCLIP_WEIGHTS if _is_regular_file(directory / each)]
    if not found:
        raise _no_weights(directory, _OPENCLIP_WEIGHTS[0])
    return EncoderFormat("openclip", str(name)[:200], (found[0],), (IMAGES, TEXTS))


def _lcl(directory: Path, config: Json) -> EncoderFormat:
    return EncoderFormat("lcl", "lcl", _single(directory), (IMAGES, TEXTS))


def _timm(directory: Path, config: Json) -> EncoderFormat:
    return EncoderFormat("timm", config["architecture"], _single(directory), (IMAGES,))


def _efficientnet(directory: Path, config: Json) -> EncoderFormat:
    return EncoderFormat("efficientnet-lite", config["architecture"], _single(directory), (IMAGES,))


def _huggingface(directory: Path, config: Json) -> EncoderFormat:
    if config["model_type"] not in MODEL_TYPES:
        raise UserError(
            f"a model of type {config['model_type'][:80]!r} encodes neither images nor texts in a way that is known "
            f"here; of Hugging Face's models {', '.join(MODEL_TYPES)} are read",
            code="bad_encoder", file=directory / CONFIG,
        )  # fmt: skip
    sharded = _is_regular_file(directory / _SHARDS)
    if sharded and (directory / WEIGHTS).exists():  # the library would load the one, and its index names the others
        message = f"{WEIGHTS} and {_SHARDS} are two sets of weights; leave one in the directory"
        raise UserError(message, code="bad_encoder", file=directory)
    weights = _shards(directory) if sharded else _single(directory)
    return EncoderFormat("huggingface", config["model_type"], weights, MODEL_TYPES[config["model_type"]])


# Whose configuration it is, the most particular first.
_CONFIG_RULES: tuple[tuple[Callable[[Json], bool], Callable[[Path, Json], EncoderFormat]], ...] = (
    (lambda config: config.get("model_type") == "lcl", _lcl),
    (lambda config: isinstance(config.get("model_type"), str), _huggingface),
    (lambda config: str(config.get("architecture", "")).startswith("efficientnet-lite"), _efficientnet),
    (lambda config: isinstance(config.get("architecture"), str), _timm),
)


def _shards(directory: Path) -> tuple[str, ...]:
    index = _read(directory / _SHARDS)
    named = index.get("weight_map")
    values = list(named.values()) if isinstance(named, dict) else []
    names = sorted(set(filter(_is_text, values)))
    for name in [*filterfalse(_is_text, values), *names]:
        if not _is_text(name) or Path(name).name != name or not _is_regular_file(directory / name):
            raise _no_weights(directory, str(name)[:80])
    if not names:
        raise UserError("it names no weights", code="bad_encoder", file=directory / _SHARDS)
    return tuple(names)


def _single(directory: Path) -> tuple[str, ...]:
    if not _is_regular_file(directory / WEIGHTS):
        raise _no_weights(directory, WEIGHTS)
    return (WEIGHTS,)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_regular_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _no_weights(directory: Path, name: str) -> UserError:
    return UserError(
        f"there is no {name} of its own; weights are read from safetensors alone, so save it in that form",
        code="bad_encoder", file=directory,
    )  # fmt: skip
