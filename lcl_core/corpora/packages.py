"""A published archive, pinned: the same bytes for everybody, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Client = Literal["npm", "apt"]


@dataclass(frozen=True, slots=True)
class Package:
    """What one of the ordinary clients downloads.

    Attributes:
        parts: how the names begin of what is unpacked; licences always are.
        licence: of its works, where a source's packages differ in that.
    """

    client: Client
    name: str
    version: str
    sha256: str
    parts: tuple[str, ...] = ()
    licence: str | None = None

    @property
    def file(self) -> str:
        """What the client calls the archive."""
        if self.client == "npm":
            return f"{self.name.replace('@', '').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"

    @property
    def notices(self) -> tuple[str, ...]:
        """Files that say who made it and on what terms."""
        if self.client == "npm":
            return ("LICENSE", "LICENSE.txt", "README.md", "info.json")
        return (f"usr/share/doc/{self.name}/copyright",)

    def wants(self, name: str) -> bool:
        """Whether a file of the archive is unpacked."""
        return name in self.notices or name.startswith(self.parts)


def npm(name: str, version: str, sha256: str, *parts: str) -> Package:
    return Package("npm", name, version, sha256, parts)


def apt(name: str, version: str, sha256: str, *parts: str) -> Package:
    """Of Debian 13."""
    return Package("apt", name, version, sha256, parts)
