"""The reference that the generated cases are measured against, itself measured against the authors' tensors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.encoders.original_checkpoint import read_official_config
from tests.lcl_core.reference_cases import (
    SHIFT_INVARIANT,
    distance,
    distributed_contrastive,
    encode_text,
    loss_trace,
    recipe_weights,
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


@pytest.mark.parametrize("name", CASES)
def test_its_steps_are_the_authors(golden, name):
    model, inputs = restated(golden / name, torch.float32)
    expected = json.loads((golden / name / "meta.json").read_text())["train"]["trace"]
    for losses, wanted in zip(
        loss_trace(model, inputs["images"], inputs["text_ids"], len(expected), lr=1e-3), expected, strict=True
    ):
        assert losses == pytest.approx((wanted["contrastive_loss"], wanted["generation_loss"]), abs=1e-5)


def test_the_recipe_makes_the_authors_weights(golden):
    """The stored weights were made by it; the seed is the case's."""
    for name in CASES:
        stored = load_file(golden / name / "weights.safetensors")
        seed = json.loads((golden / name / "meta.json").read_text())["seed"]
        made = recipe_weights({key: tuple(value.shape) for key, value in stored.items()}, seed)
        for key, value in stored.items():
            torch.testing.assert_close(made[key], value, msg=key)


def test_shift_invariant_biases_have_no_gradient(golden):
    exact = load_file(golden / "model_a" / "grads_f64.safetensors")
    zero = [key for key, value in exact.items() if float(value.abs().max()) < 1e-15]
    assert sorted(zero) == sorted(key for key in exact if key.endswith(SHIFT_INVARIANT))


def test_distributed_losses_are_the_authors(golden):
    stored = load_file(golden / "dist_2rank" / "loss.safetensors")
    ranks = json.loads((golden / "dist_2rank" / "meta.json").read_text())["world_size"]
    names = ("image_features", "text_features", "logit_scale")
    inputs = [[stored[f"rank{rank}/{name}"].requires_grad_() for rank in range(ranks)] for name in names]
    losses = distributed_contrastive(*inputs)
    torch.autograd.backward(sum(losses, torch.tensor(0.0)))
    for rank, loss in enumerate(losses):
        torch.testing.assert_close(loss.detach()[None], stored[f"rank{rank}/contrastive_loss"])
        for name, tensors in zip(names, inputs, strict=True):
            torch.testing.assert_close(tensors[rank].grad, stored[f"rank{rank}/grad_{name}"], msg=f"{rank} {name}")


def test_one_rank_alone_has_the_plain_loss():
    """Two pairs that are each other's opposite: by hand, softplus(-2 s) both ways."""
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    (loss,) = distributed_contrastive([image], [image], [torch.tensor(1.5)], weight=1.0)
    assert float(loss) == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(-3.0))))


def test_ranks_with_fewer_images_weigh_more():
    """Splitting one batch over ranks unevenly changes the mean, but not what a row costs."""
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(4, 8, generator=generator), dim=1) for _ in range(2))
    scale = torch.tensor(3.0)
    (whole,) = distributed_contrastive([image], [text], [scale])
    one, three = distributed_contrastive([image[:1], image[1:]], [text[:1], text[1:]], [scale, scale])
    assert float(one + 3 * three) / 4 == pytest.approx(float(whole), rel=1e-6)
    assert abs(float(one + three) / 2 - float(whole)) > 1e-3
