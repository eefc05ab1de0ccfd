"""The tower as timm's: the same patch tokens from the same images, loaded by timm and by our own importer."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.encoders.export import export
from lcl_core.encoders.timm import TimmImageEncoder

timm = pytest.importorskip("timm")


@torch.inference_mode()
def test_patch_tokens_and_transform_are_the_encoders(sample, tmp_path):
    export("timm", sample.directory, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels = torch.stack([transform(image) for image in sample.sample_images])
    words = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    if sample.processor.fit == "pad":
        assert "colour" in words, "timm's border has another colour, which the README says"
    else:
        torch.testing.assert_close(pixels, sample.pixels, atol=1e-5, rtol=0)
    features = model.forward_features(sample.pixels)
    expected = sample.model.get_patch_features(sample.pixels)
    torch.testing.assert_close(features[:, model.num_prefix_tokens :], expected, atol=2e-5, rtol=1e-5)
    tower = TimmImageEncoder.load(tmp_path / "out")
    pooled, patches = tower.outputs(sample.pixels)
    torch.testing.assert_close(patches, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, expected.mean(1), atol=2e-5, rtol=1e-5)
    assert "not" in words


def test_it_is_what_timm_itself_would_write(sample, tmp_path):
    export("timm", sample.directory, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    timm.models.save_for_hf(model, tmp_path / "theirs", safe_serialization=True)
    ours, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "theirs"))
    side = theirs["model_args"].pop("img_size")
    assert side in (32, [32, 32])
    assert {**theirs["model_args"], "img_size": 32, "in_chans": 3} == {**ours.pop("model_args"), "in_chans": 3}
    del theirs["model_args"]
    assert theirs == ours
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("out", "theirs")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
