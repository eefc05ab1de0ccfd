"""The product against the reference on models and documents of many forms, in ``official`` numerics."""

from __future__ import annotations

import pytest
import torch

from tests.lcl_core.reference_cases import (
    Case,
    allowed,
    distance,
    encode_text,
    official_config,
    random_case,
)
from tests.reference_model import normalize

CASES = {
    "one patch an image, narrow text, soi at position 0 and 1": Case(
        seed=1,
        official=official_config(16, 16, (64, 2, 16), (32, 2, 2), 2, context=48, vocabulary=120),
        layouts=(("image", 5, "eot"), ("sot", "image", 4, "eot"), ("sot", 9, "image"), ("sot", 3, "image", "eot")),
        padding=7,
    ),
    "four patches, quick_gelu, three text layers, pool heads of their own": Case(
        seed=2,
        official=official_config(16, 8, (32, 1, 32), (64, 3, 4), 8, context=40, vocabulary=90, quick_gelu=True),
        layouts=(
            ("sot", 6, "image", "image", 5, "eot"),
            ("image", 8, "image", 2, "eot"),
            ("sot", 11, "image", 3, "image", 4, "image", 2, "eot"),
        ),
    ),
    "nine patches, wide vision, cuts of every kind": Case(
        seed=3,
        official=official_config(24, 8, (96, 3, 32), (48, 2, 3), 3, context=36, vocabulary=200),
        layouts=(
            ("sot", 22, "image", 1, "eot"),  # full length, cut in the text
            ("sot", 24, "open", "eot"),  # the cut took the image's end
            ("sot", 34, "eot"),  # the cut went through the only image
            ("sot", 7, "image", "eot"),
        ),
    ),
    "vision as wide as text, a document without images between others, one token alone": Case(
        seed=4,
        official=official_config(32, 16, (32, 2, 16), (32, 1, 2), 2, context=64, vocabulary=70),
        layouts=(("sot", 4, "image", 9, "eot"), ("sot", 30, "eot"), ("sot",), ("image", "image", "image", "eot")),
        padding=2,
    ),
    "two documents as different in length as can be": Case(
        seed=5,
        official=official_config(24, 8, (64, 2, 32), (32, 4, 1), 1, context=128, vocabulary=60),
        layouts=(("sot", 90, "image", 25, "eot"), ("sot", 2, "image")),
    ),
    **{f"drawn {seed}": random_case(seed) for seed in (10, 11)},
}


@pytest.fixture(params=CASES)
def three(request, trio):
    return trio(CASES[request.param])


def test_outputs(three):
    found = three.product(pixel_values=three.images, input_ids=three.ids)
    plain = three.plain(three.images, three.ids)
    exact = three.exact(three.images.double(), three.ids)
    real = three.ids != 0
    pairs = {
        "loss": (found.loss, plain.loss, exact.loss),
        "hidden": (found.hidden, plain.hidden[real], exact.hidden[real]),
        "latents": (found.image_latents, plain.latents, exact.latents),
        "tokens": (found.patch_tokens, plain.tokens, exact.tokens),
    }
    for name in ("contrastive_loss", "generation_loss", "image_features", "text_features"):
        pairs[name] = (found[name], getattr(plain, name), getattr(exact, name))
    for name, (ours, rough, true) in pairs.items():
        assert distance(ours, true) <= allowed(true, rough), name
    assert len(found.image_features) == len(found.text_features) > 1


def test_gradients(three):
    three.product(pixel_values=three.images, input_ids=three.ids).loss.backward()
    three.plain(three.images, three.ids).loss.backward()
    three.exact(three.images.double(), three.ids).loss.backward()
    plain, exact = dict(three.plain.named_parameters()), dict(three.exact.named_parameters())
    for name, parameter in three.product.named_parameters():
        true = exact[name].grad
        assert parameter.grad is not None, name
        assert true is not None, name
        peak = float(true.abs().max())
        if peak < 1e-15:  # by mathematics: shift-invariant biases, the query of a single patch
            assert float(parameter.grad.abs().max()) < 1e-7, name
            continue
        worst = distance(plain[name].grad, true) / peak
        assert distance(parameter.grad, true) / peak <= 4 * worst + 1e-5, name


def test_encoders(three):
    def reference(model, texts, length):
        images = three.images.to(model.logit_scale.dtype)
        return normalize(model.pool_project.pool(model.visual(images))), encode_text(model, texts, length)

    columns = three.ids.shape[1]
    for length in (columns, 9):  # all of each text; most of them cut
        texts = three.case.texts([3, 1, columns - 2, columns, 7, 0], columns)
        with torch.no_grad():
            images = three.product.get_image_features(pixel_values=three.images)
            words = three.product.get_text_features(input_ids=texts, context_length=length)
            rough, true = reference(three.plain, texts, length), reference(three.exact, texts, length)
        for ours, plain, exact in zip((images, words), rough, true, strict=True):
            assert distance(ours, exact) <= allowed(exact, plain)
