"""What infinity is started with, on a stand-in for its Python; and the model that it would load."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, CLIPConfig, CLIPModel, CLIPProcessor

from benchmarks.clip import write_clip
from benchmarks.clip_bfloat16 import InBfloat16
from benchmarks.infinity import PACKAGES, SETTINGS, installed, running_infinity
from benchmarks.traffic import infinity_embeddings
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}


@pytest.mark.parametrize("name", ["int8", "bfloat16"])
def test_it_serves_a_model_of_its_own_and_leaves_nothing(python_with_infinity: str, name: str) -> None:
    infinity = installed(python_with_infinity)
    assert set(infinity.versions) == set(PACKAGES)
    with running_infinity(infinity, SETTINGS[name], 8) as url:
        request = next(infinity_embeddings())
        answer = httpx.request(request.method, url + request.path, json=request.body, trust_env=False)
        reported = answer.json()
        after = dict(zip(reported["words"], reported["words"][1:], strict=False))
        model = Path(after["--model-id"])
        assert model.is_dir()
    assert answer.status_code in request.expected
    assert (after["--device"], after["--batch-size"]) == ("cpu", "8")
    assert after["--dtype"] == {"int8": "int8", "bfloat16": "auto"}[name]
    assert reported["written"] == {"int8": "", "bfloat16": "bfloat16"}[name]
    assert (reported["HF_HUB_OFFLINE"], reported["DO_NOT_TRACK"], Path(reported["HF_HOME"]).parent) == (
        "1",
        "1",
        model.parent,
    )
    assert not model.parent.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


@pytest.mark.parametrize(("program", "why"), [("/nowhere/python", "cannot be run"), (sys.executable, "infinity-emb")])
def test_a_python_without_it_is_refused(program: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        installed(program)
    assert refused.value.code == "no_infinity"


def test_the_model_embeds_images_in_either_precision(tmp_path: Path) -> None:
    write_clip(tmp_path, bfloat16=True, vision={**SMALL, "image_size": 32, "patch_size": 16}, text=SMALL)
    assert AutoConfig.from_pretrained(tmp_path).auto_map == {"AutoModel": "clip_bfloat16.InBfloat16"}
    assert (tmp_path / "clip_bfloat16.py").is_file()
    image, processor = Image.new("RGB", (40, 30), "red"), CLIPProcessor.from_pretrained(tmp_path)
    requested = processor(text=["a cat"], images=[image], return_tensors="pt", padding=True)
    assert requested["pixel_values"].shape == (1, 3, 32, 32)
    assert requested["input_ids"].shape == (1, len("acat") + 2)
    whole, half = CLIPModel.from_pretrained(tmp_path, dtype=torch.float32), InBfloat16.from_pretrained(tmp_path)
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    with torch.inference_mode():
        answers = [model(**requested.to(model.dtype)).image_embeds.float() for model in (whole, half)]
    assert answers[0].shape == (1, 512)
    assert torch.allclose(*answers, atol=0.02)


def test_it_has_the_size_of_vit_b_32() -> None:
    sizes = CLIPConfig().vision_config
    assert (sizes.image_size, sizes.patch_size, sizes.hidden_size, sizes.num_hidden_layers) == (224, 32, 768, 12)
