"""Which works are taken."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.sources import SOURCES
from lcl_core.dataset_builder.sources.base import TERMS, is_licence_allowed, parse_licence_choice


@pytest.mark.parametrize(
    ("licence", "permissive"),
    [("MIT", True), ("CC-BY-4.0", True), ("Apache-2.0", True), ("CC-BY-SA-4.0", False), ("GPL-2.0", False)],
)
def test_permissive_works_ask_for_no_more_than_a_name(licence: str, permissive: bool) -> None:
    assert is_licence_allowed(licence, "any")
    assert is_licence_allowed(licence, "permissive") is permissive


def test_a_choice_that_there_is_not_is_reported() -> None:
    assert parse_licence_choice("permissive") == "permissive"
    with pytest.raises(UserError, match="any or permissive, not 'free'") as caught:
        parse_licence_choice("free")
    assert caught.value.field == "licence"


def test_the_terms_of_every_source_are_known() -> None:
    assert {licence for source in SOURCES.values() for licence in source.licences} == set(TERMS)
    assert [name for name, source in SOURCES.items() if source.has("permissive")] == [
        "emoji",
        "icons",
        "openclipart",
        "fashion_mnist",
    ]
