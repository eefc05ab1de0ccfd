"""Export formats: the registry, and what every writer reads from an encoder and writes beside its own files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.detect import CONFIG, WEIGHTS, detect_encoder
from lcl_core.encoders.schemas.validate import check_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from lcl_core.model import LCLConfig


@dataclass(frozen=True)
class ExportFormat:
    """What an encoder of ours can leave as.

    Attributes:
        writer: module of this package; its ``write(directory, target)`` makes the files.
        carries: for people, what arrives there.
    """

    writer: str
    carries: str


FORMATS = {
    "huggingface": ExportFormat("huggingface", "both towers for transformers, with the code that computes them"),
    "openclip": ExportFormat(
        "openclip", "nothing: OpenCLIP has no place for the attentive pooling, and the refusal says why"
    ),
    "timm": ExportFormat("timm", "the vision tower and its patch tokens, as a VisionTransformer"),
    "onnx": ExportFormat("onnx", "both towers up to L2-normalised vectors, for any ONNX runtime"),
}


def export(name: str, directory: Path, target: Path) -> None:
    """Write the encoder of ``directory`` in a format of others into ``target``, which is new or empty.

    Raises:
        UserError: ``not_expressible`` (field ``format``) when the format cannot hold it, ``bad_encoder`` when there is
            none, ``bad_target`` when something lies in ``target``, ``missing_extra`` when a library is missing.
    """
    check_exportable(name, directory)
    check_encoder(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("something lies there already; name a new directory", code="bad_target", file=target)
    writer = import_module(f"{__package__}.{FORMATS[name].writer}")
    target.mkdir(parents=True, exist_ok=True)
    writer.write(directory, target)


def check_exportable(name: str, directory: Path) -> None:
    """What can be said without reading weights. Raises: UserError as :func:`export`."""
    if name not in FORMATS:
        raise UserError(f"the formats are {', '.join(FORMATS)}", code="not_expressible", field="format")
    origin = detect_encoder(directory)
    if origin.kind != "lcl":
        raise UserError(
            f"this is an encoder of {origin.kind}'s own, and only those of ours are rewritten in other formats; "
            "take it as it is, with format=lcl",
            code="not_expressible", field="format",
        )  # fmt: skip
    if name == "openclip":
        from lcl_core.encoders.export.openclip import refusal

        raise refusal()


PROCESSOR, TOKENIZER, IMAGE_PROCESSOR = "processor_config.json", "tokenizer.json", "preprocessor_config.json"
CARD = "README.md"


def read_json(path: Path) -> dict[str, Any]:
    """Raises: UserError ``encoder_unreadable`` naming the file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"this cannot be read ({error})", code="encoder_unreadable", file=path) from error


def read_config(directory: Path) -> LCLConfig:
    """Raises: UserError ``encoder_unreadable``."""
    from lcl_core.model import LCLConfig

    settings = read_json(directory / CONFIG)
    try:
        return LCLConfig(**settings)
    except (ValueError, TypeError) as error:
        message = f"this is no configuration of ours ({error})"
        raise UserError(message, code="encoder_unreadable", file=directory / CONFIG) from error


def read_weights(directory: Path, config: LCLConfig) -> dict[str, Tensor]:
    """Every tensor in fp32, by its name. Raises: UserError ``encoder_unreadable`` when they do not fit ``config``."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lcl_core.model import LCLModel

    try:
        found = {name: tensor.float() for name, tensor in load_file(directory / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights cannot be read ({error})", code="encoder_unreadable", file=directory) from error
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in LCLModel(config).state_dict().items()}
    wrong = sorted(name for name, shape in wanted.items() if name not in found or found[name].shape != shape)
    if wrong:
        message = f"the weights do not fit the configuration; the first of {len(wrong)} is {wrong[0]}"
        raise UserError(message, code="encoder_unreadable", file=directory / WEIGHTS)
    return found


def write_inputs(directory: Path, target: Path) -> None:
    """Tokenizer, processor, and the pictures' transform in the words that transformers' image processors use."""
    from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD

    size = read_json(directory / PROCESSOR)["image_size"]
    for name in (TOKENIZER, PROCESSOR):
        shutil.copyfile(directory / name, target / name)
    transform = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": size}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": size, "width": size},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD),
    }  # fmt: skip
    write_json_atomically(target / IMAGE_PROCESSOR, transform)


def write_model_card(target: Path, title: str, words: str, recipe: str) -> None:
    """A README with how to load it."""
    text = f"# {title}\n\n{words.strip()}\n\n```python\n{recipe.strip()}\n```\n"
    (target / CARD).write_text(text, encoding="utf-8")
