"""Files that several export formats write."""

from __future__ import annotations

import shutil
from pathlib import Path

from lcl_core.common.files import write_json_atomically
from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD
from lcl_core.encoders.files import read_json_object

PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
TOKENIZER, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"
CARD = "README.md"


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
