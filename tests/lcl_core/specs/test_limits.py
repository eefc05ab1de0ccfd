"""Limits of new specs that exclude each other."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.limits import check_limits
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

MODEL = {"image_size": 64, "patch_size": 16}  # an image has 16 tokens
PAIRS = {"sources": [{"view": "pairs"}]}
MATCHED = {"sources": [{"view": "matched_pairs"}]}
MONITOR = {"dataset": "other"}


def parsed(fields):
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
def test_limits_that_exclude_each_other_are_named(fields, field):
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
    ],
)
def test_limits_that_concern_no_source_are_not(fields):
    check_limits(parsed(fields))
