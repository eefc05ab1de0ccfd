"""ONNX export: ``image.onnx`` and ``text.onnx``, each from a processor's output to L2-normalised vectors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcl_core.common.errors import import_optional
from lcl_core.encoders.export.files import write_inputs, write_use
from lcl_core.encoders.export.portable import preprocessing_lcl
from lcl_core.encoders.export.portable.encoder_model import LCLEncoderModel
from lcl_core.encoders.lcl import load_model
from lcl_core.model import LCLModel
from lcl_core.specs.pretrain import TEXT_CONTEXT_LENGTH

OPSET = 20  # the first with Gelu
MAX_BYTES = 2 << 30  # of a protobuf file: the weights of a larger graph are in a second file
IMAGE, TEXT = "image.onnx", "text.onnx"
_WORDS = f"""
The encoders of Latent Compression Learning. Both give float32 rows of length 1 in one space.

* `{IMAGE}`: `pixel_values` float32 [n, 3, S, S] → `image_embeds` [n, E]; any n.
* `{TEXT}`: `input_ids` int64 [n, L], rows of start, text, end, then zeros → `text_embeds` [n, E]; any n and L, of which
  the first {TEXT_CONTEXT_LENGTH} are read.

`preprocessing_lcl.py` prepares images and cleans texts as in training, `tokenizer.json` holds the vocabulary. A text
that is not cleaned has other ids. The code needs `pip install ftfy numpy onnxruntime pillow tokenizers`.
"""
_RECIPE = """
import json
import sys
import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

sys.path.insert(0, "DIR")
from preprocessing_lcl import clean, pixels

processor = json.load(open("DIR/processor_config.json"))
side, fit = processor["image_size"], processor.get("fit", "crop")
tokenizer = Tokenizer.from_file("DIR/tokenizer.json")
image_encoder, text_encoder = InferenceSession("DIR/image.onnx"), InferenceSession("DIR/text.onnx")

def ids(sentence):
    words = tokenizer.encode(clean(sentence), add_special_tokens=False).ids
    start, end = (tokenizer.token_to_id(f"<{name}_of_text>") for name in ("start", "end"))
    return np.array([[start, *words, end]], np.int64)

images = image_encoder.run(None, {"pixel_values": np.stack([pixels(image, side, fit)])})[0]
texts = np.concatenate([text_encoder.run(None, {"input_ids": ids(each)})[0] for each in ("a red bus", "a blue circle")])
likeness = images @ texts.T
"""


class _Tower(nn.Module):
    """One input of :class:`LCLEncoderModel` → its vectors [n, E], by the name of the method that computes them."""

    def __init__(self, model: LCLModel, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, given: Tensor) -> Tensor:
        features: Tensor = getattr(self.model, self.method)(given)
        return features


def write(directory: Path, target: Path) -> None:
    """Both graphs, tokenizer, processor and a README. Raises: UserError ``encoder_unreadable``, ``missing_extra``."""
    import_optional("onnxscript", "an ONNX graph", "export")
    model, _ = load_model(directory, LCLEncoderModel)
    config = model.config
    write_inputs(directory, target)
    shutil.copyfile(str(preprocessing_lcl.__file__), target / "preprocessing_lcl.py")
    pixels, ids = torch.zeros(2, 3, config.image_size, config.image_size), torch.full((2, 5), config.eot_token_id)
    n, length = torch.export.Dim("n"), torch.export.Dim("length")
    _write_graph(target / IMAGE, _Tower(model, "get_image_features"), "pixel_values", "image_embeds", pixels, {0: n})
    _write_graph(target / TEXT, _Tower(model, "get_text_features"), "input_ids", "text_embeds", ids, {0: n, 1: length})
    write_use(target, _WORDS, _RECIPE, "onnx")


def _write_graph(path: Path, tower: nn.Module, takes: str, gives: str, example: Tensor, sizes: dict[int, Any]) -> None:
    program = torch.onnx.export(
        tower.eval(),
        (example,),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[takes],
        output_names=[gives],
        dynamic_shapes=(sizes,),
    )
    assert program is not None
    program.save(path, external_data=4 * sum(each.numel() for each in tower.parameters()) > MAX_BYTES)
