"""Bodies that two parsers might read differently."""

from __future__ import annotations

import json

import pytest

from api.core.middleware import find_json_ambiguity


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "the name 'a' appears twice"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "the name 'b' appears twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "too large"),
        (b"[-1e999]", "too large"),
        (b"[" + b"9" * 21 + b"]", "20 digits"),
        (b"[" + b"9" * 5000 + b"]", "20 digits"),
    ],
)
def test_what_means_two_things_is_reported(body: bytes, words: str) -> None:
    assert words in str(find_json_ambiguity(body))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"a": [{"a": 1}, {"a": 1.5e300}], "b": {"a": None}}).encode(),
        b"[18446744073709551615, -9223372036854775808, 1e-999, 0.1]",
        '{"ä": "☃"}'.encode(),
        b"{",
        b"",
        b"not JSON",
    ],
)
def test_what_is_plain_or_no_json_at_all_passes(body: bytes) -> None:
    assert find_json_ambiguity(body) is None
