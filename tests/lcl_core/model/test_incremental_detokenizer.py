"""Pieces of a text add up to the text, and none holds half a character."""

from __future__ import annotations

import random

import pytest

from lcl_core.data import train_bpe
from lcl_core.data.tokenizer import clip_tokenizer
from lcl_core.model import LCLProcessor
from lcl_core.model.generation import IncrementalDetokenizer

TOKENIZERS = {"CLIP's": clip_tokenizer, "trained": lambda: train_bpe(["a red fox", "ein grüner Fuß 🦊"] * 3, 300)}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def pieces_of(tokenizer, ids):
    spelling = IncrementalDetokenizer(LCLProcessor(tokenizer, 16))
    return [*(spelling.add(token) for token in ids), spelling.flush()]


TEXTS = ("a red fox, and 3 fish!", "ein grüner fuß", "the fox 🦊 of 東京 and 👩‍🚀", "< /w> </w")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_piece_by_piece(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == LCLProcessor(tokenizer, 16).decode(ids)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert sum(map(bool, pieces)) >= min(3, len(text.split())), "not all of it at once"


def test_whatever_is_decoded_adds_up(tokenizer):
    draw = random.Random(0)
    processor = LCLProcessor(tokenizer, 16)
    common = min(300, tokenizer.specials.sot)
    letters = tokenizer.encode("< / w > é 🦊")  # whose parts mean something else together
    for _ in range(200):
        ids = [draw.choice(letters) if draw.random() < 0.5 else draw.randrange(common) for _ in range(12)]
        assert "".join(pieces_of(tokenizer, ids)) == processor.decode(ids), ids


def test_an_end_is_no_text(tokenizer):
    spelling = IncrementalDetokenizer(LCLProcessor(tokenizer, 16))
    (token, *_) = tokenizer.encode("a")
    spelling.add(token)
    assert not spelling.ended
    assert spelling.add(tokenizer.specials.soi) == ""
    assert spelling.ended
    assert spelling.text == "a"
