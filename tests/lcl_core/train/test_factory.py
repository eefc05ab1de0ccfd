"""From a spec to a tokenizer."""

from __future__ import annotations

import itertools
import json

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.data.tokenizer import load_tokenizer, train_bpe
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_tokenizer, prepare_tokenizer, read_shared_tokenizer
from tests.lcl_core.data.shards.conftest import Make

MODULE = "tests.lcl_core.train.counted_tokenizer"


def test_merges_are_learnt_from_the_texts_of_sequences_too(tmp_path):
    """A sequence in its own form lists its texts among the segments alone."""

    def vocabulary(**document):
        (tmp_path / "interleaved.jsonl").write_text(json.dumps(document) + "\n")
        spec = parse_spec("pretrain", {"tokenizer": {"vocab_size": 400}, "data": {"sources": [{"dataset": "it"}]}})
        assert isinstance(spec, PretrainSpec)
        return build_tokenizer(spec, {"it": open_corpus(tmp_path)}).vocab_size

    texts = ["the pump turns the wheel", "the wheel turns the pump"]
    listed = vocabulary(text_list=texts, image_info=[])
    assert listed > vocabulary(text_list=[], image_info=[])
    segments = [{"text": texts[0]}, {"image": "a.png"}, {"text": texts[1]}]
    assert vocabulary(text_list=[], image_info=[], segments=segments) == listed


def spec_of(*sources):
    return PretrainSpec.model_validate({"tokenizer": {"vocab_size": 400}, "data": {"sources": sources}})


@pytest.fixture
def shards(tmp_path):
    """Forty documents, each with a word of its own that occurs often in it; and as many pairs."""
    words = ["".join(letters) for letters in itertools.permutations("abcde", 3)][:40]
    documents = [Make.matched(word, [f"{word} " * 9], ("red.png", 0, 0.5)) for word in words]
    convert([*documents, *(Make.pair(f"p{word}", "red.png", word) for word in words)], tmp_path / "shards")
    return tmp_path / "shards"


@pytest.mark.parametrize("view", ["interleaved", "pairs"])
def test_a_fixed_sample_of_a_large_corpus_is_read(shards, view, monkeypatch):
    read = []
    description = ShardedCorpus.description

    def counted(self, record, with_images=True):
        assert not with_images, "no image is fetched for its text"
        read.append(record)
        return description(self, record, with_images)

    monkeypatch.setattr(ShardedCorpus, "description", counted)
    spec, corpora = spec_of({"dataset": "it", "view": view}), {"it": open_corpus(shards)}
    whole = build_tokenizer(spec, corpora).to_json()
    assert len(read) == 40
    read.clear()
    some = [build_tokenizer(spec, corpora, items=12).to_json() for _ in range(2)]
    assert some[0] == some[1]
    assert len(set(read)) == 12
    if view == "interleaved":
        assert some[0] != whole


def test_a_line_that_cannot_be_read_is_left_out(tmp_path):
    good = json.dumps({"text_list": ["the pump turns the wheel"], "image_info": []})
    (tmp_path / "interleaved.jsonl").write_text(f"{good}\nno JSON\n")
    assert build_tokenizer(spec_of({"dataset": "it"}), {"it": open_corpus(tmp_path)}).vocab_size > 262


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a tokenizer that knows words of no corpus here."""
    folder = tmp_path_factory.mktemp("shared")
    train_bpe(["zebra crossing"] * 3, 400).save(folder / "tokenizer.json")
    return folder


def spec_with(path, **changes):
    fields = {"tokenizer": {"path": str(path)}, "data": {"sources": [{"dataset": "it"}]}, **changes}
    return PretrainSpec.model_validate(fields)


@pytest.mark.parametrize("name", [".", "tokenizer.json", "link/words.json"])
def test_a_shared_tokenizer_is_copied_once(tmp_path, shards, shared, name):
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "words.json").symlink_to(shared / "tokenizer.json")
    path = (tmp_path if name.startswith("link") else shared) / name
    spec, corpora, run_dir = spec_with(path), {"it": open_corpus(shards)}, RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    first = prepare_tokenizer(spec, corpora, run_dir, RankGroup())
    assert first.to_json() == load_tokenizer(shared / "tokenizer.json").to_json()
    assert len(first.encode("zebra crossing")) < 4
    gone = spec_with(tmp_path / "gone.json")
    assert prepare_tokenizer(gone, corpora, run_dir, RankGroup()).to_json() == first.to_json(), "the run's own copy"


def test_another_tokenizer_is_rejected_with_field_and_file(tmp_path, shared):
    def changed(name, change):
        value = json.loads((shared / "tokenizer.json").read_text())
        change(value)
        (tmp_path / name).write_text(json.dumps(value))

    def rename(value):
        value["model"]["vocab"]["zebra"] = value["model"]["vocab"].pop("<end_of_img>")

    def swap(value):
        words = value["model"]["vocab"]
        words["<end_of_img>"], words["a"] = words["a"], words["<end_of_img>"]

    (tmp_path / "empty").mkdir()
    (tmp_path / "outward").mkdir()
    (tmp_path / "outward" / "tokenizer.json").symlink_to(shared / "tokenizer.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "text.json").write_text("{}")
    changed("pattern.json", lambda value: value["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"))
    changed("normaliser.json", lambda value: value.update(normalizer={"type": "Lowercase"}))
    changed("added.json", lambda value: value["added_tokens"].append({
        "id": 999, "content": "zebra", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": False,
    }))  # fmt: skip
    changed("names.json", rename)
    changed("order.json", swap)
    for name, problem in {
        "gone.json": "not in", "empty": "not in", "outward": "leads out", "bytes.json": "UTF-8",
        "text.json": "no tokenizer.json",
        "pattern.json": "patterns", "normaliser.json": "normaliser", "added.json": "patterns",
        "names.json": "special tokens", "order.json": "special tokens",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=problem) as caught:
            read_shared_tokenizer(str(tmp_path / name))
        assert (caught.value.code, caught.value.field) == ("bad_tokenizer", "tokenizer.path")
        assert str(tmp_path / name) in str(caught.value), "the file"
