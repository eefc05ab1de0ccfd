"""Tokenizers: CLIP's, and those trained on a corpus."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from lcl_core.common.errors import UserError
from lcl_core.data import SpecialTokens, clip_tokenizer, load_tokenizer, train_bpe
from lcl_core.data import tokenizer as tokenizer_module
from lcl_core.encoders.check import CLIP_PATTERN, SPACED_PATTERN

WRITTEN_SPECIALS = [
    "<start_of_img>",
    "x <img_placehold> y",
    "&lt;end_of_img&gt;",
    "&amp;lt;start_of_img&amp;gt;",
    "<START_OF_TEXT> <End_Of_Text>",
    "<pad>",
    "<start_of_img>" * 50,
]


def test_clip_ids():
    clip = clip_tokenizer()
    assert clip.vocab_size == 49411
    assert clip.specials == SpecialTokens(49406, 49407, 49408, 49409, 49410, pad=0)
    assert clip.encode("Hello, World!") == [3306, 267, 1002, 256]
    assert clip.encode("a photo of a cat.") == [320, 1125, 539, 320, 2368, 269]
    assert clip.encode("1234") == [272, 273, 274, 275]
    assert 0 in clip.encode("wow!+"), "the id that fills rows is a real token too"
    assert clip.encode("") == []
    assert clip.decode([320, 1125, 539, 320, 2368, 269]) == "a photo of a cat . "


def test_clip_reference(golden):
    reference = json.loads((golden / "data" / "tokenizer.json").read_text(encoding="utf-8"))
    clip = clip_tokenizer()
    for case in reference["encode"]:
        assert clip.encode(case["text"], neutralise=False) == case["ids"], case["text"]
        assert clip.decode(case["ids"]) == case["decoded"]
        if "_of_" not in case["text"]:
            assert clip.encode(case["text"]) == case["ids"], case["text"]


def test_clip_needs_no_network_and_no_other_package():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was used')\n"
        "socket.socket.connect = refuse\n"
        "from lcl_core.data import clip_tokenizer\n"
        "assert clip_tokenizer().encode('hello') == [3306]\n"
        "assert not {'torch', 'transformers', 'open_clip', 'torchvision'} & set(sys.modules), 'too much imported'\n"
        "assert 'ftfy' not in sys.modules and 'regex' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize("text", WRITTEN_SPECIALS)
def test_special_tokens_written_in_text_stay_text(text, tokenizer):
    for each in (clip_tokenizer(), tokenizer):
        first_special = each.vocab_size - 5
        assert all(0 <= token < first_special for token in each.encode(text))
        assert each.encode(text)


def test_special_tokens_are_live_when_asked_for(tokenizer):
    for each in (clip_tokenizer(), tokenizer):
        soi, img = each.specials.soi, each.specials.img
        around = [*each.encode("foo"), soi, *each.encode("bar"), img]
        assert each.encode("foo &lt;START_of_img> bar <img_placehold>", neutralise=False) == around
        assert soi not in each.encode("!<start_of_img>", neutralise=False), "a run of punctuation swallows the bracket"


TEXTS = [
    "The red square, the green square.",
    "A square isn't round",
    "naïve café",
    "漢字 and emoji 👍",
    "x = y - 3",
] * 3


def test_trained_tokenizer_knows_every_text():
    trained = train_bpe(TEXTS, 400)
    for text in [*TEXTS, "unseen: żółw \u2603 👩‍🚀", "a\tb"]:
        assert trained.decode(trained.encode(text)).strip() == " ".join(text.lower().split())
    assert len(trained.encode("the red square")) < len("the red square") / 2


def test_trained_ids_have_padding_first_and_specials_last():
    trained = train_bpe(TEXTS, 300)
    size = trained.vocab_size
    assert size == 305
    assert trained.specials == SpecialTokens(size - 5, size - 4, size - 3, size - 2, size - 1, pad=0)
    used = {token for text in TEXTS for token in trained.encode(text)}
    assert min(used) > 0
    assert max(used) < size - 5


def test_training_depends_on_the_texts_alone():
    trained = train_bpe(TEXTS, 320).to_json()
    assert train_bpe(iter(reversed(TEXTS)), 320).to_json() == trained
    assert train_bpe([*TEXTS, "zebra crossing zebra crossing"], 320).to_json() != trained


def test_a_small_corpus_gives_fewer_ids():
    assert train_bpe(["ab ab"], 5000).vocab_size < 300
    assert train_bpe([], 300).vocab_size == 257 + 5


@pytest.mark.parametrize("size", [0, 5, 256])
def test_a_vocabulary_must_hold_every_byte(size):
    with pytest.raises(UserError, match="257 or more"):
        train_bpe(TEXTS, size)


def test_saving_and_loading(tmp_path, tokenizer):
    for number, each in enumerate((clip_tokenizer(), tokenizer)):
        file = tmp_path / f"{number}.json"
        each.save(file)
        loaded = load_tokenizer(file)
        plain = tokenizers.Tokenizer.from_file(str(file))
        for text in (*TEXTS, *WRITTEN_SPECIALS):
            ids = each.encode(text)
            assert loaded.encode(text) == ids
            assert loaded.decode(ids) == each.decode(ids)
            assert loaded.encode(text, neutralise=False) == each.encode(text, neutralise=False)
        assert plain.encode("a red square").ids == each.encode("a red square")
        assert (loaded.specials, loaded.vocab_size) == (each.specials, each.vocab_size)
        assert pickle.loads(pickle.dumps(each)).encode("a red square") == each.encode("a red square")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', "\0"])
def test_a_malformed_file_is_named(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        load_tokenizer(file)
    assert (caught.value.code, caught.value.file) == ("bad_tokenizer", str(file))


def test_missing_binary_and_foreign_files_are_named(tmp_path):
    file = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(file)
    file.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(file)
    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(file))
    with pytest.raises(UserError, match="special tokens"):
        load_tokenizer(file)


def test_a_returned_list_is_the_callers_own(tokenizer):
    tokenizer.encode("a red square").clear()
    assert tokenizer.encode("a red square")


def test_long_texts_are_not_kept(tokenizer):
    text = "a red square " * 200
    assert tokenizer.encode(text) == tokenizer.encode("a red square") * 200


def test_the_patterns_are_those_that_a_saved_tokenizer_may_have():
    assert (tokenizer_module.CLIP_PATTERN, tokenizer_module.SPACED_PATTERN) == (CLIP_PATTERN, SPACED_PATTERN)
