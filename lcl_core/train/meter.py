"""Numbers for people: means over the steps since the last line, rates, and the time that is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lcl_core.data.packing import DocumentBatch
from lcl_core.model import LCLOutput
from lcl_core.train.checkpoint import Progress


@dataclass
class Meter:
    """Collects device scalars without waiting for them; ``line`` reads them all at once."""

    total_steps: int
    started: float = field(default_factory=time.monotonic)
    _losses: list[Tensor] = field(default_factory=list)
    _steps: int = 0
    _images: int = 0
    _tokens: int = 0

    def add(self, output: LCLOutput, batch: DocumentBatch) -> None:
        contrastive, generation = output.contrastive_loss, output.generation_loss
        assert contrastive is not None
        assert generation is not None
        self._losses.append(torch.stack((contrastive, generation, in_batch_accuracy(output))).detach())
        self._steps += 1
        self._images += batch.images
        self._tokens += batch.tokens

    def settle(self, progress: Progress) -> None:
        """Move the scalars since the last line into ``progress``, so that a checkpoint carries them."""
        if self._losses:
            progress.pending += torch.stack(self._losses).tolist()
            self._losses = []

    def line(self, progress: Progress, **more: float) -> dict[str, Any]:
        """The metric line of ``progress.step``; starts the next interval."""
        self.settle(progress)
        seconds = time.monotonic() - self.started
        count = len(progress.pending)
        contrastive, generation, accuracy = (
            sum(column) / count for column in zip(*progress.pending, strict=True)
        )
        left = (self.total_steps - progress.step) * seconds / self._steps
        line = {
            "step": progress.step,
            "total_steps": self.total_steps,
            "loss": contrastive + generation,
            "contrastive_loss": contrastive,
            "generation_loss": generation,
            "in_batch_accuracy": accuracy,
            "images_per_s": self._images / seconds,
            "tokens_per_s": self._tokens / seconds,
            "images_seen": progress.images_seen,
            "seconds_left": left,
            "skipped": sum(progress.skipped.values()),
            **more,
        }
        progress.seconds += seconds
        progress.pending = []
        self.started, self._steps, self._images, self._tokens = time.monotonic(), 0, 0, 0
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}


def in_batch_accuracy(output: LCLOutput) -> Tensor:
    """Share of images whose own context is the nearest in the batch (0 when it holds no pair)."""
    images, texts = output.image_features, output.text_features
    assert images is not None
    assert texts is not None
    if len(images) == 0:
        return images.new_zeros(())
    nearest = (images.detach() @ texts.detach().T).argmax(dim=1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
