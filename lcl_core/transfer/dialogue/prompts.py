"""How each benchmark's questions are put: the prompts that LLaVA-1.5 published, which the paper follows.

Sources: docs/Evaluation.md of github.com/haotian-liu/LLaVA; for VizWiz, ScienceQA and MME its evaluation files and
the defaults of github.com/EvolvingLMMs-Lab/lmms-eval, which agree.
"""

from __future__ import annotations

from collections.abc import Callable

from lcl_core.transfer.answers import Question
from lcl_core.transfer.bridge.turns import MARK, Turn

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
_UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_YES_OR_NO = " Please answer yes or no."


def prompt_of(benchmark: str, question: Question) -> Turn:
    """The question with its picture at the head, not yet answered."""
    return Turn(f"{MARK}\n{_WORDS[benchmark](question).replace(MARK, ' ')}", None)


def short_answer(question: Question) -> str:
    return question.text + SHORT


def choice(question: Question) -> str:
    options = "".join(f"\n{letter}. {text}" for letter, text in question.options.items())
    return question.text + options + LETTER


def _vizwiz(question: Question) -> str:
    return question.text + _UNANSWERABLE + SHORT


def _mme(question: Question) -> str:
    """MME's files ask for yes or no themselves; the published prompt says so in its own words."""
    return question.text.replace(_YES_OR_NO, "").strip() + SHORT


_WORDS: dict[str, Callable[[Question], str]] = {
    "vqav2": short_answer,
    "gqa": short_answer,
    "vizwiz": _vizwiz,
    "scienceqa-img": choice,
    "pope": short_answer,
    "mme": _mme,
    "mmbench": choice,
    "seed-bench": choice,
}
