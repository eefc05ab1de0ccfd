"""Hugging Face: the weights as they are, and beside them the code that transformers needs to compute them."""

from __future__ import annotations

import shutil
from pathlib import Path

from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.detect import CONFIG, WEIGHTS
from lcl_core.encoders.export.base import PROCESSOR, read_json, write_inputs, write_model_card

_CODE = Path(__file__).parent / "portable"
_MODELING, _PROCESSING = "modeling_lcl", "processing_lcl"
_WORDS = """
A vision encoder and text encoder of Latent Compression Learning, in one space. Two ways to load it:

* with `lcl` installed, `AutoModel.from_pretrained(DIR)` after `import lcl_core.model`; no code from here runs;
* without it, as below: `trust_remote_code` runs `modeling_lcl.py` and `processing_lcl.py`, which lie here to be read
  first. They need torch, transformers, tokenizers, Pillow and, for texts that are not plain ASCII, ftfy.

`get_image_features` and `get_text_features` give vectors of length 1, `get_patch_features` the patch tokens. Captions
need `lcl`.
"""
_RECIPE = """
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(DIR, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(DIR, trust_remote_code=True)
pictures = model.get_image_features(**processor(images=[picture]))
texts = model.get_text_features(**processor(text=["a red bus", "a blue circle"]))
likeness = pictures @ texts.T
"""


def write(directory: Path, target: Path) -> None:
    """Weights, configuration, tokenizer, processor, code and a README. Still an encoder of ours for ``lcl``.

    Raises:
        UserError: ``encoder_unreadable``.
    """
    config = read_json(directory / CONFIG)
    classes = {"AutoConfig": f"{_MODELING}.LCLConfig", "AutoModel": f"{_MODELING}.LCLModel"}
    write_json_atomically(target / CONFIG, {**config, "auto_map": classes})
    write_inputs(directory, target)
    processor = read_json(directory / PROCESSOR)
    write_json_atomically(
        target / PROCESSOR, {**processor, "auto_map": {"AutoProcessor": f"{_PROCESSING}.LCLProcessor"}}
    )
    shutil.copyfile(directory / WEIGHTS, target / WEIGHTS)
    for name in (_MODELING, _PROCESSING):
        shutil.copyfile(_CODE / f"{name}.py", target / f"{name}.py")
    write_model_card(target, "Encoders of pictures and texts", _WORDS, _RECIPE)
