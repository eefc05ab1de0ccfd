"""Bodies that would take long to check, or whose values would each become an error."""

from __future__ import annotations

import json
import random

import httpx
import pytest

from api.core.middleware import (
    JSON_TOKEN,
    MEDIA_JSON,
    OTHER_JSON,
    JsonLimits,
    count_values,
    find_json_problem,
    nesting_depth,
)

DEPTH = 64


def tokens(body: bytes) -> list[bytes]:
    """Strings, brackets and commas of a body, one byte after the other."""
    found: list[bytes] = []
    position = 0
    while position < len(body):
        start, mark = position, body[position : position + 1]
        position += 1
        if mark == b'"':
            while position < len(body) and body[position : position + 1] != b'"':
                position += 2 if body[position : position + 1] == b"\\" else 1
            position = min(position + 1, len(body))
        if mark in b'"[]{},':
            found.append(body[start:position])
    return found


def test_strings_end_where_a_walk_over_the_bytes_ends_them() -> None:
    draw = random.Random(7)
    for _ in range(5000):
        body = bytes(draw.choices(b'""\\\\[]{},a\n\x80', k=draw.randrange(24)))
        assert [match.group() for match in JSON_TOKEN.finditer(body)] == tokens(body), body


@pytest.mark.parametrize("end", [b"", b"\\", b'"'])
def test_the_steps_of_a_string_of_quotes_grow_with_its_bytes(end: bytes) -> None:
    """In steps of the square of its length, it would take days."""
    body = b"[" * (DEPTH + 1) + b'"' + b'\\"' * 2**21 + end
    assert nesting_depth(body, DEPTH) == DEPTH + 1
    brackets = b"[]" * (DEPTH + 1) + b'"' + b'\\"' * 2**21 + end
    assert nesting_depth(brackets, DEPTH) == 1
    assert count_values(brackets, OTHER_JSON.values) == DEPTH + 1


@pytest.mark.parametrize(
    "body", [b"[" + b"1," * 1001 + b"1]", b"[[]" + b",[]" * 501 + b"]", b'"" ' * 2002, b"{" * 1001], ids=lambda b: b[:4]
)
def test_more_values_than_a_request_needs_are_refused(body: bytes) -> None:
    assert "more than 1,000 values" in str(find_json_problem(body, 2000, JsonLimits(1000, 1000)))


def test_commas_and_brackets_in_texts_are_no_values() -> None:
    assert find_json_problem(json.dumps(["[,{" * 5000, '",' * 5000]).encode(), DEPTH, JsonLimits(10, 10)) is None


def test_an_object_of_many_members_is_refused() -> None:
    body = json.dumps({"a": {str(number): 1 for number in range(11)}}).encode()
    assert find_json_problem(body, DEPTH, JsonLimits(100, 10)) == "an object has 11 members; 10 are allowed"
    assert find_json_problem(body, DEPTH, JsonLimits(100, 11)) is None


def test_the_largest_requests_pass() -> None:
    labels = {f"label {number}": [f"value {value}" for value in range(32)] for number in range(32)}
    items = {"items": [{"image": "data:", "captions": ["a, b"] * 8, "labels": labels}] * 256}
    assert find_json_problem(json.dumps(items).encode(), DEPTH, MEDIA_JSON) is None
    classes = {"class_names": {f"n{number:08d}": f"class {number}" for number in range(21_843)}}
    assert find_json_problem(json.dumps({"spec": classes}).encode(), DEPTH, OTHER_JSON) is None
    assert find_json_problem(json.dumps({"vector": [0.5] * 16_384}).encode(), DEPTH, MEDIA_JSON) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "a", "input": [None] * 400_000}),
        ("/v1/embeddings", {str(number): 1 for number in range(300)}),
        ("/v1/collections/squares/search", {"where": {str(number): [1] for number in range(200_000)}}),
        ("/v1/runs", {"kind": "pretrain", "spec": {str(number): 1 for number in range(40_000)}}),
    ],
)
def test_the_service_refuses_a_flood_of_values(
    live_service: object, http: httpx.Client, refused: object, path: str, body: object
) -> None:
    refused(http.post(path, json=body), 422, "bad_json")  # type: ignore[operator]
