"""What every source declares: its packages, its licences, and the function that builds its rows.

A licence is named by the words that each line of a corpus carries; ``TERMS`` sorts these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.documents import SourceRows
from lcl_core.dataset_builder.images import ImageWriter
from lcl_core.dataset_builder.packages import Package

LicenceTerms = Literal["permissive", "share-alike", "copyleft"]
LicenceChoice = Literal["any", "permissive"]

PUBLIC_DOMAIN = "public domain (CC dedication)"
# permissive: to be named and no more; the others ask that what is made of them is shared on their own terms
TERMS: dict[str, LicenceTerms] = {
    PUBLIC_DOMAIN: "permissive",
    "Apache-2.0": "permissive",
    "CC-BY-3.0": "permissive",
    "CC-BY-4.0": "permissive",
    "CC0-1.0": "permissive",
    "ISC": "permissive",
    "OFL-1.1": "permissive",
    "MIT": "permissive",
    "CC-BY-SA-3.0": "share-alike",
    "CC-BY-SA-4.0": "share-alike",
    "GFDL-1.1+ no invariants": "copyleft",
    "GFDL-1.2+ no invariants": "copyleft",
    "GPL-2.0": "copyleft",
    "GPL-2.0-or-later": "copyleft",
    "GPL-3.0-or-later": "copyleft",
}


def parse_licence_choice(given: str) -> LicenceChoice:
    """Raises: UserError ``unknown_choice``."""
    if given == "any":
        return "any"
    if given == "permissive":
        return "permissive"
    message = f"licences are any or permissive, not {given!r}"
    raise UserError(message, code="unknown_choice", field="licence")


def is_licence_allowed(licence: str, choice: LicenceChoice) -> bool:
    """Whether works under the licence are used."""
    return choice == "any" or TERMS[licence] == choice


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Input of a source: folders of its unpacked packages by name, the writer of its images, the licences allowed."""

    packages: Mapping[str, Path]
    images: ImageWriter
    licences: LicenceChoice = "any"

    def allows(self, licence: str) -> bool:
        return is_licence_allowed(licence, self.licences)


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """One source of images and texts.

    Attributes:
        about: description for the list of sources.
        licences: of its works; each line of the corpus carries its own.
        build: deterministic: the same packages give the same rows and images.
        exam: part of a corpus only where it is named; its published splits are kept whole.
    """

    name: str
    about: str
    packages: tuple[Package, ...]
    licences: tuple[str, ...]
    build: Callable[[SourceFiles], SourceRows]
    exam: bool = False

    def needs(self, choice: LicenceChoice) -> tuple[Package, ...]:
        """The packages whose works are allowed."""
        return tuple(each for each in self.packages if each.licence is None or is_licence_allowed(each.licence, choice))

    def has(self, choice: LicenceChoice) -> bool:
        """Whether any of its works is allowed."""
        return any(is_licence_allowed(licence, choice) for licence in self.licences)
