"""Every objective's losses and all gradients against its equations, re-stated document by document in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lcl_core.objectives import OBJECTIVES
from tests.lcl_core.batch_partitions import PAIR_METHODS, key_of
from tests.lcl_core.objectives.reference_model import ReferenceModel, mean, unit
from tests.lcl_core.reference_loss import compute_loss

SOT, EOT, IMG, SOI, EOI = 95, 96, 97, 98, 99
BLOCK = [SOI, *[IMG] * 4, EOI]
Losses = dict[str, Tensor]
WEIGHTS = {"contrastive": 0.3, "generation": 0.7, "matching": 1.3, "regression": 2.0, "masked_text": 0.4}
WEIGHTS |= {"masked_image": 1.6}


def lcl(model, rows, pixels, batch):
    images, texts, words = [], [], []
    for ids, pictures in documents(rows, pixels):
        pooled = [model.pool(model.see(picture)) for picture in pictures]
        hidden = model.read(model.embed(ids, [tokens for _, tokens in pooled]))
        words += model.next_tokens(ids, hidden)
        for (latent, _), start in zip(pooled, starts(ids), strict=True):
            if ids[:start] not in ([], [SOT]):
                images.append(unit(latent))
                texts.append(model.context(hidden[start]))
    return {"contrastive": model.contrast(images, texts), "generation": mean(words)}


def flamingo(model, rows, pixels, batch):
    return {"generation": lcl(model, rows, pixels, batch)["generation"]}


def emu(model, rows, pixels, batch):
    words, errors = [], []
    for ids, pictures in documents(rows, pixels):
        tokens = [model.pool(model.see(picture))[1] for picture in pictures]
        hidden = model.read(model.embed(ids, tokens))
        words += model.next_tokens(ids, hidden)
        for start, wanted in zip(starts(ids), tokens, strict=True):
            for place, token in enumerate(wanted):
                guess = model.linear(model.norm(hidden[start + place], "regressor.0"), "regressor.1")
                errors.append((guess - token).square().mean())
    return {"generation": mean(words), "regression": mean(errors)}


def clip(model, rows, pixels, batch):
    images = [unit(model.pool(model.see(picture))[0]) for picture in pixels]
    contexts = [[SOT, *words(ids), SOI] for ids in rows]
    texts = [model.context(model.read(model.embed(ids, []))[-1]) for ids in contexts]
    return {"contrastive": model.contrast(images, texts)}


def coca(model, rows, pixels, batch):
    captions = []
    for ids, picture in zip(rows, pixels, strict=True):
        behind = [*BLOCK, *words(ids), EOT]
        hidden = model.read(model.embed(behind, [model.pool(model.see(picture))[1]]))
        captions += model.next_tokens(behind, hidden)
    return {**clip(model, rows, pixels, batch), "generation": mean(captions)}


def blip2(model, rows, pixels, batch):
    texts = [words(ids) for ids in rows]
    tokens = [model.pool(model.see(picture))[1] for picture in pixels]
    chosen = negatives(model, texts, pixels)
    assert chosen != [(0, 0)] * len(rows)
    errors = []
    for place, (text, picture) in enumerate(zip(texts, tokens, strict=True)):
        other_text, other_image = chosen[place]
        for image, caption, matched in (
            (picture, text, 1),
            (picture, texts[other_text], 0),
            (tokens[other_image].detach(), text, 0),
        ):
            hidden = model.read(model.embed([*BLOCK, *caption, EOT], [image]), causal=False)
            seen = model.linear(model.norm(hidden[1:5], "matcher.0"), "matcher.1").mean(0)
            errors.append(-seen.log_softmax(0)[matched])
    return {**coca(model, rows, pixels, batch), "matching": mean(errors)}


def negatives(model, texts, pixels):
    """For each pair the place of the text and of the image that are drawn."""
    images = torch.stack([unit(model.pool(model.see(picture))[0]) for picture in pixels])
    contexts = [model.context(model.read(model.embed([SOT, *text, SOI], []))[-1]) for text in texts]
    scores = model.weights["logit_scale"].exp() * images @ torch.stack(contexts).T
    keys = [key_of(place) for place in range(len(texts))]

    def drawn(own, row, salt):
        noisy = {
            other: float(row[other]) + noise(keys[own], keys[other], salt)
            for other in range(len(texts))
            if texts[other] != texts[own]
        }
        return max(noisy, key=noisy.__getitem__)

    return [(drawn(own, scores[own], 0), drawn(own, scores[:, own], 1)) for own in range(len(texts))]


def noise(own, other, salt):
    uniform = ((scrambled(own ^ scrambled((other + 2 * salt + 1) % 2**64)) >> 40) + 0.5) / 2**24
    return -math.log(-math.log(uniform))


def scrambled(x):
    """splitmix64's finaliser in whole numbers without a sign."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def beit3(model, rows, pixels, batch):
    """Which words and patches are hidden is the batch's to say."""
    hidden_words, hidden_patches = set(batch.label_positions.tolist()), batch.masked_patches.tolist()
    missed, errors, start, first = [], [], 0, 0
    for ids, pictures in documents(rows, pixels):
        blanks = [[p % 4 for p in hidden_patches if p // 4 == first + image] for image in range(len(pictures))]
        views = zip(pictures, blanks, strict=True)
        tokens = [model.pool(model.see(picture, blank, model.own["hidden_patch"]))[1] for picture, blank in views]
        embedded = list(model.embed(ids, tokens))
        places = [place for place in range(len(ids)) if start + place in hidden_words]
        for place in places:
            embedded[place] = model.own["hidden_word"]
        outputs = model.read(torch.stack(embedded), causal=False)
        missed += [-model.predict(outputs[place])[ids[place]] for place in places]
        for image, picture, blank in zip(starts(ids), pictures, blanks, strict=True):
            for patch in blank:
                wanted = model.patches(picture.double())[patch]
                wanted = (wanted - wanted.mean()) / (wanted.var() + 1e-6).sqrt()
                guess = model.linear(model.norm(outputs[image + 1 + patch], "pixels.0"), "pixels.1")
                errors.append((guess - wanted).square().mean())
        start, first = start + len(ids), first + len(pictures)
    return {"masked_text": mean(missed), "masked_image": mean(errors)}


def documents(rows, pixels):
    """Each document with its images."""
    left = iter(pixels)
    return [(ids, [next(left) for _ in starts(ids)]) for ids in rows]


def starts(ids):
    return [place for place, token in enumerate(ids) if token == SOI]


def words(ids):
    return [token for token in ids if token not in (SOT, EOT, IMG, *BLOCK)]


EQUATIONS = {method.__name__: method for method in (lcl, flamingo, emu, clip, coca, blip2, beit3)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_follow_the_equations(small_model, documents, pairs, pixels, collated, name):
    objective, batch = collated(name)
    objective.weights |= {loss: WEIGHTS[loss] for loss in objective.weights}
    out = compute_loss(objective, small_model, batch)
    out.loss.backward()
    plain = ReferenceModel(small_model, objective)
    rows = [row.tolist() for row in (pairs if name in PAIR_METHODS else documents)]
    expected = EQUATIONS[name](plain, rows, list(pixels), batch)
    assert out.losses.keys() == expected.keys()
    for loss, value in expected.items():
        assert float(out.losses[loss].detach()) == pytest.approx(WEIGHTS[loss] * float(value.detach()), rel=1e-5), loss
    torch.stack([WEIGHTS[loss] * value for loss, value in expected.items()]).sum().backward()
    for module, leaves in ((small_model, plain.weights), (objective, plain.own)):
        for parameter, own in module.named_parameters():
            wanted = leaves[parameter].grad
            if wanted is None:
                assert own.grad is None, parameter
                continue
            assert own.grad is not None, parameter
            room = 2e-5 * float(wanted.abs().max()) + 2e-8
            torch.testing.assert_close(own.grad.double(), wanted, atol=room, rtol=0, msg=parameter)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_idle_parameters_are_those_that_no_loss_reaches(small_model, collated, name):
    objective, batch = collated(name)
    compute_loss(objective, small_model, batch).loss.backward()
    for parameter, value in small_model.named_parameters():
        assert (value.grad is None) == parameter.startswith(objective.unused_parameters or ("nothing",)), parameter
    assert all(value.grad is not None for value in objective.parameters())
