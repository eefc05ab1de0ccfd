"""Yes or no, read out of a sentence as POPE and MME do."""

from __future__ import annotations

_NO = {"No", "no", "not"}


def pope_answer(answer: str) -> str:
    """Yes, unless the first sentence holds the word "no" or "not"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO.intersection(words) else "yes"


def mme_answer(answer: str) -> str:
    """The one of "yes" and "no" that stands in the first four letters, else "other"."""
    start = answer.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")
