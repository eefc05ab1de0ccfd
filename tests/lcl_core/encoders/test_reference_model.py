"""The reference that the generated cases are measured against, itself measured against the authors' tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.encoders.original_checkpoint import read_official_config
from tests.lcl_core.reference_cases import (
    distance,
    encode_text,
    reference_model,
)

CASES = ("model_a", "model_b")
F64_ROUND_OFF = 1e-9


def restated(case, dtype):
    config = read_official_config(case / "config.json")
    inputs = load_file(case / "inputs.safetensors")
    inputs["images"] = inputs["images"].to(dtype)
    return reference_model(config, load_file(case / "weights.safetensors"), dtype), inputs


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_authors_model_in_float64(golden, name):
    model, inputs = restated(golden / name, torch.float64)
    result = model(inputs["images"], inputs["text_ids"])
    exact = load_file(golden / name / "outputs_f64.safetensors")
    real = inputs["text_ids"] != 0
    found = {
        "image_latent": result.latents,
        "image_embs": result.tokens,
        "text_outputs": result.hidden * real[:, :, None],
        "image_features": result.image_features,
        "text_features": result.text_features,
        "contrastive_loss": result.contrastive_loss,
        "generation_loss": result.generation_loss,
        "encode_text_normalized": encode_text(
            model, inputs["encode_text_ids"], int(inputs["encode_text_context_length"])
        ),
    }
    for key, value in found.items():
        assert distance(value.reshape(exact[key].shape), exact[key]) < F64_ROUND_OFF, key


@pytest.mark.parametrize("name", CASES)
def test_its_gradients_are_the_authors_in_float64(golden, name):
    model, inputs = restated(golden / name, torch.float64)
    model(inputs["images"], inputs["text_ids"]).loss.backward()
    exact = load_file(golden / name / "grads_f64.safetensors")
    parameters = dict(model.named_parameters())
    assert parameters.keys() == exact.keys()
    for key, gradient in exact.items():
        assert parameters[key].grad is not None, key
        assert distance(parameters[key].grad, gradient) < F64_ROUND_OFF, key
