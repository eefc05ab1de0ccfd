"""What the examination of an imported encoder measures, without its process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.common.sandbox import SandboxResult
from lcl_core.encoders import sandbox
from lcl_core.encoders.sandbox import _check_outputs, inspect_encoder


def test_a_batch_of_large_inputs_is_refused_although_its_outputs_are_small():
    """As ``image_size`` 4096 with ``patch_size`` 512: [3, 4096, 4096] becomes [4, 8, 8]."""
    pixels = torch.zeros(1, 3, 1, 1).expand(1, 3, 4096, 4096)
    patches = torch.nn.Sequential(torch.nn.AvgPool2d(512), torch.nn.Conv2d(3, 4, 1))

    def embed():
        with torch.inference_mode():
            return patches(pixels).flatten(1).numpy()

    with pytest.raises(UserError, match="64 images would take 12,884,901,888 bytes in one layer") as refused:
        _check_outputs(Path("encoder"), patches, embed)
    assert refused.value.code == "encoder_unreadable"
    pixels = pixels[..., :512, :512]
    _check_outputs(Path("encoder"), patches, embed)


def test_an_examination_that_took_too_long_is_repeated(tmp_path, monkeypatch):
    """Another time the machine may be less busy."""
    ended = SandboxResult(None, b"", "")
    monkeypatch.setattr(sandbox, "run_sandboxed", lambda *_: ended)
    (tmp_path / "config.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(UserError, match="more than 120 s; try again when the machine is less busy") as refused:
            inspect_encoder(tmp_path, tmp_path / "known", {"config.json": "1" * 64})
        assert refused.value.code == "encoder_unreadable"
    facts = {"loaded": False, "kind": "lcl"}
    ended = SandboxResult(0, json.dumps({"ok": True, "facts": facts}).encode(), "")
    assert inspect_encoder(tmp_path, tmp_path / "known", {"config.json": "1" * 64}) == facts
