"""Captions as the caption metrics see them: Penn Treebank tokens, in lower case, without punctuation.

BLEU, ROUGE-L and CIDEr are only comparable with published figures when captions are cut as the COCO
evaluation cuts them: with Stanford's PTBTokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import regex

from lcl_core.transfer.language.rules import RULES

# What the COCO evaluation throws away. It lowers the case first, so that brackets ("-lrb-") stay.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Most words by far. No rule sees more in them, so the others need not be tried.
_PLAIN = regex.compile(r"(?!(?i:cannot|gonna|wanna|gotta|gimme|lemme)\s)[A-Za-z]+(?=\s)")


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

    A classic lexer: at each place all rules are tried, the longest match wins, on a tie the earlier rule.
    """
    text = text.replace("\n", " ")
    seen = f"{text}\n{following}\n"
    at = 0
    while at < len(text):
        if plain := _PLAIN.match(seen, at):
            yield plain[0]
            at = plain.end()
            continue
        matches = [(match, rule) for rule in RULES if (match := rule.pattern.match(seen, at)) is not None]
        if matches:
            match, rule = max(matches, key=lambda found: found[0].end())
            yield rule.write(match[match.re.groups])
            at = match.end(match.re.groups)
        else:
            at += 1
