"""Penn Treebank tokenizer of the COCO caption evaluation (Stanford's PTBTokenizer), in Python.

BLEU, ROUGE-L and CIDEr compare with published figures only when captions are tokenized like this: lower case, without
punctuation. The rules cover the English of captions; web addresses, emoticons and markup are split as other text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import regex

# Before anything: "Mr. Smith", "Jan. 5", "Acme Inc. said".
_ABBREVIATIONS = r"""
    adj adm adv al ala apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co
    col colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq est etc ext feb fla fri ft ga gen gov govs hon
    inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont
    mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc pres prof profs pte pty pvt rd rep reps rev rt sen
    sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed wis
    wisc wm wyo
"""
# Only with a capital: in lower case these are words that may end a sentence.
_CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX"
# Only before a number: "Fig. 3", "no. 7".
_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# A single letter and its full stop part where one of these opens the next sentence: "Vitamin C. The".
_SENTENCE_OPENERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once
    One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
"""

_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_MONEY = {"€": "$", "£": "#", "¢": "cents"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_QUOTES = str.maketrans({"‘": "`", "‛": "`", "‹": "`", "’": "'", "›": "'", "“": "``", "«": "``", "”": "''", "»": "''"})


def _spaced(token: str) -> str:
    """A token with a space gets a no-break space: ``3 1/2`` is one token."""
    return token.replace(" ", "\xa0")


def _straight_apostrophe(token: str) -> str:
    return token.replace("’", "'")


def _constant(text: str) -> Callable[[str], str]:
    return lambda _: text


def _lookup(table: Mapping[str, str]) -> Callable[[str], str]:
    return lambda token: table.get(token, token)


def _translate_quotes(token: str) -> str:
    return token.translate(_QUOTES)


def _alternatives(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_L, _A = r"[\p{L}\p{M}]", r"[\p{L}\p{M}\p{Nd}]"
_WORD = rf"{_L}{_A}*"
_APOS = "['’]"
_NUMBER = r"(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)"
_AUXILIARY = rf"{_APOS}(?i:[msd]|re|ve|ll)"
# Irish, French, Arabic, Chinese and Hawaiian names, and a short list of words.
_WITH_APOSTROPHE = (
    rf"(?:[dlnoA-HJ-XZ]{_APOS}{_L}{{2,}}{_A}*|{_L}+[aeiouAEIOU]{_APOS}[aeiouAEIOU]{_L}*"
    rf"|(?i:{_APOS}(?:n{_APOS}?|em|till?|cause)|[ldj]{_APOS}|ol{_APOS}|c{_APOS}mon|e{_APOS}er|li{_APOS}l"
    rf"|nat{_APOS}l|cap{_APOS}n|o{_APOS}clock))"
)
_PART = rf"(?:{_A}+|[dlnoA-HJ-XZ]{_APOS}{_L}{{2,}}{_A}*)"
_ACRONYM = r"(?:[A-Za-z]\.){2,}"
_ABBREVIATION = rf"(?:(?i:{_alternatives(_ABBREVIATIONS)})|{_alternatives(_CAPITALISED)})\."
_OPENERS = _alternatives(f"{_SENTENCE_OPENERS} {_SENTENCE_OPENERS.upper()}")

# (pattern, spelling of the token). The longest match wins; group 1, where there is one, is the token.
_RULES: list[tuple[str, Callable[[str], str]]] = [
    *(
        (rf"(?i:{cut})", str)
        for cut in (r"(can)not", r"(gon|wan)na", r"(got)ta", r"(gim|lem)me", rf"({_APOS}t)(?:is|was)")
    ),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])(?i:n{_APOS}t)", str),
    (rf"(?i:n{_APOS}t)", _straight_apostrophe),
    (rf"({_WORD}){_AUXILIARY}[^A-Za-z]", str),
    (rf"({_AUXILIARY})[^A-Za-z]", _straight_apostrophe),
    (rf"{_APOS}[msdMSD]", _straight_apostrophe),
    (rf"([Yy]{_APOS})[A-RT-Za-rt-z]", str),
    (_WITH_APOSTROPHE, str),
    (rf"{_APOS}(?:[2-9]0s|[0-9][0-9](?=\s))", str),
    (rf"([A-Za-z])\.\s+{_OPENERS}(?=\s)", str),
    # words, and what hangs together with hyphens, slashes, full stops
    (_WORD, str),
    (rf"{_A}+", str),
    (rf"{_PART}(?:[-_‐‑]{_PART})+", str),
    (r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}", str),
    (rf"{_WORD}(?:[.!?]{_WORD})+", str),
    (rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)*-(?:[A-Za-z0-9]+|{_ACRONYM})", str),
    (r"[A-Z]+(?:[&+][A-Z]+)+", str),
    # abbreviations
    (rf"{_ABBREVIATION}|{_ACRONYM}|[A-Za-z]\.", str),
    (rf"({_PART}(?:\.?[-_.]{_PART})*\.)[,;:]", str),
    (rf"((?i:{_alternatives(_BEFORE_NUMBER)})\.)\s?[0-9]", str),
    # numbers
    (rf"[-+]?{_NUMBER}", str),
    (r"(?:[0-9]{1,4}[- \xa0])?[0-9]{1,4}[/⁄][0-9]{1,4}", _spaced),
    (r"[A-Z]*\$|[€£¢¥%]", _lookup(_MONEY)),
    ("[¼½¾⅓⅔]", _lookup(_FRACTIONS)),
    # punctuation
    (r"-{2,4}|[–—―]", _constant("--")),
    ("-", str),
    (r"\.{3,5}|\.(?:[ \xa0]\.){2,}|…", _constant("...")),
    (r"[?!]+|\*+|#+|_+|@+|<<?|>>?", str),
    (r"''|``", str),
    ('(")[A-Za-z0-9$]', _constant("``")),
    (r"(')[A-Za-z][^ \t\n\r\xa0]", _constant("`")),
    ('"', _constant("''")),
    ("'", str),
    ("[‘‛‹’›“«”»]{1,2}|`", _translate_quotes),
    (r"[\]\[(){}]", _lookup(_BRACKETS)),
    (r"[.,:;+/&=^|~°×÷±§©®™]", str),
]

RULES = [(regex.compile(pattern, regex.VERSION1 | regex.POSIX), spell) for pattern, spell in _RULES]

# What the COCO evaluation throws away. It lowers the case first, so that brackets ("-lrb-") stay.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Most words by far. No rule sees more in them, so the others need not be tried.
_PLAIN_WORD = regex.compile(r"(?!(?i:cannot|gonna|wanna|gotta|gimme|lemme)\s)[A-Za-z]+(?=\s)")


def tokenize_all(captions: Sequence[str]) -> list[list[str]]:
    """The words of each caption, as the COCO evaluation counts them; it reads all captions as one text, one a line.

    A mixed number ("3 1/2") is one token with a no-break space inside. Whether "Vitamin C." ends in ``c.`` or in ``c``
    depends on the next line: a single letter keeps its full stop unless a word like "The" opens the next sentence.
    """
    return [
        [token for token in map(str.lower, treebank_tokens(caption, following)) if token not in PUNCTUATION]
        for caption, following in pairwise([*captions, ""])
    ]


def treebank_tokens(text: str, following: str = "") -> Iterator[str]:
    """Everything, punctuation too, in Penn Treebank spelling. Characters that no rule knows are dropped.

    At each position all rules are tried; the longest match wins, on a tie the earlier rule.
    """
    text = text.replace("\n", " ").replace("\xad", "")  # a soft hyphen is a hint to the typesetter
    seen = f"{text}\n{following}\n"
    at = 0
    while at < len(text):
        if plain := _PLAIN_WORD.match(seen, at):
            yield plain[0]
            at = plain.end()
            continue
        matches = [(match, spell) for pattern, spell in RULES if (match := pattern.match(seen, at)) is not None]
        if matches:
            match, spell = max(matches, key=lambda each: each[0].end())
            yield spell(match[match.re.groups])
            at = match.end(match.re.groups)
        else:
            at += 1
