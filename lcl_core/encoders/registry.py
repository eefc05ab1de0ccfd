"""Kinds of encoders: detected from the files of a directory and its small JSON alone, and loaded.

Importing this loads no torch; loading an encoder does.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcl_core.common.errors import UserError
from lcl_core.encoders.files import Hashes, read_json_object, unreadable

if TYPE_CHECKING:
    from lcl_core.encoders.base import ImageEncoder, TextEncoder

CONFIG, OPENCLIP_CONFIG, TOKENIZER = "config.json", "open_clip_config.json", "tokenizer.json"
WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_OPENCLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", WEIGHTS)

IMAGES, TEXTS = "images", "texts"
MODEL_TYPES: dict[str, tuple[str, ...]] = {  # Hugging Face's model_type: what such a model reads
    **dict.fromkeys(("clip", "siglip"), (IMAGES, TEXTS)),
    **dict.fromkeys(
        (
            *("beit", "clip_vision_model", "convnext", "convnextv2", "deit", "dinov2", "dinov2_with_registers"),
            *("dinov3_vit", "ijepa", "resnet", "siglip_vision_model", "swin", "swinv2", "vit", "vit_msn"),
        ),
        (IMAGES,),
    ),
    **dict.fromkeys(("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"), (TEXTS,)),
}


_IMAGE_ENCODERS = {  # module and class, by ``EncoderFormat.kind``
    "lcl": "lcl.LCLEncoder",
    "openclip": "openclip.OpenCLIPImageEncoder",
    "timm": "timm.TimmImageEncoder",
    "huggingface": "huggingface.HuggingFaceImageEncoder",
}
_TEXT_ENCODER = "huggingface.HuggingFaceTextEncoder"  # of a model that reads texts alone


@dataclass(frozen=True)
class EncoderFormat:
    """Format of a saved encoder.

    Attributes:
        kind: ``lcl``, ``openclip``, ``timm`` or ``huggingface``.
        model: the architecture, by its library's name.
        weights: names of the files that hold the weights, sorted.
        reads: ``images``, ``texts`` or both.
    """

    kind: str
    model: str
    weights: tuple[str, ...]
    reads: tuple[str, ...]


def detect_encoder(directory: Path) -> EncoderFormat:
    """The kind of encoder in ``directory``."""
    if (directory / OPENCLIP_CONFIG).is_file():
        return _openclip(directory, _read(directory / OPENCLIP_CONFIG))
    config = _read(directory / CONFIG)
    model_type, architecture = config.get("model_type"), config.get("architecture")
    if model_type == "lcl":
        return EncoderFormat("lcl", "lcl", _single(directory), (IMAGES, TEXTS))
    if isinstance(model_type, str):
        return _huggingface(directory, model_type)
    if isinstance(architecture, str):
        return EncoderFormat("timm", architecture, _single(directory), (IMAGES,))
    reason = "it has neither model_type (Hugging Face, lcl) nor architecture (timm), so its format is unknown"
    raise unreadable(directory / CONFIG, reason)


def load_image_encoder(directory: Path, file_hashes: Hashes | None = None) -> ImageEncoder:
    """Load a saved encoder of any kind, frozen.

    Args:
        file_hashes: sha256 of its files by name, where they are known.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it; ``unsupported`` for one
            that reads texts alone.
    """
    encoder = _import_class(_IMAGE_ENCODERS[detect_image_encoder(directory).kind])
    found: ImageEncoder = encoder.load(directory, file_hashes)
    return found


def detect_image_encoder(directory: Path) -> EncoderFormat:
    """The kind of an encoder that reads images. Raises: UserError as :func:`load_image_encoder`."""
    found = detect_encoder(directory)
    if IMAGES not in found.reads:
        message = f"a model of type {found.model} reads texts alone; give the id of an encoder that reads images"
        raise UserError(message, code="unsupported", field="encoder", file=directory)
    return found


def load_text_encoder(directory: Path, field: str) -> TextEncoder:
    """The text encoder of a saved encoder, or one that was saved alone."""
    try:
        if IMAGES not in detect_encoder(directory).reads:
            found: TextEncoder | None = _import_class(_TEXT_ENCODER).load(directory)
        else:
            found = load_image_encoder(directory).text_encoder
    except UserError as error:
        error.field = field
        raise
    if found is None:
        raise UserError("this encoder reads no texts; name one that does", code="no_text_encoder", field=field)
    return found


def _import_class(name: str) -> Any:
    module, _, own = name.partition(".")
    return getattr(import_module(f"lcl_core.encoders.{module}"), own)


def _read(path: Path) -> dict[str, Any]:
    if not _is_regular_file(path):
        reason = f"there is no {path.name} of its own; give a directory that save_pretrained, timm or OpenCLIP wrote"
        raise unreadable(path.parent, reason)
    return read_json_object(path)


def _openclip(directory: Path, config: dict[str, Any]) -> EncoderFormat:
    model = config.get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("vision_cfg"), dict):
        raise unreadable(directory / OPENCLIP_CONFIG, "it has no model_cfg with a vision_cfg")
    sight = model["vision_cfg"]
    name = sight.get("timm_model_name") or f"vit-{sight.get('width')}x{sight.get('layers')}-{sight.get('patch_size')}"
    found = [each for each in _OPENCLIP_WEIGHTS if _is_regular_file(directory / each)]
    if not found:
        raise _no_weights(directory, _OPENCLIP_WEIGHTS[0])
    return EncoderFormat("openclip", str(name)[:200], (found[0],), (IMAGES, TEXTS))


def _huggingface(directory: Path, model_type: str) -> EncoderFormat:
    if model_type not in MODEL_TYPES:
        reason = (
            f"a model of type {model_type[:80]!r} encodes neither images nor texts in a way that is known here; of "
            f"Hugging Face's models {', '.join(MODEL_TYPES)} are read"
        )
        raise unreadable(directory / CONFIG, reason)
    sharded = _is_regular_file(directory / _SHARDS)
    if sharded and (directory / WEIGHTS).exists():  # the library would load the one, and its index names the others
        raise unreadable(directory, f"{WEIGHTS} and {_SHARDS} are two sets of weights; leave one in the directory")
    weights = _shards(directory) if sharded else _single(directory)
    return EncoderFormat("huggingface", model_type, weights, MODEL_TYPES[model_type])


def _shards(directory: Path) -> tuple[str, ...]:
    named = _read(directory / _SHARDS).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    for name in names:
        if Path(name).name != name or not _is_regular_file(directory / name):
            raise _no_weights(directory, name[:80])
    if not names:
        raise unreadable(directory / _SHARDS, "it names no weights")
    return tuple(names)


def _single(directory: Path) -> tuple[str, ...]:
    if not _is_regular_file(directory / WEIGHTS):
        raise _no_weights(directory, WEIGHTS)
    return (WEIGHTS,)


def _is_regular_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _no_weights(directory: Path, name: str) -> UserError:
    reason = f"there is no {name} of its own; weights are read from safetensors alone, so save it in that form"
    return unreadable(directory, reason)
