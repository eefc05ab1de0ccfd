"""Exports of encoders with other vision towers than the ViT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers

from lcl_core.common.errors import UserError
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.export import export
from tests.lcl_core.encoders.export.conftest import save_sample

TOWERS: dict[str, dict[str, Any]] = {
    "resnet": {"patch_size": 16, "vision_layers": 4},
    "timm:resnet18": {"vision_width": 128},
    "timm:swin_tiny_patch4_window7_224": {"image_size": 56, "vision_width": 192},
}


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory):
    return save_sample(tmp_path_factory.mktemp("encoder"), **{"vision": request.param, **TOWERS[request.param]})


@torch.inference_mode()
def test_transformers_loads_it_without_lcl_core(tower, tmp_path, anonymous_users):
    export("huggingface", tower.directory, tmp_path / "out")
    assert check_encoder(tmp_path / "out").kind == "lcl"
    model: Any = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    assert type(model.visual).__module__.startswith("transformers_modules.")
    torch.testing.assert_close(model.get_image_features(tower.pixels), tower.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.get_text_features(tower.ids), tower.sentences, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_timm_computes_the_feature_map_or_the_refusal_says_what_it_lacks(tower, tmp_path):
    vision, out = tower.model.config.vision, tmp_path / "out"
    refusals = {"resnet": "pooling after its stem", "timm:swin_tiny_patch4_window7_224": "renames the weights"}
    if vision in refusals:
        with pytest.raises(UserError, match=refusals[vision]) as caught:
            export("timm", tower.directory, out)
        assert (caught.value.code, caught.value.field) == ("unsupported", "format")
        return
    export("timm", tower.directory, out)
    network = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    (found,) = network(tower.pixels)
    patches = tower.model.visual.ln_post(found.flatten(2).transpose(1, 2))
    torch.testing.assert_close(patches, tower.model.get_patch_features(tower.pixels), atol=2e-5, rtol=1e-5)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    torch.testing.assert_close(transform(tower.sample_images[0]), tower.pixels[0], atol=1e-5, rtol=0)


@pytest.mark.extended
def test_onnx_runtimes_compute_the_same(tower, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export("onnx", tower.directory, tmp_path / "out")
    image = runtime.InferenceSession(tmp_path / "out" / "image.onnx", providers=["CPUExecutionProvider"])
    for count in (1, len(tower.pixels)):
        found = image.run(None, {"pixel_values": tower.pixels[:count].numpy()})[0]
        np.testing.assert_allclose(found, tower.images[:count], atol=1e-5)
