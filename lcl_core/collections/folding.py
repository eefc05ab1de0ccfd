"""Queries in plain English: requests, articles, and words that name nothing and are not looked for in captions.

Other languages pass as they are, since hardly any of their words are in these lists.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_REQUEST = re.compile(
    r"(please |(can|could) you |i (want|need) )?(show me|find me|give me|find|search for|look for|looking for)[ :]+"
    r"|((a|an|the|some) )?(picture|photo|photograph|image|drawing)s? (of|with|showing) "
)
_ARTICLES = frozenset(("a", "an", "the", "some"))
_FUNCTION_WORDS = """
about am and any are as at be been being by can did do does for from had has have he her here his i in into is it its me
my of on onto or our she that their them there these they this those to us was we were what when where which who whose
will with you your
"""
FUNCTION_WORDS = _ARTICLES | frozenset(_FUNCTION_WORDS.split())
EXCLUSIONS = frozenset(("no", "not", "without"))


class FoldedQuery(NamedTuple):
    """What a query is read as.

    Attributes:
        text: without requests and articles, for the encoder. With the mean of both texts' vectors no more of forty
            queries found what they name, and queries with an article found other images than those without.
        words: those of ``text`` that captions are searched for.
        exclusions: words of it that are not understood: nothing is left out for them.
    """

    text: str
    words: str
    exclusions: list[str]


def fold(query: str) -> FoldedQuery:
    """A query in quotes is taken literally, as is one of which nothing would be left."""
    text = " ".join(unicodedata.normalize("NFC", query).split())
    if len(text) > 2 and text[0] in '"“' and text[-1] in '"”':
        return FoldedQuery(text[1:-1], text[1:-1], [])
    text = text.rstrip(".!?,;: ") or text
    while (request := _REQUEST.match(text.casefold())) and len(request[0]) < len(text):
        text = text[request.end() :]
    text = _without(_ARTICLES, text)
    exclusions = [word for word in text.casefold().split() if word in EXCLUSIONS]
    return FoldedQuery(text, _without(FUNCTION_WORDS, text), exclusions)


def _without(words: frozenset[str], text: str) -> str:
    """``text`` itself if nothing would be left."""
    return " ".join(word for word in text.split() if word.casefold() not in words) or text
