"""ONNX files answer what the encoder answers, at any number of images and texts."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcl_core.data.image_decoding import decode_image
from lcl_core.encoders.export import export, onnx
from tests.lcl_core.encoders.export.conftest import encode_uncommon_images

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(sample, tmp_path_factory):
    target = tmp_path_factory.mktemp("onnx") / "out"
    export("onnx", sample.directory, target)
    return target


def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def test_vectors_are_the_encoders(sample, folder):
    image, text = session(folder / "image.onnx"), session(folder / "text.onnx")
    for count in (1, len(sample.pixels)):
        found = image.run(None, {"pixel_values": sample.pixels[:count].numpy()})[0]
        np.testing.assert_allclose(found, sample.images[:count], atol=1e-5)
    found = text.run(None, {"input_ids": sample.ids.numpy()})[0]
    np.testing.assert_allclose(found, sample.sentences, atol=1e-5)
    alone = text.run(None, {"input_ids": sample.ids[:1, :5].numpy()})[0]  # without an end: its last token is one
    np.testing.assert_allclose(alone, sample.model.get_text_features(sample.ids[:1, :5]).detach(), atol=1e-5)


def test_sizes_are_named_and_free(folder):
    image, text = session(folder / "image.onnx"), session(folder / "text.onnx")
    assert [(each.name, each.shape) for each in (*image.get_inputs(), *image.get_outputs())] == [
        ("pixel_values", ["n", 3, 32, 32]), ("image_embeds", ["n", 24]),
    ]  # fmt: skip
    assert [(each.name, each.shape) for each in (*text.get_inputs(), *text.get_outputs())] == [
        ("input_ids", ["n", "length"]), ("text_embeds", ["n", 24]),
    ]  # fmt: skip


def test_the_readme_runs_without_torch(sample, folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", words, re.MULTILINE | re.DOTALL)
    assert "torch" not in code
    names: dict[str, Any] = {"image": sample.sample_images[0]}
    exec(code.replace("DIR", str(folder)), names)
    np.testing.assert_allclose(names["images"], sample.images[:1], atol=1e-5)
    texts = sample.processor.encode_texts(["a red bus", "a blue circle"])
    np.testing.assert_allclose(names["texts"], sample.model.get_text_features(texts).detach(), atol=1e-5)
    # a curly quote, a letter with a combining mark, a ligature, wide letters, an entity twice
    for text in ("The cat\u2019s nap", "cafe\u0301", "\ufb01sh &amp;amp; \uff23\uff2c\uff29\uff30", "a  plain\tText"):
        assert names["ids"](text).tolist() == sample.processor.encode_texts([text]).tolist(), text
    uncommon = {name: (Image.open(io.BytesIO(data)), data) for name, data in encode_uncommon_images().items()}
    for name, (image, data) in uncommon.items():
        expected = sample.processor.preprocess([decode_image(data, name)])[0]
        np.testing.assert_allclose(names["pixels"](image, 32, names["fit"]), expected, atol=1e-6, err_msg=name)
    wide = Image.new("RGB", (1012, 506))  # a float that rounds below the whole number
    assert names["pixels"](wide, 32, names["fit"]).shape == (3, 32, 32)


@pytest.mark.parametrize("sample", [{"activation": "gelu"}], ids=["gelu"], indirect=True)
def test_weights_larger_than_a_file_can_hold_lie_beside_the_graphs(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "MAX_BYTES", 1000)
    export("onnx", sample.directory, tmp_path / "out")
    assert (tmp_path / "out" / "image.onnx.data").is_file()
    found = session(tmp_path / "out" / "image.onnx").run(None, {"pixel_values": sample.pixels.numpy()})[0]
    np.testing.assert_allclose(found, sample.images, atol=1e-5)
