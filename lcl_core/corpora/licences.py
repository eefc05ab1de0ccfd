"""The terms of what sources hold, by the words that each line of a corpus carries."""

from __future__ import annotations

from typing import Literal

from lcl_core.errors import UserError

Terms = Literal["permissive", "share-alike", "copyleft"]
Choice = Literal["any", "permissive"]

PUBLIC_DOMAIN = "public domain (CC dedication)"
# permissive: to be named and no more; the others ask that what is made of them is shared on their own terms
TERMS: dict[str, Terms] = {
    PUBLIC_DOMAIN: "permissive",
    "Apache-2.0": "permissive",
    "CC-BY-4.0": "permissive",
    "MIT": "permissive",
    "CC-BY-SA-3.0": "share-alike",
    "CC-BY-SA-4.0": "share-alike",
    "GFDL-1.1+ no invariants": "copyleft",
    "GFDL-1.2+ no invariants": "copyleft",
    "GPL-2.0": "copyleft",
    "GPL-2.0-or-later": "copyleft",
    "GPL-3.0-or-later": "copyleft",
}


def checked_choice(given: str) -> Choice:
    """Raises: UserError ``unknown_choice``."""
    if given == "any":
        return "any"
    if given == "permissive":
        return "permissive"
    message = f"licences are any or permissive, not {given!r}"
    raise UserError(message, code="unknown_choice", field="licence")


def allowed(licence: str, choice: Choice) -> bool:
    """Whether works on these terms are taken."""
    return choice == "any" or TERMS[licence] == choice
