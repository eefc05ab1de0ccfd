"""A count of the images of host batches that are on the device."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from lcl_core.model import PackedBatch
from lcl_core.train.input_pipeline import HostBatch


def count_images_on_device(patch: pytest.MonkeyPatch) -> list[int]:
    """The list gets, each time that a batch is moved, the number of earlier moved ones that are still in memory."""
    moved: list[weakref.ref[torch.Tensor]] = []
    present: list[int] = []

    def to(self: HostBatch, device: torch.device) -> PackedBatch:
        present.append(sum(tensor() is not None for tensor in moved))
        on_device = self.packed.pixel_values.clone()
        moved.append(weakref.ref(on_device))
        return replace(self.packed, pixel_values=on_device)

    patch.setattr(HostBatch, "to", to)
    return present
