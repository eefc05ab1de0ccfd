"""A CLIP with fresh weights in a folder, as infinity loads one: ``python -m benchmarks.clip FOLDER``.

Runs in infinity's Python, whose transformers is older than ours: what one release writes another need not read.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

clip: Any = transformers  # these names are looked up when they are asked for, and not known to a type checker
IN_BFLOAT16 = Path(__file__).with_name("clip_bfloat16.py")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789!,.'"


def write_clip(
    folder: Path, bfloat16: bool = False, vision: Mapping[str, int] | None = None, text: Mapping[str, int] | None = None
) -> None:
    """Weights, preprocessing, and a tokenizer that spells: infinity warms up with texts before it is asked.

    Args:
        bfloat16: let the model load in bfloat16, through a class of its own (``clip_bfloat16.py``).
        vision, text: sizes that are not ViT-B/32's, by their names in ``CLIPVisionConfig`` and ``CLIPTextConfig``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = _write_tokenizer(folder)
    tokens = {"vocab_size": last + 1, "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    config = clip.CLIPConfig(vision_config=dict(vision or {}), text_config={**(text or {}), **tokens})
    if bfloat16:
        config.auto_map = {"AutoModel": f"{IN_BFLOAT16.stem}.InBfloat16"}
        shutil.copy(IN_BFLOAT16, folder)
    clip.CLIPModel(config).save_pretrained(folder)
    side = config.vision_config.image_size
    crop = {"height": side, "width": side}
    clip.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop).save_pretrained(folder)


def _write_tokenizer(folder: Path) -> int:
    """CLIP's files without a single merge; returns the last token's number, that of the end."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "unk_token": words[-1], "pad_token": words[-1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return len(words) - 1


if __name__ == "__main__":
    write_clip(Path(sys.argv[1]), bfloat16="bfloat16" in sys.argv[2:])
