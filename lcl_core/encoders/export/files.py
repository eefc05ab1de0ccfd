"""What the export formats read from an encoder's directory, and the files that several of them write."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD
from lcl_core.encoders.files import read_json_object
from lcl_core.encoders.registry import WEIGHTS
from lcl_core.model import LCLConfig, LCLModel

PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
TOKENIZER, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"
CARD = "README.md"


def read_weights(directory: Path, config: LCLConfig) -> dict[str, Tensor]:
    """Every tensor in fp32, by its name. Raises: UserError ``encoder_unreadable`` when they do not fit ``config``."""
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
    """Tokenizer, processor, and the images' transform in the words that transformers' image processors use."""
    size = read_json_object(directory / PROCESSOR)["image_size"]
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


def write_model_card(target: Path, title: str, words: str, recipe: str, library: str) -> None:
    """A README with how to load it, and the header that a hub reads, without a licence: that is the owner's to name.

    Args:
        library: that loads it, by the hub's name.
    """
    header = f"---\nlibrary_name: {library}\npipeline_tag: image-feature-extraction\ntags:\n- lcl\n---"
    text = f"{header}\n\n# {title}\n\n{words.strip()}\n\n```python\n{recipe.strip()}\n```\n"
    (target / CARD).write_text(text, encoding="utf-8")
