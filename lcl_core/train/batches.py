"""From documents to the packed tensors of a step."""

from __future__ import annotations

import numpy as np
import torch

from lcl_core.data.packing import DocumentBatch
from lcl_core.model import LCLConfig, PackedBatch


def to_packed(batch: DocumentBatch, config: LCLConfig) -> PackedBatch:
    """Pack the documents, longest first: neighbours of like length share a group in attention."""
    samples = sorted(batch.samples, key=lambda sample: -len(sample.token_ids))
    rows = [torch.from_numpy(sample.token_ids.astype(np.int64)) for sample in samples]
    pixels = torch.from_numpy(np.concatenate([sample.pixels for sample in samples]))
    return PackedBatch.pack(rows, pixels, config)
