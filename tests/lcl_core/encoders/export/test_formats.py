"""What is refused before anything is written."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from lcl_core.common.errors import UserError
from lcl_core.encoders import __main__ as command
from lcl_core.encoders.export import FORMATS, export
from tests.lcl_core.encoders.external_samples import save_huggingface


def refused(name, directory, target, words):
    with pytest.raises(UserError, match=words) as caught:
        export(name, directory, target)
    assert (caught.value.code, caught.value.field) == ("unsupported", "format")
    assert not target.exists()


def test_what_a_format_cannot_hold_is_refused_with_the_reason(sample, tmp_path):
    refused("tensorrt", sample.directory, tmp_path / "out", "the formats are huggingface, timm, onnx")


@pytest.mark.parametrize("name", FORMATS)
def test_encoders_of_others_leave_as_they_are(tmp_path, name):
    directory = tmp_path / "clip"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 8}))
    save_file({"a": torch.zeros(1)}, directory / "model.safetensors")
    refused(name, directory, tmp_path / "out", "of huggingface's own.*format=lcl")


def test_nothing_is_written_over(sample, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="the target is not empty") as caught:
        export("huggingface", sample.directory, tmp_path)
    assert caught.value.code == "invalid_value"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_weights_that_do_not_fit_are_named(sample, tmp_path):
    damaged = tmp_path / "damaged"
    export("huggingface", sample.directory, damaged)
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "vision_layers": 3}))
    with pytest.raises(UserError, match=r"do not belong to config\.json.*resblocks\.2") as caught:
        export("timm", damaged, tmp_path / "out")
    assert caught.value.code == "encoder_unreadable"


def test_the_command_exports_or_says_why_not(sample, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["interop", "export", *arguments])
        return command.main()

    assert run("huggingface", str(sample.directory), str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "modeling_lcl.py").is_file()
    other = save_huggingface(tmp_path / "vit", "vit")
    assert run("onnx", str(other), str(tmp_path / "three")) == 2
