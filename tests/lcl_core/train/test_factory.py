"""From a spec to a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lcl_core.data import open_corpus
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.factory import build_tokenizer


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
