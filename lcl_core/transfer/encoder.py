"""The encoder that sits the exam, and its untrained twin. Both go through the same code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lcl_core.errors import UserError
from lcl_core.transfer.tower import Tower
from lcl_core.transfer.towers import load_tower


@dataclass(frozen=True)
class ExamEncoder:
    """A frozen encoder in its role, ``trained`` or ``untrained``."""

    role: str
    tower: Tower

    @property
    def weights_hash(self) -> str:
        return self.tower.identity["weights"]

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> tuple[Tensor | None, Tensor]:
        """Pooled latents [n, E] (L2-normalised; none where the tower has none) and patch features [n, N, W]."""
        pooled, patches = self.tower.look(self.tower.preprocess(images).to(self.tower.device))
        return None if pooled is None else pooled.cpu(), patches.float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Features [n, E], L2-normalised.

        Raises:
            UserError: ``no_text_encoder``.
        """
        features = self.tower.texts(texts)
        if features is None:
            raise UserError(
                "this encoder reads no texts; leave out the tasks that compare pictures with texts without training",
                code="no_text_encoder", field="tasks",
            )  # fmt: skip
        return features.cpu()


def load_encoder(directory: str | Path) -> ExamEncoder:
    """Read a saved encoder onto the GPU when there is one.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
    """
    return ExamEncoder("trained", load_tower(Path(directory)))


def untrained_twin(encoder: ExamEncoder) -> ExamEncoder:
    """The same architecture and transform with the weights it starts from, at a fixed seed."""
    return ExamEncoder("untrained", encoder.tower.untrained())
