import pytest

from lcl_core.collections.full_text import fold


@pytest.mark.parametrize(
    ("query", "text", "words"),
    [
        ("a red fish", "red fish", "red fish"),
        ("Show me  some pictures of the Moon!", "Moon", "Moon"),
        ("please find an image of a man on a horse", "man on horse", "man horse"),
        ("find", "find", "find"),
        ("show me", "show me", "show"),
        ("the", "the", "the"),
        ("what is it", "what is it", "what is it"),
        ("“the who”", "the who", "the who"),
        ("drawing of", "drawing of", "drawing"),
        ("thumbs up", "thumbs up", "thumbs up"),
        ("ein roter Fisch.", "ein roter Fisch", "ein roter Fisch"),
        ("?", "?", "?"),
        ("", "", ""),
    ],
)
def test_requests_and_articles_are_folded_and_captions_are_searched_for_words_that_name_something(query, text, words):
    assert fold(query) == (text, words, [])


def test_exclusions_are_kept_and_named():
    assert fold("a house without a tree").exclusions == ["without"]
    assert fold('"no entry"').exclusions == []
