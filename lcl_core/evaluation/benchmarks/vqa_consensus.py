"""VQA accuracy: normalised answers against ten human answers (VQAv2, VizWiz).

The published rule (visualqa.org/evaluation.html) and its program: lower case, no full stops but in decimals, number
words as digits, no articles, apostrophes put into contractions, other punctuation removed or made a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_FULL_CONSENSUS = 3
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_STOP_NOT_IN_NUMBER = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)} | {"none": "0"}
_CONTRACTIONS = """
 ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_WITH_APOSTROPHE = {
    word[:position] + word[position + 1 :]: word
    for word in _CONTRACTIONS.split()
    for position, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # a slip of the official program, kept so that the numbers are equal


def consensus_accuracy(answer: str | None, people: Sequence[str]) -> float:
    """min(same answers / 3, 1), averaged over the subsets that leave one person out.

    As in the official program, human answers lose their punctuation only where they differ.
    """
    if answer is None:
        return 0.0
    predicted = normalize_answer(answer)
    differ = len(set(people)) > 1
    same = [(without_punctuation(each) if differ else each) == predicted for each in people]
    agreeing = sum(same)
    return sum(min((agreeing - own) / _FULL_CONSENSUS, 1.0) for own in same) / len(people)


def normalize_answer(answer: str) -> str:
    """A model's answer in the form that is compared."""
    return plain_words(without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))


def without_punctuation(answer: str) -> str:
    """Signs that touch a space are removed, and all of them where a number has a comma; others become a space."""
    text = answer
    remove_all = _COMMA_IN_NUMBER.search(answer) is not None
    for sign in _PUNCTUATION:
        at_space = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if remove_all or at_space else " ")
    return _STOP_NOT_IN_NUMBER.sub("", text)


def plain_words(answer: str) -> str:
    """Lower case, digits for number words, no articles, contractions with their apostrophe."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(_WITH_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)
