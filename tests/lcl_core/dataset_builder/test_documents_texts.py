"""Texts as they were written, and choices that depend on them alone."""

from __future__ import annotations

from collections import Counter

from lcl_core.dataset_builder.documents import hash_fraction, plain_text, split_by_hash


def test_entities_and_blanks() -> None:
    assert plain_text("  a &amp; b\n\t c ") == "a & b c"
    assert plain_text(None) == ""


def test_shares_are_known_numbers() -> None:
    """SHA-1 of "a" begins with 86f7e437, that of "" with da39a3ee."""
    assert hash_fraction("a") == 0x86F7E437 / 2**32
    assert hash_fraction("") == 0xDA39A3EE / 2**32


def test_splits_have_the_sizes_that_were_asked_for() -> None:
    counts = Counter(split_by_hash(str(number)) for number in range(4000))
    assert abs(counts["test"] / 4000 - 0.10) < 0.02
    assert abs(counts["val"] / 4000 - 0.05) < 0.02
    assert split_by_hash("x") == split_by_hash("x")
    assert {split_by_hash(str(number), val=0, test=0) for number in range(50)} == {"train"}
