"""Decoding with a cache writes what the plain forward pass would."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import GenerationConfig

from lcl_core.common.errors import UserError
from lcl_core.data import train_bpe
from lcl_core.model import LCLProcessor, PackedBatch, generation
from lcl_core.model.generation import (
    caption_prefix,
    generate_captions,
    generate_tokens,
)
from lcl_core.train.factory import build_model
from tests.lcl_core.model.transformers_decoder import TransformersDecoder


@pytest.fixture(scope="module")
def processor():
    return LCLProcessor(train_bpe(["a red fox", "a blue fish"] * 5, 300), image_size=16)


@pytest.fixture
def model(small_config, processor):
    specials = processor.tokenizer.specials
    small_config.vocab_size = processor.tokenizer.vocab_size
    small_config.sot_token_id, small_config.eot_token_id = specials.sot, specials.eot
    small_config.img_token_id, small_config.soi_token_id = specials.img, specials.soi
    small_config.eoi_token_id = specials.eoi
    model = build_model(small_config, seed=1).eval()
    model.lm_head[1].weight.data.mul_(20)  # decisive, so that ties do not matter
    return model


def uncached_greedy(model, pixels, steps):
    """The whole document again for every token."""
    config = model.config
    ids = [config.soi_token_id, *[config.img_token_id] * config.num_image_tokens, config.eoi_token_id]
    start = len(ids)
    with torch.no_grad():
        _, tokens = model.encode_images(pixels)
        for _ in range(steps):
            hidden = model.encode_documents(PackedBatch.pack([torch.tensor(ids)], pixels, config), tokens)
            ids.append(int(model.lm_head(hidden[-1]).argmax()))
            if ids[-1] in (config.eot_token_id, config.soi_token_id):
                break
    return ids[start:]


def test_greedy_equals_the_forward_pass(model, processor, pixels):
    captions = generate_captions(model, processor, pixels[:3], max_new_tokens=8)
    for caption, image in zip(captions, pixels[:3].split(1), strict=True):
        assert caption == processor.decode(uncached_greedy(model, image, 8))


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone(model, processor, pixels):
    model.lm_head[1].weight.data.div_(20)
    before = torch.get_rng_state()
    first = generate_captions(model, processor, pixels, max_new_tokens=6, top_p=0.95, seed=1)
    assert first == generate_captions(model, processor, pixels, max_new_tokens=6, top_p=0.95, seed=1)
    assert first != generate_captions(model, processor, pixels, max_new_tokens=6, top_p=0.95, seed=2)
    assert torch.equal(before, torch.get_rng_state())


def test_one_draws_as_transformers_do(model, processor, pixels):
    model.lm_head[1].weight.data.div_(20)
    prefix = caption_prefix(model, processor, pixels[:1])
    torch.manual_seed(5)
    config = GenerationConfig(
        max_new_tokens=9, do_sample=True, top_p=0.8, top_k=0, temperature=1.5, bos_token_id=0, pad_token_id=0
    )
    theirs = TransformersDecoder(model).generate(inputs_embeds=prefix, generation_config=config)[0].tolist()
    ours = generate_tokens(model, prefix, 9, 0.8, 1.5, [5])
    assert [int(ids) for ids in ours if ids is not None] == theirs


def test_a_drawn_caption_does_not_depend_on_its_company(model, processor, pixels):
    model.lm_head[1].weight.data.div_(20)
    together = generate_captions(model, processor, pixels, max_new_tokens=6, top_p=0.95, seed=3)
    alone = [
        generate_captions(model, processor, image, max_new_tokens=6, top_p=0.95, seed=3 + place)[0]
        for place, image in enumerate(pixels.split(1))
    ]
    assert together == alone


def test_no_more_is_written_than_there_is_room_for(model, processor, pixels):
    prefix = caption_prefix(model, processor, pixels[:2])
    room = model.config.context_length - prefix.shape[1]
    assert len(list(generate_tokens(model, prefix, 10_000))) == room
    assert len(list(islice(generate_tokens(model, prefix, 10_000), 3))) == 3


def test_a_long_prompt_is_read_in_steps(model, processor, pixels, monkeypatch):
    prefix = caption_prefix(model, processor, pixels[:2], "a red fox")
    expected = [ids.tolist() for ids in generate_tokens(model, prefix, 4) if ids is not None]
    monkeypatch.setattr(generation, "PROMPT_TOKENS", 8)
    steps = list(generate_tokens(model, prefix, 4))
    parts = -(-prefix.shape[1] // 4) - 1  # of four tokens of two rows; the last one gives a token
    assert parts > 1
    assert steps[:parts] == [None] * parts
    assert [ids.tolist() for ids in steps[parts:] if ids is not None] == expected


def test_a_prompt_is_continued_and_a_long_one_refused(model, processor, pixels):
    assert generate_captions(model, processor, pixels[:1], prompt="a red", max_new_tokens=3)
    with pytest.raises(UserError, match="shorten"):
        generate_captions(model, processor, pixels[:1], prompt="fox " * 60)
