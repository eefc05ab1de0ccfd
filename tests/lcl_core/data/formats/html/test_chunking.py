"""Sentences of a paragraph."""

import pytest

from lcl_core.data.formats.html.chunking import split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open the lid. Close it again now.", ["Open the lid.", "Close it again now."]),
        ("See fig. 3 on the page. (It is small, though.)", ["See fig. 3 on the page.", "(It is small, though.)"]),
        ("Stop! Do not open it.", ["Stop! Do not open it."]),
        ("Open the lid now. Done.", ["Open the lid now. Done."]),
        ("version 1.2 of e.g. that", ["version 1.2 of e.g. that"]),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert split_sentences(text) == expected
