"""The loss is that of the answer alone, and reaches the bridge through a language model that stays as it is."""

import pytest
import torch
from torch.nn import functional as F

from lcl_core.evaluation.vlm.language_model import IMAGE_PLACEHOLDER, TokenSequence, collate, token_sequence
from lcl_core.evaluation.vlm.model import LlavaModel

WIDTH, PATCHES = 12, 4


@pytest.fixture
def llava(language):
    return LlavaModel(language, WIDTH, PATCHES, seed=0)


def patches(count, seed=0):
    return torch.randn(count, PATCHES, WIDTH, generator=torch.Generator().manual_seed(seed))


def said(language, prompt, answer):
    return token_sequence([IMAGE_PLACEHOLDER, *language.encode(prompt)]) + token_sequence(
        [*language.encode(answer), 1], target=True
    )


def alone(llava, sequence, seen):
    """[T] loss of each taught token, one row at a time, token by token: nothing of the packing is used."""
    model = llava.language.model
    embed = model.get_input_embeddings()
    parts = [
        llava.projector(seen[None])[0] if token == IMAGE_PLACEHOLDER else embed(torch.tensor([token]))
        for token in sequence.ids
    ]
    trained: list[tuple[int, int]] = []
    place = 0
    for token, learnt, part in zip(sequence.ids, sequence.loss_mask, parts, strict=True):
        if learnt:
            trained.append((place, token))
        place += len(part)
    logits = model(inputs_embeds=torch.cat(parts)[None]).logits[0]
    return torch.stack([-F.log_softmax(logits[place - 1], dim=-1)[token] for place, token in trained])


def test_the_loss_is_the_mean_over_answer_tokens_written_out(llava):
    language = llava.language
    texts = [said(language, "a", "red square"), said(language, "number 7 is", "blue"), said(language, "", "a green 1")]
    seen = patches(3)
    expected = torch.cat([alone(llava, text, each) for text, each in zip(texts, seen, strict=True)]).mean()
    torch.testing.assert_close(llava.loss(collate(texts, PATCHES), seen), expected)


def test_what_the_prompt_says_is_never_a_target(llava):
    text = said(llava.language, "a green square, number 8", "yes")
    rows = collate([text], PATCHES)
    assert rows.targets.tolist() == [*llava.language.encode("yes"), 1]
    everything = collate([TokenSequence(text.ids, tuple(token != IMAGE_PLACEHOLDER for token in text.ids))], PATCHES)
    assert llava.loss(rows, patches(1)).item() != pytest.approx(llava.loss(everything, patches(1)).item())


def test_gradients_reach_the_bridge_and_nothing_else(llava):
    llava.loss(collate([said(llava.language, "a", "red")], PATCHES), patches(1)).backward()
    assert all(parameter.grad is not None for parameter in llava.projector.parameters())
    assert all(parameter.grad is None for parameter in llava.language.model.parameters())


def test_the_bridge_starts_in_the_volume_of_the_embeddings(llava):
    own = llava.language.embeddings.square().mean().sqrt()
    for scale in (0.01, 1, 100):  # encoders differ in the size of their tokens
        seen = llava.projector(scale * patches(200)).square().mean().sqrt()
        assert 0.7 < seen / own < 1.4
