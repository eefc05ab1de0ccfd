"""The product's own encoder as it sits an examination."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core import __version__
from lcl_core.errors import UserError
from lcl_core.interop.encoder_schema import loadable
from lcl_core.interop.origins import is_kind
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.model.generation import generate_captions
from lcl_core.specs import DecodingSpec
from lcl_core.train.build import build_model
from lcl_core.transfer.text_side import TextSide
from lcl_core.transfer.tower import UNTRAINED_SEED, Tower, frozen

_WEIGHTS = "model.safetensors"
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a configuration
_TEXT_TOKENS = 77  # the authors' zero-shot context length


class LCLTextSide(TextSide):
    """The pre-trained text tower: texts as contexts of an image to come, ``sot text soi``."""

    def __init__(self, model: LCLModel, processor: LCLProcessor, identity: dict[str, str]) -> None:
        self._model = model
        self._processor = processor
        self.identity = identity

    @property
    def module(self) -> nn.Module:
        return self._model.text

    @property
    def width(self) -> int:
        return self._model.config.embed_dim

    def features(self, texts: Sequence[str]) -> Tensor:
        ids = self._processor.encode_texts(texts).to(self._model.device)
        return self._model.get_text_features(input_ids=ids, context_length=self._limit, normalize=False)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(len(self._processor.tokenizer.encode(text)) + 2, self._limit) for text in texts]

    @property
    def _limit(self) -> int:
        return min(_TEXT_TOKENS, self._model.config.context_length)

    def copy(self) -> Self:
        model = copy.copy(self._model)  # the image side is shared, since nobody here looks at pictures
        model._modules = {**model._modules, "text": copy.deepcopy(model.text).requires_grad_(True)}
        return type(self)(model, self._processor, self.identity)


class LCLTower(Tower):
    """An LCLModel with its processor.

    Args:
        weights_hash: sha256 of the weights (the file's for a saved encoder).
    """

    def __init__(self, model: LCLModel, processor: LCLProcessor, weights_hash: str) -> None:
        self.model = model
        self.processor = processor
        self.weights_hash = weights_hash

    @classmethod
    def recognises(cls, directory: Path) -> bool:
        return is_kind(directory, "lcl")

    @classmethod
    def load(cls, directory: Path) -> Self:
        loadable(directory)
        try:
            model = LCLModel.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
            processor = LCLProcessor.from_pretrained(directory)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(
                f"the encoder cannot be read: {error}; export or train it again",
                code="encoder_unreadable", field="encoder", file=directory,
            ) from error  # fmt: skip
        frozen(model)
        with (directory / _WEIGHTS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(model, processor, digest)

    @property
    def width(self) -> int:
        return self.model.config.vision_width

    @property
    def tokens(self) -> int:
        return self.model.config.num_image_tokens

    @property
    def image_size(self) -> int:
        return self.processor.image_size

    @property
    def embed_dim(self) -> int:
        return self.model.config.embed_dim

    @property
    def module(self) -> nn.Module:
        return self.model.visual

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def identity(self) -> dict[str, str]:
        """Weights, architecture, vocabulary and the code that runs them."""
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _INCIDENTAL}
        words = {"config": json.dumps(config, sort_keys=True), "tokenizer": self.processor.tokenizer.to_json()}
        digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in words.items()}
        return {"weights": self.weights_hash, **digests, "lcl": __version__}

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        return self.processor.preprocess(images)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model.get_patch_features(pixel_values=pixels)

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(pixels)
        return F.normalize(self.model.pool_project.pool(patches).float(), dim=-1), patches

    @property
    def text_side(self) -> TextSide:
        return LCLTextSide(self.model, self.processor, self.identity)

    def captions(self, pixels: Tensor, spec: DecodingSpec, seed: int) -> list[str]:
        """The text that follows a picture at the head of a document."""
        return generate_captions(
            self.model, self.processor, pixels.to(self.model.device), max_new_tokens=spec.max_new_tokens,
            num_beams=spec.beams, top_p=spec.top_p, temperature=spec.temperature, seed=seed,
        )  # fmt: skip

    def layers(self) -> list[list[nn.Parameter]]:
        visual = self.model.visual
        first = [visual.class_embedding, visual.positional_embedding]
        first += [*visual.conv1.parameters(), *visual.ln_pre.parameters()]
        blocks = [list(block.parameters()) for block in visual.transformer.blocks]
        return [first, *blocks, list(visual.ln_post.parameters())]

    def copy(self) -> Self:
        model = copy.deepcopy(self.model)
        model.visual.requires_grad_(True)
        return type(self)(model, self.processor, self.weights_hash)

    def untrained(self) -> Self:
        model = build_model(self.model.config, UNTRAINED_SEED)
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
        frozen(model)
        return type(self)(model, self.processor, digest.hexdigest())
