"""The encoder that sits the exam, and its untrained twin. Both go through the same code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from lcl_core import __version__
from lcl_core.errors import UserError
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.train.build import build_model

UNTRAINED_SEED = 0
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a configuration
_TEXT_TOKENS = 77  # the authors' zero-shot context length


@dataclass(frozen=True)
class ExamEncoder:
    """A frozen model with its processor.

    Attributes:
        role: ``trained`` or ``untrained``.
        weights_hash: sha256 of the weights (the file's for a saved encoder).
    """

    role: str
    model: LCLModel
    processor: LCLProcessor
    weights_hash: str

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def identity(self) -> dict[str, str]:
        """What makes this encoder's features its own: weights, architecture and the code that runs them."""
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _INCIDENTAL}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return {"weights": self.weights_hash, "config": digest, "lcl": __version__}

    @cached_property
    def transform(self) -> str:
        """Hash of what the transform makes of a fixed picture: equal for equal transforms."""
        noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
        pixels = self.processor.preprocess([Image.fromarray(noise)])
        return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        """Pooled latents [n, E] (L2-normalised) and patch features [n, N, W], in one pass."""
        pixels = self.processor.preprocess(images).to(self.model.device)
        patches = self.model.get_patch_features(pixel_values=pixels)
        pooled = F.normalize(self.model.pool_project.pool(patches).float(), dim=-1)
        return pooled.cpu(), patches.float().cpu()

    @torch.inference_mode()
    def embed_texts(self, token_ids: Tensor) -> Tensor:
        """Rows ``sot text eot 0 …`` [n, L] → [n, E], L2-normalised: texts as contexts of an image to come."""
        length = min(_TEXT_TOKENS, self.model.config.context_length)
        return self.model.get_text_features(input_ids=token_ids.to(self.model.device), context_length=length).cpu()


def load_encoder(directory: str | Path) -> ExamEncoder:
    """Read a saved encoder onto the GPU when there is one.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
    """
    directory = Path(directory)
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            "there is no encoder here (no model.safetensors); give the id of a registered encoder",
            code="encoder_unreadable", field="encoder", file=directory,
        )  # fmt: skip
    try:
        model = LCLModel.from_pretrained(directory)
        processor = LCLProcessor.from_pretrained(directory)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"the encoder cannot be read: {error}; export or train it again",
            code="encoder_unreadable", field="encoder", file=directory,
        ) from error  # fmt: skip
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExamEncoder("trained", _frozen(model), processor, digest)


def untrained_twin(encoder: ExamEncoder) -> ExamEncoder:
    """The same architecture and processor with the weights it starts from, at a fixed seed."""
    model = build_model(encoder.model.config, UNTRAINED_SEED)
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return ExamEncoder("untrained", _frozen(model), encoder.processor, digest.hexdigest())


def _frozen(model: LCLModel) -> LCLModel:
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    return model.float().eval().requires_grad_(False)
