"""How the Penn Treebank spells a token once it has been cut: quotes, brackets, dashes, money, fractions.

Each function takes the token as it stands in the caption.
"""

from __future__ import annotations

import re

_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_ROUND = str.maketrans({"(": "-LRB-", ")": "-RRB-", " ": "\xa0"})
_MONEY = {"€": "$", "\x80": "$", "¤": "$", "\u20a0": "$", "£": "#", "¢": "cents"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'"}
_OPENING = {"'": "`"}
_QUOTES = str.maketrans(
    dict.fromkeys("‘\x91‛‹", "`")
    | dict.fromkeys("’\x92›", "'")
    | dict.fromkeys("“\x93«", "``")
    | dict.fromkeys("”\x94»", "''")
)


def word(token: str) -> str:
    """Without soft hyphens; ``&amp;`` inside is an ampersand."""
    return token.replace("\xad", "").replace("&amp;", "&")


def kept(token: str) -> str:
    return token


def spaced(token: str) -> str:
    """A token that holds a space is written with a no-break space: ``3 1/2`` is one token."""
    return token.replace(" ", "\xa0")


def contraction(token: str) -> str:
    return re.sub("’|\x92|&apos;", "'", token)


def bracket(token: str) -> str:
    return _BRACKETS[token]


def face(token: str) -> str:
    return token.translate(_ROUND).replace("}", "-RCB-")


def round_brackets(token: str) -> str:
    """Of a telephone number."""
    return token.translate(_ROUND)


def opening(token: str) -> str:
    return _OPENING.get(token, "``")


def closing(token: str) -> str:
    return "''"


def quotes(token: str) -> str:
    return token.translate(_QUOTES)


def dash(token: str) -> str:
    return "--"


def ellipsis(token: str) -> str:
    return "..."


def hyphen(token: str) -> str:
    return "-"


def money(token: str) -> str:
    return _MONEY.get(token, token)


def fraction(token: str) -> str:
    return _FRACTIONS[token]


def entity(token: str) -> str:
    return _ENTITIES.get(token.lower(), token)
