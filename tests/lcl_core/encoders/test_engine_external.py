"""Encoders of other libraries are served as their towers answer, and refuse what they cannot do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.engine import estimate_memory, open_engine
from lcl_core.encoders.registry import load_image_encoder
from tests.lcl_core.encoders.external_samples import save_huggingface

TEXTS = ["a red bus", "blue", "the end of the image of a red bus of a blue bus of the end"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return save_huggingface(tmp_path_factory.mktemp("clip"), "clip")


@pytest.fixture(scope="module")
def sight(tmp_path_factory):
    return save_huggingface(tmp_path_factory.mktemp("vit"), "vit")


def test_vectors_are_the_towers_own(pair, drawings):
    session, tower = open_engine(pair, device="cpu"), load_image_encoder(pair)
    pooled, _ = tower.encode(tower.preprocess(drawings))
    words = tower.encode_texts(TEXTS)
    assert pooled is not None
    assert words is not None
    np.testing.assert_allclose(session.embed_images(drawings), pooled.numpy(), atol=1e-6)
    np.testing.assert_allclose(session.embed_texts(TEXTS), words.numpy(), atol=1e-6)
    assert (session.dim, session.encoder.tokens, session.reads_texts) == (20, 16, True)
    assert session.hash == tower.identity["weights"]
    assert session.count_tokens(TEXTS) == [5, 3, 12]
    assert session.embed_images([]).shape == session.embed_texts([]).shape == (0, 20)


@pytest.mark.parametrize("name", ["pair", "sight"])
def test_its_size_is_known_before(name, request):
    directory: Path = request.getfixturevalue(name)
    tower = load_image_encoder(directory)
    modules = [tower.module, *([tower.text_encoder.module] if tower.text_encoder else [])]
    weights = {id(weight): weight for module in modules for weight in module.parameters()}
    taken = sum(weight.numel() * weight.element_size() for weight in weights.values())
    assert taken <= estimate_memory(directory, "cpu", "bf16") <= 1.01 * taken, "autocast keeps no second copy of these"


def test_what_it_cannot_do_is_refused(sight, drawings):
    session = open_engine(sight, device="cpu")
    assert not session.reads_texts
    with pytest.raises(UserError) as caught:
        session.embed_texts(["a"])
    assert caught.value.code == "no_text_encoder"
    with pytest.raises(UserError) as caught:
        session.caption(drawings[:1])
    assert caught.value.code == "unsupported"
    with pytest.raises(UserError) as caught:
        session.continue_document(["a"])
    assert caught.value.code == "unsupported"
