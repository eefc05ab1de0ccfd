"""A file of a checkpoint that lies is damage."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from lcl_core.common.files import sha256_file
from lcl_core.train.checkpoint.load import read_manifest
from lcl_core.train.checkpoint.save import CheckpointManager


@pytest.mark.parametrize("change", ["longer", "before", "type", "torn"])
def test_a_header_that_lies_is_damage(tmp_path, change):
    """With a checksum that is right: such a file comes from elsewhere."""
    with CheckpointManager(tmp_path) as saver:
        saver.save(5, {"model": {"weight": torch.zeros(8, 3)}}, {})
    path = tmp_path / "step_00000005"
    victim = path / "model.safetensors"
    content = victim.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if change == "longer":
        header["weight"]["data_offsets"][1] += 1 << 30
    elif change == "before":
        header["weight"]["data_offsets"] = [at - (1 << 20) for at in header["weight"]["data_offsets"]]
    elif change == "type":
        header["weight"]["dtype"] = "F64"
    text = json.dumps(header).encode()
    start = (1 << 40) if change == "torn" else len(text)
    victim.write_bytes(start.to_bytes(8, "little") + text + content[8 + length :])
    manifest = read_manifest(path)
    manifest.files["model.safetensors"] = sha256_file(victim)
    (path / "manifest.json").write_text(json.dumps(asdict(manifest)))
    with CheckpointManager(tmp_path) as saver:
        assert saver.load_newest() is None
