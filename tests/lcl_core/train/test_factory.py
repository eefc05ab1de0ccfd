"""From a spec to a tokenizer."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train import factory
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_tokenizer, prepare_tokenizer
from tests.lcl_core.data.shards.conftest import Make
from tests.lcl_core.train.rank_processes import run_together

SCRIPT = Path(__file__).with_name("counted_tokenizer.py")


def test_merges_are_learnt_from_the_texts_of_sequences_too(tmp_path: Path) -> None:
    """A sequence in its own form lists its texts among the segments alone."""

    def vocabulary(**document: Any) -> int:
        (tmp_path / "interleaved.jsonl").write_text(json.dumps(document) + "\n")
        spec = parse_spec("pretrain", {"tokenizer": {"vocab_size": 400}, "data": {"sources": [{"dataset": "it"}]}})
        assert isinstance(spec, PretrainSpec)
        return build_tokenizer(spec, {"it": open_corpus(tmp_path)}).vocab_size

    texts = ["the pump turns the wheel", "the wheel turns the pump"]
    listed = vocabulary(text_list=texts, image_info=[])
    assert listed > vocabulary(text_list=[], image_info=[])
    segments = [{"text": texts[0]}, {"image": "a.png"}, {"text": texts[1]}]
    assert vocabulary(text_list=[], image_info=[], segments=segments) == listed


def spec_of(*sources: dict[str, Any]) -> PretrainSpec:
    return PretrainSpec.model_validate({"tokenizer": {"vocab_size": 400}, "data": {"sources": sources}})


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Forty documents, each with a word of its own that occurs often in it; and as many pairs."""
    words = ["".join(letters) for letters in itertools.permutations("abcde", 3)][:40]
    documents = [Make.matched(word, [f"{word} " * 9], ("red.png", 0, 0.5)) for word in words]
    convert([*documents, *(Make.pair(f"p{word}", "red.png", word) for word in words)], tmp_path / "shards")
    return tmp_path / "shards"


@pytest.mark.parametrize("view", ["interleaved", "pairs"])
def test_a_fixed_sample_of_a_large_corpus_is_read(shards: Path, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    description = ShardedCorpus.description

    def counted(self: ShardedCorpus, record: int, with_images: bool = True) -> Any:
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


def test_several_sources_share_the_sample(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    description = ShardedCorpus.description
    monkeypatch.setattr(
        ShardedCorpus, "description", lambda self, record, **more: read.append(record) or description(self, record)
    )
    build_tokenizer(spec_of({"dataset": "it"}, {"dataset": "it", "view": "pairs"}), {"it": open_corpus(shards)}, 20)
    assert len(read) == 20


def test_a_line_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    good = json.dumps({"text_list": ["the pump turns the wheel"], "image_info": []})
    (tmp_path / "interleaved.jsonl").write_text(f"{good}\nno JSON\n")
    assert build_tokenizer(spec_of({"dataset": "it"}), {"it": open_corpus(tmp_path)}).vocab_size > 262


def test_one_rank_trains_it_once_for_all_ranks_and_attempts(tmp_path: Path, shards: Path) -> None:
    run_dir = RunDir(tmp_path)
    spec = spec_of({"dataset": "it"}).model_dump(mode="json")
    run_dir.prepare({"run_id": "run_1", "kind": "pretrain", "spec": spec, "datasets": {"it": str(shards)}})
    found = []
    for attempt in ("first", "resumed"):
        run_together([[sys.executable, str(SCRIPT), str(tmp_path), str(rank), "2", attempt] for rank in range(2)])
        found += [json.loads((tmp_path / f"reads.{attempt}.{rank}.json").read_text()) for rank in range(2)]
    assert [reads for reads, _ in found] == [40, 0, 0, 0]
    assert len({tokenizer for _, tokenizer in found}) == 1


def test_a_run_with_older_checkpoints_keeps_the_merges_of_the_whole_corpus(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "TOKENIZER_ITEMS", 12)
    spec, corpora = spec_of({"dataset": "it"}), {"it": open_corpus(shards)}

    def prepared(name: str, *checkpoints: str) -> str:
        run_dir = RunDir(tmp_path / name)
        for each in ("", *checkpoints):
            (run_dir.checkpoints / each).mkdir(parents=True)
        return prepare_tokenizer(spec, corpora, run_dir, RankGroup()).to_json()

    assert prepared("new") == build_tokenizer(spec, corpora, items=12).to_json()
    assert prepared("older", "step_00000005") == build_tokenizer(spec, corpora, items=None).to_json()
    (tmp_path / "new" / "checkpoints" / "step_00000005").mkdir()
    assert prepare_tokenizer(spec, corpora, RunDir(tmp_path / "new"), RankGroup()).to_json() != prepared("b", "step_1")
