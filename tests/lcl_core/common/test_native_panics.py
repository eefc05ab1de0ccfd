"""A library in Rust that panics fails one text, and ends no thread."""

import asyncio
import json

import pytest
import tokenizers

from lcl_core.common.errors import UserError, as_exception, tokenizer_errors
from lcl_core.data.tokenizer import Tokenizer, train_bpe
from lcl_core.serving.dynamic_batcher import DynamicBatcher

SECONDS = 60
REDOS = {
    "type": "Split", "pattern": {"Regex": r"(?:a|a|aa)+$"}, "behavior": "Isolated", "invert": False,
}  # fmt: skip
EVIL = "a" * 60 + "b"


class Panicking(BaseException):
    """As pyo3's PanicException: no Exception."""


def panicking_tokenizer():
    whole = json.loads(train_bpe(["a red bus"], 300).to_json())
    whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [REDOS, whole["pre_tokenizer"]["pretokenizers"][1]]}
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(whole)))


def test_a_tokenizers_panic_is_an_error_of_the_text():
    """The expression gives up after so many steps, and the library panics."""
    tokenizer = panicking_tokenizer()
    with pytest.raises(UserError) as caught:
        tokenizer.encode(EVIL)
    assert caught.value.code == "bad_tokenizer"
    assert tokenizer.encode("bus"), "it goes on"


def test_the_owner_thread_outlives_a_panic():
    def run(key, items):
        if EVIL in items:
            raise Panicking("in Rust")
        return [len(item) for item in items]

    batcher = DynamicBatcher(run)
    good, evil, other = batcher.submit("texts", ["ab", EVIL, "abc"])
    assert (good.result(SECONDS), other.result(SECONDS)) == (2, 3), "others of the batch are served"
    with pytest.raises((UserError, RuntimeError)):
        evil.result(SECONDS)
    assert batcher.submit("texts", ["abcd"])[0].result(SECONDS) == 4
    batcher.close()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_ends_a_thread_still_does(ending):
    with pytest.raises(ending), tokenizer_errors():
        raise ending
    with pytest.raises(ending):
        as_exception(ending())
