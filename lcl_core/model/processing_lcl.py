"""LCLProcessor: images and texts to tensors, saved beside the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from lcl_core.common.files import write_json_atomically
from lcl_core.data.tokenizer import Tokenizer, load_tokenizer
from lcl_core.data.transforms import eval_transform
from lcl_core.specs.data import Fit

_CONFIG = "processor_config.json"
_TOKENIZER = "tokenizer.json"


class LCLProcessor(ProcessorMixin):
    """Make images square as ``fit`` says and normalise them (CLIP's statistics); tokenize texts as ``sot text eot``."""

    def __init__(self, tokenizer: Tokenizer, image_size: int, fit: Fit = "crop") -> None:
        self.tokenizer = tokenizer
        self.image_size, self.fit = image_size, fit

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image] | None = None,
        text: str | Sequence[str] | None = None,
        **_: Any,
    ) -> BatchFeature:
        """``pixel_values`` [n, 3, S, S] and / or ``input_ids`` [n, L]."""
        features: dict[str, Tensor] = {}
        if images is not None:
            features["pixel_values"] = self.preprocess([images] if isinstance(images, Image.Image) else images)
        if text is not None:
            features["input_ids"] = self.encode_texts([text] if isinstance(text, str) else text)
        return BatchFeature(features)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Images of any size → [n, 3, S, S] float32."""
        if not images:
            return torch.empty(0, 3, self.image_size, self.image_size)
        return torch.from_numpy(np.stack([eval_transform(image, self.image_size, self.fit) for image in images]))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts → [n, L] long, ``sot text eot``, zero-padded on the right."""
        specials = self.tokenizer.specials
        rows = [[specials.sot, *self.tokenizer.encode(text), specials.eot] for text in texts]
        padded = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        return torch.from_numpy(padded)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids → text, up to the first end, special tokens left out."""
        specials = self.tokenizer.specials
        ends = [place for place, token in enumerate(ids) if token in (specials.eot, specials.soi)]
        kept = ids[: ends[0]] if ends else ids
        return self.tokenizer.decode([token for token in kept if token < specials.sot]).strip()

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Write ``processor_config.json`` and ``tokenizer.json``."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(target / _TOKENIZER)
        settings = {"processor_class": type(self).__name__, "image_size": self.image_size, "fit": self.fit}
        write_json_atomically(target / _CONFIG, settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **_: Any) -> Self:  # type: ignore[override]
        """Read what :meth:`save_pretrained` wrote."""
        source = Path(pretrained_model_name_or_path)
        settings = json.loads((source / _CONFIG).read_text(encoding="utf-8"))
        return cls(load_tokenizer(source / _TOKENIZER), settings["image_size"], settings.get("fit", "crop"))
