"""Limits of new specs that exclude each other."""

from __future__ import annotations

from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import Sample, SampleStream, SkippedSample
from lcl_core.data.corpus.open import open_corpus
from lcl_core.data.tokenizer import train_bpe
from lcl_core.specs.limits import check_limits
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

MODEL = {"image_size": 64, "patch_size": 16}  # an image has 16 tokens
PAIRS = {"sources": [{"view": "pairs"}]}
MATCHED = {"sources": [{"view": "matched_pairs"}]}
MONITOR = {"dataset": "other"}


def parsed(fields: dict[str, Any]) -> PretrainSpec:
    spec = parse_spec("pretrain", {"model": MODEL, **fields})  # one that is stored opens, whatever it says
    assert isinstance(spec, PretrainSpec)
    return spec


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"data": {"min_images": 7}}, "data.min_images"),
        ({"data": {"min_images": 3, "max_images": 2, "piece_images": 1}}, "data.min_images"),
        ({"data": {**MATCHED, "min_images": 7}}, "data.min_images"),
        ({"data": {**PAIRS, "min_images": 7}, "monitor": {**MONITOR, "view": "interleaved"}}, "data.min_images"),
        ({"data": {"min_images": 5}, "batch": {"images": 4}}, "batch.images"),
        ({"data": PAIRS, "model": {**MODEL, "context_length": 20}}, "model.context_length"),
        ({"data": MATCHED, "model": {**MODEL, "context_length": 19}}, "model.context_length"),
        ({"monitor": MONITOR, "model": {**MODEL, "context_length": 20}}, "model.context_length"),
    ],
)
def test_limits_that_exclude_each_other_are_named(fields: dict[str, Any], field: str) -> None:
    spec = parsed(fields)
    with pytest.raises(UserError, match=field) as caught:
        check_limits(spec)
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": {"min_images": 6}},
        {"data": {**PAIRS, "min_images": 7}},
        {"data": {"min_images": 5, "piece_images": 2}, "batch": {"images": 4}},
        {"data": {**MATCHED, "min_images": 5}, "batch": {"images": 4}},
        {"model": {**MODEL, "context_length": 20}},
        {"data": PAIRS, "model": {**MODEL, "context_length": 21}},
        {"data": PAIRS, "model": {**MODEL, "context_length": 20}, "patch_drop": 0.5},
    ],
)
def test_limits_that_concern_no_source_are_not(fields: dict[str, Any]) -> None:
    check_limits(parsed(fields))


@pytest.mark.parametrize("length", [20, 21])
def test_the_least_context_is_that_of_a_text_of_one_token(sample_zip: Any, length: int) -> None:
    spec = parsed({"data": PAIRS, "model": {**MODEL, "context_length": length}})
    corpora = {"sample": open_corpus(sample_zip)}
    stream = SampleStream(spec.data, corpora, train_bpe(["a"], 300), 16, 64, length, seed=0)
    assert isinstance(stream[0], SkippedSample if length == 20 else Sample)
