"""A real, small encoder from disk: vectors, captions, health, and what happens to a damaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lcl_core.common.errors import UserError
from lcl_core.encoders import base
from lcl_core.encoders import engine as module
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.model import LCLModel, LCLProcessor


@pytest.fixture(scope="module")
def session(encoder):
    return EncoderEngine(encoder, device="cpu")


def refused(directory, code):
    with pytest.raises(UserError) as caught:
        EncoderEngine(directory, device="cpu")
    assert caught.value.code == code
    return caught.value


def test_vectors_are_the_models_own(session, encoder, drawings):
    model, processor = LCLModel.from_pretrained(encoder), LCLProcessor.from_pretrained(encoder)
    texts = ["ant", "a red bus", "", "x" * 4000]
    with torch.no_grad():
        images = model.get_image_features(pixel_values=processor.preprocess(drawings))
        words = model.get_text_features(input_ids=processor.encode_texts(texts), context_length=48)
    assert session.embed_images(drawings) == pytest.approx(images.numpy(), abs=1e-5)
    assert session.embed_texts(texts) == pytest.approx(words.numpy(), abs=1e-5)
    assert session.embed_images(drawings).dtype == np.float32
    assert session.dim == images.shape[1]


def test_in_bf16_vectors_hardly_turn(session, encoder, drawings):
    half = EncoderEngine(encoder, device="cpu", precision="bf16")
    texts = ["ant", "a red bus", "", "x" * 4000]
    for exact, rough in (
        (session.embed_images(drawings), half.embed_images(drawings)),
        (session.embed_texts(texts), half.embed_texts(texts)),
    ):
        assert rough.dtype == np.float32
        assert np.linalg.norm(rough, axis=1) == pytest.approx(np.ones(len(rough)), abs=1e-6)
        assert not np.array_equal(exact, rough), "it was computed in another precision"
        assert (exact * rough).sum(axis=1).min() > 0.999
    assert half.caption(drawings[:2]) == session.caption(drawings[:2])


def test_a_long_list_is_cut_into_passes(session, drawings, monkeypatch):
    whole, words = session.embed_images(drawings), session.embed_texts(["a", "b", "c"])
    monkeypatch.setattr(module, "BATCH_SIZE", 5)
    assert session.embed_images(drawings) == pytest.approx(whole, abs=1e-5)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    assert session.embed_texts(["a", "b", "c"]) == pytest.approx(words, abs=1e-5)


def test_tokens_are_counted_as_they_are_read(session):
    words = ["ant", "", "a word " * 400]
    ids = session.encoder.processor.encode_texts(words[:1])
    assert session.count_tokens(words) == [ids.shape[1], 2, 48]
    assert session.encoder.tokens == 4
    assert [session.filled_context(text) for text in words] == [None, None, 48]


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}, {"top_p": 0.9, "seed": 4, "temperature": 2.0}])
def test_captions_are_one_a_image_and_the_same_again(session, drawings, decoding):
    captions = session.caption(drawings[:3], max_new_tokens=6, **decoding)
    assert len(captions) == 3
    assert all(isinstance(caption, str) for caption in captions)
    assert captions == session.caption(drawings[:3], max_new_tokens=6, **decoding)


def test_sampling_follows_its_seed(session, drawings):
    one, other = (session.caption(drawings[:4], top_p=1.0, temperature=5.0, seed=seed) for seed in (1, 2))
    assert one != other


@pytest.mark.parametrize(
    ("decoding", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"num_beams": 17}, "num_beams"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 0.5, "num_beams": 2}, "top_p"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_decodings_name_their_field(session, drawings, decoding, field):
    with pytest.raises(UserError) as caught:
        session.caption(drawings[:1], **decoding)
    assert (caught.value.code, caught.value.field) == ("invalid_value", field)


def test_health_runs_the_model(encoder):
    session = EncoderEngine(encoder, device="cpu", warm_up=False)
    session.health()
    with torch.no_grad():
        next(session.encoder.model.visual.parameters()).fill_(float("nan"))
    with pytest.raises(UserError) as caught:
        session.health()
    assert caught.value.code == "encoder_unreadable"


def test_an_encoder_with_damaged_weights_is_found_at_loading(encoder, tmp_path):
    damaged = Path(shutil.copytree(encoder, tmp_path / "damaged"))
    weights = load_file(damaged / "model.safetensors")
    spoilt = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights.items()}
    save_file(spoilt, damaged / "model.safetensors", metadata={"format": "pt"})
    refused(damaged, "encoder_unreadable")


def test_weights_that_do_not_fill_the_model_are_refused(encoder, tmp_path):
    partial = Path(shutil.copytree(encoder, tmp_path / "partial"))
    weights = load_file(partial / "model.safetensors")
    del weights["text.ln_final.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    assert "text.ln_final.weight" in refused(partial, "encoder_unreadable").message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{ not json", b"[1]"])
def test_a_missing_or_broken_file_is_an_answer_not_a_traceback(encoder, tmp_path, name, content):
    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    if content is None:
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(content)
    error = refused(broken, "encoder_unreadable")
    assert error.file is not None
    assert error.file.startswith(str(broken))


def test_sizes_that_contradict_the_weights_are_refused(encoder, tmp_path):
    other = Path(shutil.copytree(encoder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"text_width": 48}))
    refused(other, "encoder_unreadable")


def test_an_unknown_device_is_refused(encoder):
    for device in ("quantum", "cuda:99"):
        with pytest.raises(UserError) as caught:
            EncoderEngine(encoder, device=device)
        assert caught.value.code == "invalid_value"


def test_convolutions_in_fp32_are_not_rounded_on_a_gpu(encoder, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # PyTorch's default
    monkeypatch.setattr(base, "pick_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    EncoderEngine(encoder, "cpu")
    assert not torch.backends.cudnn.allow_tf32
