"""Penn Treebank tokenizer of the COCO caption evaluation (Stanford's PTBTokenizer), in Python.

BLEU, ROUGE-L and CIDEr compare with published figures only when captions are tokenized like this: lower case, without
punctuation. The rules and tables record what the reference program answers: 38,000 words and candidate abbreviations
one by one, and every character of the basic plane (its tables are of about Unicode 6, so most emoji are dropped).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import regex


def _words(text: str) -> list[str]:
    return text.split()


# Before anything: "Mr. Smith", "Jan. 5", "Acme Inc. said".
_ABBREVIATIONS = _words(r"""
    adj adm adv al ala apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co
    col colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq ed\.d est etc ext feb fla fri ft ga gen gov
    govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mich minn mlle mme mo
    mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph ph\.d plc pres prof profs pvt rd rep reps rev
    rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt
    wed wis wisc wm wyo
""")

# Only with a capital: in lower case these are words that may end a sentence.
_CAPITALISED_ABBREVIATIONS = _words(
    "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX WASH"
)

# Only in lower case or with one capital.
_MIXED_CASE_ABBREVIATIONS = _words("mfg mtg pte pty Mfg Mtg Pte Pty")

# Only before a number: "Fig. 3", "no. 7".
_ABBREVIATIONS_BEFORE_NUMBER = _words("art ca fig figs no nos op pp prop")

# A single letter and its full stop part where one of these opens the next sentence: "Vitamin C. The".
_SENTENCE_OPENERS = _words("""
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once
    One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""")


# Marks and a few signs that count as letters besides the categories L and Nd.
_ALSO_LETTERS = """
2c2-2c5 2d2-2df 2e5-2eb 2ed 2ef-36f 375 384-385 3f6 483-487 55a-55f 591-5bd 5bf 5c1-5c2 5c4-5c5 5c7 615-61a 64b-65e
670 6d6-6e4 6e7-6ed 6fd-6fe 70f 711 730-74a 7a6-7b0 7eb-7f3 900-903 93c 93e-94e 951-955 962-963 981-983 9bc 9be-9c4
9c7-9c8 9cb-9cd 9d7 9e2-9e3 a01-a03 a3c a3e-a42 a47-a48 a4b-a4d a81-a83 abc abe-ac5 ac7-ac9 acb-acd b82 bbe-bc2
bc6-bc8 bca-bcd c01-c03 c3e-c44 c46-c48 c4a-c4d c55-c56 d3e-d44 d46-d48 e31 e34-e3a e47-e4e eb1 eb4-ebc ec8-ecd
1885-1886
"""

# Letters and digits that do not count.
_NOT_LETTERS = """
37f 528-52f 560 588 5ef 860-86a 870-887 889-88e 8a1 8ad-8c9 978 980 9fc af9 c34 c5a c5d c80 cdd d04 d54-d56 d5f
de6-def e86 e89 e8c e8e-e93 e98 ea0 ea8-ea9 eac 13f5 13f8-13fd 16f1-16f8 170d 171f 1878 191d-191e 19b0-19c0
19c8-19c9 1b4c 1c80-1c88 1c90-1cba 1cbd-1cbf 1cf2-1cf3 1cfa 2c2f 2c5f 312e-312f 31bb-31bf 4db6-4dbf 9fcd-9fff
a698-a69d a78f a794-a79f a7ab-a7ca a7d0-a7d1 a7d3 a7d5-a7d9 a7f2-a7f7 a8fd-a8fe a9e0-a9e4 a9e6-a9fe aa7e-aa7f
ab30-ab5a ab5c-ab69 ab70-abbf
"""

# Signs that are a token of their own.
_SIGNS = """
26 3d 5c 5e 7c 7e a1 a5-a9 ac ae-b1 b4 b6-b8 bf d7 f7 37e 387 589 5be 5c0 5c3 5c6 5f3-5f4 600-603 606-60c 614 61b
61e-61f 66a 66d 6d4 700-70d 7f6-7f8 964-965 e3f e4f 1fbd 2016-2017 2020-2023 2030-2038 203b 203e-2042 2044 207a-207e
208a-208e 20a4 2100-2101 2103-2106 2108-2109 2114 2116-2118 211e-2123 2125 2127 2129 212e 213a-213b 2140-2144
214a-214d 214f 2155-215e 2190-2426 2440-244a 2460-2b73 2b76-2b95 2b97-2bff 3001-3002 3012 30fb ff01-ff0f ff1a-ff20
ff3b-ff40 ff5b-ff65 ffe0-ffe1 ffe5-ffe6
"""


def _ranges(text: str) -> str:
    """Inside of a character class, from hexadecimal ranges."""
    ends = [each.split("-") for each in text.split()]
    return "".join("-".join(f"\\u{int(end, 16):04x}" for end in each) for each in ends)


# A soft hyphen inside a word is no more than a hint to the typesetter; it is dropped when the word is written.
LETTER = f"[[\\p{{L}}{_ranges(_ALSO_LETTERS)}\\xad]--[{_ranges(_NOT_LETTERS)}\\U00010000-\\U0010ffff]]"
LETTER_OR_DIGIT = f"[{LETTER}[\\p{{Nd}}--[{_ranges(_NOT_LETTERS)}\\U00010000-\\U0010ffff]]]"
SIGN = f"[{_ranges(_SIGNS)}]"


_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_ROUND = str.maketrans({"(": "-LRB-", ")": "-RRB-", " ": "\xa0"})
_EMOTICON = _ROUND | {ord("}"): "-RCB-"}
_MONEY = {"€": "$", "\x80": "$", "¤": "$", "\u20a0": "$", "£": "#", "¢": "cents"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'"}
_QUOTES = str.maketrans(
    dict.fromkeys("‘\x91‛‹", "`")
    | dict.fromkeys("’\x92›", "'")
    | dict.fromkeys("“\x93«", "``")
    | dict.fromkeys("”\x94»", "''")
)


def _plain(token: str) -> str:
    """Without soft hyphens; ``&amp;`` inside is an ampersand."""
    return token.replace("\xad", "").replace("&amp;", "&")


def _spaced(token: str) -> str:
    """A token with a space gets a no-break space: ``3 1/2`` is one token."""
    return token.replace(" ", "\xa0")


def _contraction(token: str) -> str:
    return re.sub("’|\x92|&apos;", "'", token)


def _entity(token: str) -> str:
    return _ENTITIES.get(token.lower(), token)


def _constant(text: str) -> Callable[[str], str]:
    return lambda _: text


def _lookup(table: Mapping[str, str]) -> Callable[[str], str]:
    return lambda token: table.get(token, token)


def _translate(table: Mapping[int, str]) -> Callable[[str], str]:
    return lambda token: token.translate(table)


def _alternatives(words: list[str]) -> str:
    return "(?:" + "|".join(words) + ")"


_L = rf"(?:{LETTER}|&[aeiouAEIOU](?:acute|grave|uml);)"
_A = rf"(?:{LETTER_OR_DIGIT}|&[aeiouAEIOU](?:acute|grave|uml);)"
_WORD = rf"{_L}{_A}*"
_APOS = r"(?:['’\x92]|&apos;)"
_NUMBER = r"(?:[0-9\xad]*(?:[.:,\u066b\u066c][0-9\xad]+)+|[0-9\xad]*[0-9][0-9\xad]*)"
_AUXILIARY = rf"{_APOS}(?i:[msd]|re|ve|ll)"
# Irish, French, Arabic, Chinese and Hawaiian names, and a short list of words.
_WITH_APOSTROPHE = _alternatives(
    [
        rf"[dlnoA-HJ-XZ]{_APOS}{_L}{{2,}}{_A}*",
        rf"{_L}+[aeiouAEIOU]{_APOS}[aeiouAEIOU]{_L}*",
        rf"(?i:{_APOS}(?:n{_APOS}?|em|till?|cause)|[ldj]{_APOS}|ol{_APOS}|c{_APOS}mon|e{_APOS}er|li{_APOS}l"
        rf"|nat{_APOS}l|cap{_APOS}n|o{_APOS}clock)",
    ]
)
_PART = rf"(?:{_A}+|[dlnoA-HJ-XZ]{_APOS}{_L}{{2,}}{_A}*)"
_ACRONYM = r"(?:[A-Za-z]\.){2,}"
_ABBREVIATION = (
    rf"(?:(?i:{_alternatives(_ABBREVIATIONS)})"
    rf"|{_alternatives([*_CAPITALISED_ABBREVIATIONS, *_MIXED_CASE_ABBREVIATIONS])})\."
)
_OPENERS = _alternatives([*_SENTENCE_OPENERS, *map(str.upper, _SENTENCE_OPENERS)])
_FILE = "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|pptx?|ps|py|sql|tar"
_FILE += "|txt|wav|x|xml|zip"
_ATTRIBUTE = r"""[A-Za-z][A-Za-z0-9_:.-]*(?:[ \xa0]*=[ \xa0]*(?:'[^']*'|"[^"]*"))?"""
_URL = r"""[^\s<>|(){}"]+[^\s<>|(){}".,!?-]"""
_EYES = r"[<>]?[:;=][-o*']?"

_CUT = [r"(can)not", r"(gon|wan)na", r"(got)ta", r"(gim|lem)me", rf"({_APOS}t)(?:is|was)"]

# (pattern, spelling of the token). The longest match wins; group 1, where there is one, is the token.
_RULES: list[tuple[str, Callable[[str], str]]] = [
    *((rf"(?i:{cut})", _plain) for cut in _CUT),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])(?i:n{_APOS}t)", _plain),
    (rf"(?i:n{_APOS}t)", _contraction),
    (rf"({_WORD}){_AUXILIARY}[^A-Za-z]", _plain),
    (rf"({_AUXILIARY})[^A-Za-z]", _contraction),
    (rf"{_APOS}[msdMSD]", _contraction),
    (rf"([Yy]{_APOS})[A-RT-Za-rt-z]", _plain),
    (_WITH_APOSTROPHE, _plain),
    (rf"{_APOS}(?:[2-9]0s|[0-9][0-9](?=\s))", str),
    (rf"([A-Za-z])\.\s+{_OPENERS}(?=\s)", str),
    # words, and what hangs together with hyphens, slashes, full stops
    (_WORD, _plain),
    (rf"{_A}+", _plain),
    (rf"{_PART}(?:[-_\u058a‐‑]{_PART})+", _plain),
    (r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}", _plain),
    (rf"{_WORD}(?:[.!?]{_WORD})+", _plain),
    (rf"{_A}+(?:\.{_A}+)*\.(?i:{_FILE})(?=[\s.,!?])", _plain),
    (rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)*-(?:[A-Za-z0-9]+|{_ACRONYM})", _plain),
    (r"[A-Z]+(?:(?:[&+]|&amp;)[A-Z]+)+", _plain),
    (r"[Cc]\+\+|[CFcf]#", str),
    # abbreviations
    (rf"{_ABBREVIATION}|{_ACRONYM}|[A-Za-z]\.", str),
    (rf"({_PART}(?:\.?[-_.]{_PART})*\.)[,;:]", _plain),
    (rf"((?i:{_alternatives(_ABBREVIATIONS_BEFORE_NUMBER)})\.)\s?[0-9]", str),
    # numbers
    (rf"[-+]?{_NUMBER}", _plain),
    (r"(?:[0-9]{1,4}[- \xa0])?[0-9]{1,4}[/⁄][0-9]{1,4}", _spaced),
    (r"(?:\([0-9]{2,3}\)[ \xa0]?|[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0][0-9]{3,5}", _translate(_ROUND)),
    (r"[A-Z]*\$|[€\x80¤₠£¢¥%]", _lookup(_MONEY)),
    ("[¼½¾⅓⅔]", _lookup(_FRACTIONS)),
    # the web
    (rf"(?i:https?)://{_URL}", str),
    (rf"(?i:(?:www\.)?(?:{_L}+\.)+(?:com|net|org|edu)(?:/{_URL})?)", str),
    (r"(?i:www)(?:\.[A-Za-z0-9-]+)+\.[A-Za-z]{2,4}", str),
    (r"<?[A-Za-z0-9][^\s<>|(){}\"]*@(?:[^\s<>|(){}\".]+\.)*[^\s<>|(){}\".]+>?", str),
    (r"@[A-Za-z_][A-Za-z0-9_]*", str),
    (rf"#{_L}+", str),
    (rf"</?[A-Za-z][A-Za-z0-9_:.-]*(?:[ \xa0]+{_ATTRIBUTE})*[ \xa0]*/?>|<[!?][A-Za-z-][^>\r\n]*>", _spaced),
    (r"(?i:&(?:amp|lt|gt|quot|apos|[hlu][rt]|tl|q[clr]|odq|cdq|\#[0-9]+);)", _entity),
    (r"&[mn]dash;", _constant("--")),
    (r"(?:\^_\^|[-^x=~<>']_[-^x=~<>'])", str),
    (r"\([-^x=~<>'][-_.]?[-^x=~<>']\)", _translate(_ROUND)),
    (rf"{_EYES}[()\]\[{{}}DPpdO\\|@](?![A-Za-z0-9])", _translate(_EMOTICON)),
    # punctuation
    (r"-{2,4}|[–—―\x96\x97]", _constant("--")),
    (r"[-\xad]", _constant("-")),
    (r"\.{3,5}|\.(?:[ \xa0]\.){2,}|[…\x85]", _constant("...")),
    (r"[?!]+|\*+|#+|_+|@+|<<?|>>?|[²³¹⁰⁴-⁹₀-₉]+", str),
    (r"''|``", str),
    (r'("|&quot;)[A-Za-z0-9$]', _constant("``")),
    (r"(')[A-Za-z][^ \t\n\r\xa0]", _constant("`")),
    ('"', _constant("''")),
    ("'", str),
    (r"[‘\x91‛‹’\x92›“\x93«”\x94»„‚‟]{1,2}|`", _translate(_QUOTES)),
    (r"[\]\[(){}]", _lookup(_BRACKETS)),
    (rf"[.,:;+/]|{SIGN}", str),
]

RULES = [(regex.compile(pattern, regex.VERSION1 | regex.POSIX), spell) for pattern, spell in _RULES]

# What the COCO evaluation throws away. It lowers the case first, so that brackets ("-lrb-") stay.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Most words by far. No rule sees more in them, so the others need not be tried.
_PLAIN_WORD = regex.compile(r"(?!(?i:cannot|gonna|wanna|gotta|gimme|lemme)\s)[A-Za-z]+(?=\s)")


def tokenize(caption: str, following: str = "") -> list[str]:
    """The words of a caption, as the COCO caption evaluation counts them.

    A mixed number ("3 1/2") is one token with a no-break space inside.

    Args:
        following: the caption on the next line. Whether "Vitamin C." ends in ``c.`` or in ``c`` depends on
            it: a single letter keeps its full stop unless a word like "The" opens the next sentence.
    """
    return [token for token in map(str.lower, treebank_tokens(caption, following)) if token not in PUNCTUATION]


def tokenize_all(captions: Sequence[str]) -> list[list[str]]:
    """The words of each caption of a corpus, which the reference reads as one text, a caption a line."""
    return [tokenize(caption, following) for caption, following in pairwise([*captions, ""])]


def treebank_tokens(text: str, following: str = "") -> Iterator[str]:
    """Everything, punctuation too, in Penn Treebank spelling. Characters that no rule knows are dropped.

    At each position all rules are tried; the longest match wins, on a tie the earlier rule.
    """
    text = text.replace("\n", " ")
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
