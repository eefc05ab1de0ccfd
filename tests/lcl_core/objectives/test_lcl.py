"""The LCL objective: weights, empty batches, and a slow re-statement of its equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lcl_core.model import PackedBatch
from lcl_core.objectives.lcl import Lcl
from tests.lcl_core.reference_loss import compute_loss


def test_losses_follow_the_equations(small_model, documents, pixels):
    out = compute_loss(
        Lcl.from_config(small_model.config), small_model, PackedBatch.pack(documents, pixels, small_model.config)
    )
    contrastive, generation = restated(small_model, documents, pixels)
    assert float(out.contrastive_loss) == pytest.approx(0.1 * contrastive, rel=1e-5)
    assert float(out.generation_loss) == pytest.approx(generation, rel=1e-5)
    assert torch.equal(out.loss, out.contrastive_loss + out.generation_loss)


def restated(model, documents, pixels):
    """Document by document and token by token, as the paper writes it."""
    config = model.config
    latents, tokens = model.encode_images(pixels)
    image, images, texts, nll = 0, [], [], []
    for document in documents:
        embedded = model.text.token_embedding(document).clone()
        starts = torch.nonzero(document == config.soi_token_id).flatten().tolist()
        for start in starts:
            embedded[start + 1 : start + 5] = tokens[image + starts.index(start)]
        batch = PackedBatch.pack([document], pixels[image : image + len(starts)], config)
        hidden = model.text(embedded, torch.arange(len(document)), batch.layout)
        for start in starts:
            if document[:start].tolist() not in ([], [config.sot_token_id]):
                images.append(F.normalize(latents[image], dim=0))
                projected = model.text.ln_final(hidden[start]) @ model.text.text_projection
                texts.append(F.normalize(projected, dim=0))
            image += 1
        for place, following in enumerate(document[1:].tolist()):
            if following not in (config.img_token_id, config.eoi_token_id):
                nll.append(-model.lm_head(hidden[place]).log_softmax(0)[following])
    scores = model.logit_scale.exp() * torch.stack(images) @ torch.stack(texts).T
    both = [-scores.log_softmax(side).diagonal().mean() for side in (0, 1)]
    return float(sum(both) / 2), float(sum(nll) / len(nll))


def test_a_batch_without_pairs_costs_nothing_unless_official(small_model, documents, pixels):
    rows, images = documents[3:], pixels[:1]
    fixed = compute_loss(
        Lcl.from_config(small_model.config), small_model, PackedBatch.pack(rows, images, small_model.config)
    )
    assert float(fixed.contrastive_loss) == 0.0
    fixed.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in small_model.parameters() if p.grad is not None)
    small_model.set_numerics("official")
    official = compute_loss(
        Lcl.from_config(small_model.config), small_model, PackedBatch.pack(rows, images, small_model.config)
    )
    assert math.isnan(float(official.contrastive_loss))
