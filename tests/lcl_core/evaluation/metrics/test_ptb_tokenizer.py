"""Tokens against what Stanford's PTBTokenizer (CoreNLP 3.4.1) printed for the same captions."""

import json
from pathlib import Path

import pytest

from lcl_core.evaluation.metrics.ptb_tokenizer import tokenize, tokenize_all, treebank_tokens

# Pairs of a caption and the reference's tokens, punctuation removed. A mixed number has a no-break space.
RECORDED = json.loads((Path(__file__).parent / "treebank.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("caption", "tokens"), RECORDED)
def test_tokens_are_the_references(caption, tokens):
    assert tokenize(caption) == tokens.split(" ")


def test_punctuation_is_spelled_as_the_treebank_spells_it():
    found = " ".join(treebank_tokens("He said: \"No\" (twice) … then—'yes'."))
    assert found == "He said : `` No '' -LRB- twice -RRB- ... then -- ` yes ' ."


def test_brackets_stay_because_they_are_lowered_before_punctuation_goes():
    assert tokenize("(a)") == ["-lrb-", "a", "-rrb-"]


def test_a_letter_at_the_end_depends_on_the_next_caption():
    """As recorded: the reference reads a file of captions as one text."""
    assert tokenize_all(["Vitamin C.", "The sun.", "Vitamin C.", "dog"]) == [
        ["vitamin", "c"], ["the", "sun"], ["vitamin", "c."], ["dog"],
    ]  # fmt: skip


def test_nothing_makes_nothing():
    assert tokenize("") == tokenize("  \n ") == tokenize("...!") == tokenize("😀") == []


def test_a_newline_is_a_space():
    assert tokenize("a dog\nruns") == ["a", "dog", "runs"]


@pytest.mark.parametrize("stretch", ["a-", "a.", "http://a", "x@", "<a ", "1,", "a/", "'n", "(-", ". ", "&amp;"])
def test_long_odd_text_takes_no_long_time(stretch):
    assert tokenize(stretch * 400 + "end")
