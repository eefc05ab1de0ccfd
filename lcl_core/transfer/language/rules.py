"""The rules of the Penn Treebank tokenizer, found by asking the reference program what it makes of strings.

A rule's pattern says how far it sees; group 1, where there is one, how far it takes. Between rules the one
that sees furthest wins, then the one that stands first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import regex

from lcl_core.transfer.language import abbreviations, spelling
from lcl_core.transfer.language.alphabet import LETTER, LETTER_OR_DIGIT, SIGN


@dataclass(frozen=True)
class Rule:
    pattern: regex.Pattern[str]
    write: Callable[[str], str]


def _any(words: list[str]) -> str:
    return "(?:" + "|".join(words) + ")"


_L = rf"(?:{LETTER}|&[aeiouAEIOU](?:acute|grave|uml);)"
_A = rf"(?:{LETTER_OR_DIGIT}|&[aeiouAEIOU](?:acute|grave|uml);)"
_WORD = rf"{_L}{_A}*"
_APOS = r"(?:['’\x92]|&apos;)"
_NUMBER = r"(?:[0-9\xad]*(?:[.:,\u066b\u066c][0-9\xad]+)+|[0-9\xad]*[0-9][0-9\xad]*)"
_AUXILIARY = rf"{_APOS}(?i:[msd]|re|ve|ll)"
# Irish, French, Arabic, Chinese and Hawaiian names, and a short list of words.
_WITH_APOSTROPHE = _any(
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
    rf"(?:(?i:{_any(abbreviations.ALWAYS)})|{_any(abbreviations.CAPITALISED)}|{_any(abbreviations.NOT_SHOUTED)})\."
)
_OPENERS = _any([*abbreviations.OPENERS, *map(str.upper, abbreviations.OPENERS)])
_FILE = "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|pptx?|ps|py|sql|tar"
_FILE += "|txt|wav|x|xml|zip"
_ATTRIBUTE = r"""[A-Za-z][A-Za-z0-9_:.-]*(?:[ \xa0]*=[ \xa0]*(?:'[^']*'|"[^"]*"))?"""
_URL = r"""[^\s<>|(){}"]+[^\s<>|(){}".,!?-]"""
_EYES = r"[<>]?[:;=][-o*']?"

_CUT = [r"(can)not", r"(gon|wan)na", r"(got)ta", r"(gim|lem)me", rf"({_APOS}t)(?:is|was)"]

_TABLE: list[tuple[str, Callable[[str], str]]] = [
    *((rf"(?i:{cut})", spelling.word) for cut in _CUT),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])(?i:n{_APOS}t)", spelling.word),
    (rf"(?i:n{_APOS}t)", spelling.contraction),
    (rf"({_WORD}){_AUXILIARY}[^A-Za-z]", spelling.word),
    (rf"({_AUXILIARY})[^A-Za-z]", spelling.contraction),
    (rf"{_APOS}[msdMSD]", spelling.contraction),
    (rf"([Yy]{_APOS})[A-RT-Za-rt-z]", spelling.word),
    (_WITH_APOSTROPHE, spelling.word),
    (rf"{_APOS}(?:[2-9]0s|[0-9][0-9](?=\s))", spelling.kept),
    (rf"([A-Za-z])\.\s+{_OPENERS}(?=\s)", spelling.kept),
    # words, and what hangs together with hyphens, slashes, full stops
    (_WORD, spelling.word),
    (rf"{_A}+", spelling.word),
    (rf"{_PART}(?:[-_\u058a‐‑]{_PART})+", spelling.word),
    (r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}", spelling.word),
    (rf"{_WORD}(?:[.!?]{_WORD})+", spelling.word),
    (rf"{_A}+(?:\.{_A}+)*\.(?i:{_FILE})(?=[\s.,!?])", spelling.word),
    (rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)*-(?:[A-Za-z0-9]+|{_ACRONYM})", spelling.word),
    (r"[A-Z]+(?:(?:[&+]|&amp;)[A-Z]+)+", spelling.word),
    (r"[Cc]\+\+|[CFcf]#", spelling.kept),
    # abbreviations
    (rf"{_ABBREVIATION}|{_ACRONYM}|[A-Za-z]\.", spelling.kept),
    (rf"({_PART}(?:\.?[-_.]{_PART})*\.)[,;:]", spelling.word),
    (rf"((?i:{_any(abbreviations.BEFORE_A_NUMBER)})\.)\s?[0-9]", spelling.kept),
    # numbers
    (rf"[-+]?{_NUMBER}", spelling.word),
    (r"(?:[0-9]{1,4}[- \xa0])?[0-9]{1,4}[/⁄][0-9]{1,4}", spelling.spaced),
    (r"(?:\([0-9]{2,3}\)[ \xa0]?|[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0][0-9]{3,5}", spelling.round_brackets),
    (r"[A-Z]*\$|[€\x80¤₠£¢¥%]", spelling.money),
    ("[¼½¾⅓⅔]", spelling.fraction),
    # the web
    (rf"(?i:https?)://{_URL}", spelling.kept),
    (rf"(?i:(?:www\.)?(?:{_L}+\.)+(?:com|net|org|edu)(?:/{_URL})?)", spelling.kept),
    (r"(?i:www)(?:\.[A-Za-z0-9-]+)+\.[A-Za-z]{2,4}", spelling.kept),
    (r"<?[A-Za-z0-9][^\s<>|(){}\"]*@(?:[^\s<>|(){}\".]+\.)*[^\s<>|(){}\".]+>?", spelling.kept),
    (r"@[A-Za-z_][A-Za-z0-9_]*", spelling.kept),
    (rf"#{_L}+", spelling.kept),
    (rf"</?[A-Za-z][A-Za-z0-9_:.-]*(?:[ \xa0]+{_ATTRIBUTE})*[ \xa0]*/?>|<[!?][A-Za-z-][^>\r\n]*>", spelling.spaced),
    (r"(?i:&(?:amp|lt|gt|quot|apos|[hlu][rt]|tl|q[clr]|odq|cdq|\#[0-9]+);)", spelling.entity),
    (r"&[mn]dash;", spelling.dash),
    (r"(?:\^_\^|[-^x=~<>']_[-^x=~<>'])", spelling.kept),
    (r"\([-^x=~<>'][-_.]?[-^x=~<>']\)", spelling.round_brackets),
    (rf"{_EYES}[()\]\[{{}}DPpdO\\|@](?![A-Za-z0-9])", spelling.face),
    # punctuation
    (r"-{2,4}|[–—―\x96\x97]", spelling.dash),
    (r"[-\xad]", spelling.hyphen),
    (r"\.{3,5}|\.(?:[ \xa0]\.){2,}|[…\x85]", spelling.ellipsis),
    (r"[?!]+|\*+|#+|_+|@+|<<?|>>?|[²³¹⁰⁴-⁹₀-₉]+", spelling.kept),
    (r"''|``", spelling.kept),
    (r'("|&quot;)[A-Za-z0-9$]', spelling.opening),
    (r"(')[A-Za-z][^ \t\n\r\xa0]", spelling.opening),
    ('"', spelling.closing),
    ("'", spelling.kept),
    (r"[‘\x91‛‹’\x92›“\x93«”\x94»„‚‟]{1,2}|`", spelling.quotes),
    (r"[\]\[(){}]", spelling.bracket),
    (rf"[.,:;+/]|{SIGN}", spelling.kept),
]

RULES = [Rule(regex.compile(pattern, regex.VERSION1 | regex.POSIX), write) for pattern, write in _TABLE]
