"""Which option a free answer means, without asking another model.

The rule of VLMEvalKit's offline matcher, a letter that stands alone, then the text of an option; between them
the forms that ScienceQA's evaluation reads, "A. …" and "the answer is A". Undecided answers are left
undecided; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# Longer answers may begin with the article "A"; a letter among them proves nothing.
_LONGEST_WITH_A = 3
_LEADING = re.compile(r"\W*([A-Z])[.):\]](?!\w)")
_NAMED = re.compile(r"(?i:answer|option|choice)(?:\s+is)?\s*[:\s]\s*[(\[*]*([A-Z])(?=[.,:;)\]*]|\s*$)")


def find_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that ``answer`` means; none where it names no or several."""
    for rule in (_lone_letter, _leading_letter, _named_letter, _quoted_text):
        letter = rule(answer, options)
        if letter is not None:
            return letter
    return None


def _lone_letter(answer: str, options: Mapping[str, str]) -> str | None:
    words = answer.translate(_SIGNS).split()
    found = [letter for letter in options if letter in words]
    if len(found) != 1 or (found == ["A"] and len(words) > _LONGEST_WITH_A):
        return None
    return found[0]


def _leading_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of an answer such as "A. A dog on a mat"."""
    found = _LEADING.match(answer)
    return found[1] if found and found[1] in options else None


def _named_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of "The answer is B." or "option: (C)", if one letter alone is so named."""
    found = {letter for letter in _NAMED.findall(answer) if letter in options}
    return found.pop() if len(found) == 1 else None


def _quoted_text(answer: str, options: Mapping[str, str]) -> str | None:
    lower = answer.lower()
    found = [letter for letter, text in options.items() if text.strip() and text.strip().lower() in lower]
    return found[0] if len(found) == 1 else None
