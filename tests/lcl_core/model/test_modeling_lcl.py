"""The model against the authors' tensors, and the properties that hold without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

import lcl_core
from lcl_core.encoders.original_checkpoint import load_official
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor, PackedBatch
from lcl_core.model.generation import generate_captions
from lcl_core.objectives.lcl import Lcl
from lcl_core.train.optimizer import build_optimizer
from tests.lcl_core.reference_loss import compute_loss

DRAWINGS = Path(lcl_core.__file__).parent / "pretrained" / "drawings-v3"
CASES = ("model_a", "model_b")
SHIFT_INVARIANT = ("cross_attn.k_bias", "norm1_k.bias")


def within(ours, case, name):
    """Whether an output is as near to the float64 reference as the authors' own fp32, with room for round-off."""
    exact = load_file(case / "outputs_f64.safetensors")[name]
    theirs = load_file(case / "outputs.safetensors")[name].double()
    scale = max(float(exact.abs().max()), 1.0)
    allowed = 4 * float((theirs - exact).abs().max()) + 3e-6 * scale
    return float((ours.detach().double() - exact).abs().max()) <= allowed


def learnt(model, documents, pixels):
    return compute_loss(Lcl.from_config(model.config), model, PackedBatch.pack(documents, pixels, model.config))


def loaded(case):
    model = load_official(case / "config.json", case / "weights.safetensors").set_numerics("official")
    return model, load_file(case / "inputs.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_outputs_match_the_authors(golden, name):
    model, inputs = loaded(golden / name)
    out = model(pixel_values=inputs["images"], input_ids=inputs["text_ids"])
    assert within(out.image_latents, golden / name, "image_latent")
    assert within(out.patch_tokens, golden / name, "image_embs")
    for field in ("image_features", "text_features", "contrastive_loss", "generation_loss"):
        assert within(out[field], golden / name, field), field
    assert within(out.loss, golden / name, "total_loss")
    real = inputs["text_ids"] != 0
    expected = load_file(golden / name / "outputs_f64.safetensors")["text_outputs"][real]
    torch.testing.assert_close(out.hidden.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_match_the_authors(golden, name):
    model, inputs = loaded(golden / name)
    model(pixel_values=inputs["images"], input_ids=inputs["text_ids"]).loss.backward()
    exact = load_file(golden / name / "grads_f64.safetensors")
    theirs = load_file(golden / name / "grads.safetensors")
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        if key.endswith(SHIFT_INVARIANT):
            assert float(parameter.grad.abs().max()) < 1e-7
            continue
        peak = float(exact[key].abs().max())
        worst = float((theirs[key].double() - exact[key]).abs().max()) / peak
        error = float((parameter.grad.double() - exact[key]).abs().max()) / peak
        assert error <= 4 * worst + 1e-5, key


@pytest.mark.parametrize("name", CASES)
def test_three_optimiser_steps_match_the_authors(golden, name):
    model, inputs = loaded(golden / name)
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.2)
    trace = json.loads((golden / name / "meta.json").read_text())["train"]["trace"]
    for expected in trace:
        out = model(pixel_values=inputs["images"], input_ids=inputs["text_ids"])
        assert float(out.contrastive_loss.detach()) == pytest.approx(expected["contrastive_loss"], abs=1e-5)
        assert float(out.generation_loss.detach()) == pytest.approx(expected["generation_loss"], abs=1e-5)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        model.clamp_logit_scale_()


@pytest.mark.parametrize("name", CASES)
def test_encoders_match_the_authors(golden, name):
    model, inputs = loaded(golden / name)
    ids = inputs["encode_text_ids"].clone()
    length = int(inputs["encode_text_context_length"])
    with torch.no_grad():
        assert within(model.get_text_features(ids, length), golden / name, "encode_text_normalized")
        assert within(model.get_image_features(inputs["images"]), golden / name, "encode_image_normalized")
    assert torch.equal(ids, inputs["encode_text_ids"]), "the caller's ids were written to"


def test_padded_call_equals_packed_call(small_model, documents, pixels):
    padded = small_model(pixel_values=pixels, input_ids=pad_sequence(documents, batch_first=True))
    packed = learnt(small_model, documents, pixels)
    assert torch.equal(padded.loss, packed.loss)


def test_a_document_does_not_see_its_neighbours(small_model, documents, pixels):
    changed = [documents[0].clone(), *documents[1:]]
    changed[0][1] = 77
    before = learnt(small_model, documents, pixels).hidden
    after = learnt(small_model, changed, pixels).hidden
    first = len(documents[0])
    assert not torch.equal(before[:first], after[:first])
    assert torch.equal(before[first:], after[first:])


def test_packed_generation_loss_is_the_mean_over_single_documents(small_model, documents, pixels):
    counts = [1, 2, 1, 1]
    total, labels = 0.0, 0
    for document, images in zip(documents, pixels.split(counts), strict=True):
        batch = PackedBatch.pack([document], images, small_model.config)
        total += float(compute_loss(Lcl.from_config(small_model.config), small_model, batch).generation_loss) * len(
            batch.labels
        )
        labels += len(batch.labels)
    packed = learnt(small_model, documents, pixels)
    assert float(packed.generation_loss) == pytest.approx(total / labels, rel=1e-6)


def test_save_and_load_through_the_auto_class(small_config, tmp_path):
    from transformers import AutoModel

    model = LCLModel(small_config)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, LCLModel)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@torch.inference_mode()
def test_half_precision_weights_take_what_the_processor_gives():
    """The encoder that ships is saved in bf16, and ``from_pretrained`` keeps that."""
    full, half = LCLModel.from_pretrained(DRAWINGS, dtype=torch.float32), LCLModel.from_pretrained(DRAWINGS)
    assert half.dtype == torch.bfloat16
    processor = LCLProcessor.from_pretrained(DRAWINGS)
    given = processor(images=[Image.radial_gradient("L"), Image.linear_gradient("L")], text=["a red fish", "a sun"])
    pixels = given["pixel_values"]
    assert half.get_patch_features(pixels).dtype == torch.bfloat16
    for name, found, expected in (
        ("images", half.get_image_features(pixels), full.get_image_features(pixels)),
        ("texts", half.get_text_features(given["input_ids"]), full.get_text_features(given["input_ids"])),
    ):
        assert found.dtype == torch.float32, name
        assert float((found * expected).sum(1).min()) > 0.999, name
    config = full.config
    image = [config.soi_token_id, *[config.img_token_id] * config.num_image_tokens, config.eoi_token_id]
    rows = torch.tensor([[config.sot_token_id, 5, 6, 7, *image, 8, 9, config.eot_token_id]] * 2)
    losses = [float(model(pixel_values=pixels, input_ids=rows).loss) for model in (half, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert all(isinstance(text, str) for text in generate_captions(half, processor, pixels, max_new_tokens=3))


def test_initial_weights_have_the_authors_spread(golden):
    stats = json.loads((golden / "init_stats_LCL_ViT-B-32_mmc4.json").read_text())
    model = LCLModel(LCLConfig())
    assert model.num_parameters() == 178_642_945
    parameters = stats.get("parameters", stats)
    for key, value in model.state_dict().items():
        expected = parameters[key]["std"]
        assert float(value.std()) == pytest.approx(expected, rel=0.15, abs=1e-3) if value.numel() > 1 else True, key
