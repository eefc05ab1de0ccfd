"""An encoder is rounded to half its size and still reads as it did."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lcl_core.common.errors import UserError
from lcl_core.data import train_bpe
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.model import LCLConfig, LCLProcessor
from lcl_core.pretrained.__main__ import main, pack
from lcl_core.train.factory import build_model


@pytest.fixture
def encoder(tmp_path):
    """The encoder among the artifacts of a pre-training that has ended."""
    tokenizer = train_bpe(["a red cat", "a blue dog"], 270)
    named = {f"{name}_token_id": getattr(tokenizer.specials, name) for name in ("sot", "eot", "img", "soi", "eoi")}
    config = LCLConfig(
        image_size=32, patch_size=16, vision_width=32, vision_layers=1, vision_head_width=16, text_width=24,
        text_layers=1, text_heads=2, context_length=48, vocab_size=tokenizer.vocab_size, **named,
    )  # fmt: skip
    directory = tmp_path / "run" / "artifacts" / "encoder"
    build_model(config, 0).save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)
    (directory / "training.json").write_text('{"steps": 3}')
    facts = {"parameters": 1, "images_seen": 2, "steps": 3, "hash": "…", "skipped": 0}
    (tmp_path / "run" / "result.json").write_text(json.dumps({"encoder": facts}))
    return directory


def test_half_the_bytes_give_nearly_the_same_vectors(encoder, tmp_path):
    digest = pack(encoder, tmp_path / "small", {"steps": 3})
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "small", encoder)]
    assert sizes[0] < 0.6 * sizes[1]
    whole, small = EncoderEngine(encoder), EncoderEngine(tmp_path / "small")
    assert small.hash == digest
    image = Image.new("RGB", (40, 40), (200, 30, 30))
    np.testing.assert_allclose(small.embed_images([image]), whole.embed_images([image]), atol=0.02)
    np.testing.assert_allclose(small.embed_texts(["a cat"]), whole.embed_texts(["a cat"]), atol=0.02)
    tower = LCLEncoder.load(tmp_path / "small")
    assert {str(weight.dtype) for weight in tower.model.parameters()} == {"torch.float32"}


def test_counts_of_batches_are_not_rounded(encoder, tmp_path):
    file = encoder / "model.safetensors"
    save_file({**load_file(file), "visual.bn.num_batches_tracked": torch.tensor(100_001)}, file)
    pack(encoder, tmp_path / "small", {})
    count = load_file(tmp_path / "small" / "model.safetensors")["visual.bn.num_batches_tracked"]
    assert (count.item(), count.dtype) == (100_001, torch.int64)


def test_the_command_packs_a_run(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pretrained", str(tmp_path / "run"), str(tmp_path / "drawer")])
    assert main() == 0
    reported = json.loads((tmp_path / "drawer" / "origin.json").read_text())
    assert reported == {"hash": capsys.readouterr().out.strip(), "parameters": 1, "images_seen": 2, "steps": 3}
    assert main() == 1
    assert "name another folder" in capsys.readouterr().err
    (tmp_path / "run" / "result.json").unlink()
    assert main() == 1
    assert "result.json" in capsys.readouterr().err


def test_what_is_no_encoder_is_refused_and_nothing_written(encoder, tmp_path):
    (encoder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="not the directory of an encoder"):
        pack(encoder, tmp_path / "small", {})
    assert not (tmp_path / "small").exists()
