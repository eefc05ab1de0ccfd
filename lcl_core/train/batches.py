"""From documents to the packed tensors of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lcl_core.data.order import mix64
from lcl_core.data.packing import DocumentBatch
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives import Objective


@dataclass(frozen=True)
class Packer:
    """Packs documents for one objective and model.

    Attributes:
        kept_patches: patches of an image that are looked at; the documents hold as many placeholders.
        seed: of random choices: patches that are dropped, and what the objective draws.
    """

    objective: Objective
    config: LCLConfig
    kept_patches: int
    seed: int

    def __call__(self, batch: DocumentBatch) -> PackedBatch:
        """Pack the documents, longest first: neighbours of like length share a group in attention."""
        samples = sorted(batch.samples, key=lambda sample: -len(sample.token_ids))
        rows = [torch.from_numpy(sample.token_ids.astype(np.int64)) for sample in samples]
        pixels = torch.from_numpy(np.concatenate([sample.pixels for sample in samples]))
        keys = [mix64(self.seed, sample.position) for sample in samples]
        return self.objective.collate(rows, pixels, self.config, self._patches(len(pixels), batch), keys)

    def _patches(self, images: int, batch: DocumentBatch) -> Tensor | None:
        """[images, kept] patch numbers, ascending: drawn for each batch, the same for the same place in the data."""
        total = self.config.num_image_tokens
        if self.kept_patches == total:
            return None
        draw = np.random.default_rng(mix64(self.seed, *batch.cursor.to_json()))
        shuffled = draw.random((images, total)).argsort(axis=1)[:, : self.kept_patches]
        return torch.from_numpy(np.sort(shuffled, axis=1))
