"""What every source says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lcl_core.corpora.licences import Choice, allowed
from lcl_core.corpora.packages import Package
from lcl_core.corpora.steps.pictures import Pictures
from lcl_core.corpora.steps.rows import Built


@dataclass(frozen=True, slots=True)
class Material:
    """What a source works with.

    Attributes:
        files: the unpacked packages, by name.
        pictures: where its pictures go.
        licences: which works are taken.
    """

    files: Mapping[str, Path]
    pictures: Pictures
    licences: Choice = "any"

    def allows(self, licence: str) -> bool:
        return allowed(licence, self.licences)


@dataclass(frozen=True, slots=True)
class Source:
    """One source of pictures and words.

    Attributes:
        about: what it is, for the list of sources.
        licences: of its works; a line of the corpus carries the one that it is under.
        build: the same material gives the same rows and pictures.
    """

    name: str
    about: str
    packages: tuple[Package, ...]
    licences: tuple[str, ...]
    build: Callable[[Material], Built]

    def needs(self, choice: Choice) -> tuple[Package, ...]:
        """The packages without those whose works are not taken."""
        return tuple(each for each in self.packages if each.licence is None or allowed(each.licence, choice))

    def has(self, choice: Choice) -> bool:
        """Whether anything of it is on these terms."""
        return any(allowed(licence, choice) for licence in self.licences)
