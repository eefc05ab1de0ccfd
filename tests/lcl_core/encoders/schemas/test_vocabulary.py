"""Vocabularies of early files say no type; those of SentencePiece have more merges than words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.schemas.base import MAX_VOCABULARY, data_files
from lcl_core.encoders.schemas.tokenizer import check_tokenizer
from lcl_core.encoders.schemas.vocabulary import MAX_MERGES, check_vocabulary

WORDPIECE = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
BPE = {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
UNTYPED: dict[str, dict[str, Any]] = {
    "WordPiece": {**WORDPIECE, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}},
    "BPE": {**BPE, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "Unigram": {"unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2]]},
    "WordLevel": {"unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1, "b": 2}},
}


@pytest.mark.parametrize("kind", UNTYPED)
def test_a_type_that_is_not_said_is_known_by_the_names(kind: str) -> None:
    path, model = Path("tokenizer.json"), UNTYPED[kind]
    assert len(check_vocabulary(path, model, 3)) == 3
    assert check_vocabulary(path, {"type": kind, **model}, 3) == check_vocabulary(path, model, 3)
    with pytest.raises(UserError, match="unheard"):
        check_vocabulary(path, {**model, "unheard": 1}, 3)


def test_a_model_of_unknown_type_is_refused() -> None:
    for model in ({"vocab": {"a": 0}}, {"type": None, "vocab": {"a": 0}}, {"type": "Other", **UNTYPED["BPE"]}):
        with pytest.raises(UserError, match=r"model\.type"):
            check_vocabulary(Path("tokenizer.json"), model, 3)


def test_a_file_may_have_the_size_of_gemmas(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    body = json.dumps({"version": "1.0", "model": UNTYPED["BPE"], "added_tokens": []})
    path.write_text(body + " " * (34_363_039 - len(body)))
    assert data_files(tmp_path) == [path]
    assert check_tokenizer(path, 3) == 3
    path.write_text(body + " " * MAX_VOCABULARY)
    with pytest.raises(UserError, match="bytes are more than"):
        data_files(tmp_path)


def test_merges_may_outnumber_words_and_stay_bounded() -> None:
    words = {"a": 0, "b": 1, "ab": 2, "aba": 3, "ba": 4}
    several = [["a", "b"], ["ab", "a"], ["b", "a"], ["a", "ba"], ["ab", "a"], ["a", "ba"]]
    assert check_vocabulary(Path("tokenizer.json"), {"type": "BPE", "vocab": words, "merges": several}, 5) == words
    many = [["a", "b"]] * (MAX_MERGES + 1)
    with pytest.raises(UserError, match="merges"):
        check_vocabulary(Path("tokenizer.json"), {"type": "BPE", "vocab": words, "merges": many}, 5)
    wrong = [["a", "b"], ["b", "b"]]
    with pytest.raises(UserError, match="merge 1 is of words"):
        check_vocabulary(Path("tokenizer.json"), {"type": "BPE", "vocab": words, "merges": wrong}, 5)
