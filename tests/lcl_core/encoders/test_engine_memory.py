"""The memory that is foretold of an encoder is what its weights then take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lcl_core.encoders.engine import EncoderEngine, estimate_memory
from lcl_core.model import LCLModel


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_foretold_is_what_is_taken(encoder, tmp_path, precision, saved):
    place = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    LCLModel.from_pretrained(encoder, dtype=saved).save_pretrained(place)
    session = EncoderEngine(place, "cpu", precision=precision, warm_up=False)
    weights = [*session.encoder.model.parameters(), *session._vectors.model.parameters()]
    taken = {weight.data_ptr(): weight.numel() * weight.element_size() for weight in weights}
    assert estimate_memory(place, "cpu", precision) == sum(taken.values())


def test_for_what_cannot_be_loaded_nobody_has_to_leave(encoder, tmp_path):
    whole = (encoder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    assert estimate_memory(tmp_path) == 0
    (tmp_path / "model.safetensors").write_bytes(whole)
    assert estimate_memory(tmp_path, "cpu") == estimate_memory(encoder, "cpu"), (
        "a loader may find more than config.json is missing"
    )
