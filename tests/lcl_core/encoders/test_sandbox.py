"""What the examination of an imported encoder measures, without its process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.encoders.sandbox import _check_outputs


def test_a_batch_of_large_inputs_is_refused_although_its_outputs_are_small() -> None:
    """As ``image_size`` 4096 with ``patch_size`` 512: [3, 4096, 4096] becomes [4, 8, 8]."""
    pixels = torch.zeros(1, 3, 1, 1).expand(1, 3, 4096, 4096)
    patches = torch.nn.Sequential(torch.nn.AvgPool2d(512), torch.nn.Conv2d(3, 4, 1))

    def embed() -> np.ndarray:
        with torch.inference_mode():
            return patches(pixels).flatten(1).numpy()

    with pytest.raises(UserError, match="64 images would take 12,884,901,888 bytes in one layer") as refused:
        _check_outputs(Path("encoder"), patches, embed)
    assert refused.value.code == "encoder_unreadable"
    pixels = pixels[..., :512, :512]
    _check_outputs(Path("encoder"), patches, embed)
