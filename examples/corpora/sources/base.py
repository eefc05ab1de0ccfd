"""What every source declares: its packages, its licences, and the function that builds its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.corpora.images import ImageWriter
from examples.corpora.packages import Package
from examples.corpora.rows import SourceRows

PUBLIC_DOMAIN = "public domain (CC dedication)"
# to be named and no more; other licences ask that what is made of the work is shared on their own terms
PERMISSIVE = (
    *(PUBLIC_DOMAIN, "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"),
    *("Apache-2.0", "ISC", "MIT", "OFL-1.1"),
)


def is_allowed(licence: str, permissive: bool) -> bool:
    return not permissive or licence in PERMISSIVE


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Input of a source: folders of its unpacked packages by name, the writer of its images, the licences allowed."""

    packages: Mapping[str, Path]
    images: ImageWriter
    permissive: bool = False

    def allows(self, licence: str) -> bool:
        return is_allowed(licence, self.permissive)


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

    def needs(self, permissive: bool) -> tuple[Package, ...]:
        """The packages whose works are allowed."""
        return tuple(each for each in self.packages if each.licence is None or is_allowed(each.licence, permissive))
