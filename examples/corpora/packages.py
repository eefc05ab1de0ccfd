"""Pinned npm and Debian packages: fetched by their own clients, verified by hash, unpacked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file

DEFAULT_CACHE = Path.home() / ".cache" / "lcl" / "packages"
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm or Debian 13, pinned by version and sha256.

    Attributes:
        parts: how the names begin of what is unpacked; licences always are.
        licence: of its works, where a source's packages differ in that.
    """

    client: Literal["npm", "apt"]
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


def npm(name: str, version: str, sha256: str, *parts: str) -> Package:
    return Package("npm", name, version, sha256, parts)


def apt(name: str, version: str, sha256: str, *parts: str) -> Package:
    return Package("apt", name, version, sha256, parts)


class PackageCache:
    """A folder of archives, and below ``unpacked/`` what is in them. ``fetch``: download what is missing."""

    def __init__(self, folder: Path, fetch: bool, say: Log) -> None:
        self._folder, self._fetch, self._say = folder, fetch, say

    def require(self, packages: list[Package]) -> None:
        """Have every package. Raises: UserError ``packages_missing`` or ``fetch_failed``."""
        missing = [each for each in packages if not self._unpacked(each).is_dir() and not self._archive(each).is_file()]
        if missing and not self._fetch:
            names = ", ".join(package.file for package in missing)
            message = f"not in the cache: {names}; --fetch downloads them, or put them there"
            raise UserError(message, code="packages_missing", file=self._folder)
        for package in missing:
            self._say(f"fetching {package.name} {package.version}")
            self._download(package)

    def files_of(self, package: Package) -> Path:
        """The folder of the unpacked package. Raises: UserError ``package_differs``."""
        folder = self._unpacked(package)
        if not folder.is_dir():
            self._say(f"unpacking {package.file}")
            archive = self._archive(package)
            if (digest := sha256_file(archive)) != package.sha256:
                message = f"its sha256 is {digest} and not {package.sha256}; remove it and fetch it again"
                raise UserError(message, code="package_differs", file=archive)
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            unpack(archive, partial, package)
            partial.rename(folder)
        return folder

    def _archive(self, package: Package) -> Path:
        return self._folder / package.file

    def _unpacked(self, package: Package) -> Path:
        """Named after all that it depends on, so that another pin or choice of parts is another folder."""
        key = hashlib.sha256("\n".join((package.sha256, *package.parts)).encode()).hexdigest()[:12]
        return self._folder / "unpacked" / f"{package.file}-{key}"

    def _download(self, package: Package) -> None:
        if package.client == "npm":
            command = ["npm", "pack", f"{package.name}@{package.version}", "--silent"]
        else:
            command = [
                "apt-get",
                "download",
                "-q",
                "-o",
                "APT::Sandbox::User=root",
                f"{package.name}={package.version}",
            ]
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            try:
                subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
                Path(folder, package.file).rename(self._archive(package))
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", "").strip() or error
                message = f"{command[0]} could not fetch it ({reason}); put {package.file} into the cache yourself"
                raise UserError(message, code="fetch_failed", file=self._folder) from error


def unpack(archive: Path, folder: Path, package: Package) -> None:
    """Put the wanted files of a ``.deb`` or ``.tgz`` below ``folder``; links that lead elsewhere are left out."""

    def select(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
        parts = PurePosixPath(member.name).parts
        name = "/".join(parts[1:] if package.client == "npm" else parts)  # npm's are all in one folder
        if name not in package.notices and not name.startswith(package.parts or ("\0",)):
            return None
        try:
            return tarfile.data_filter(member.replace(name=name, deep=False), target)
        except tarfile.FilterError:
            return None

    folder.mkdir(parents=True)
    with archive.open("rb") as file:
        if package.client == "apt":
            _seek_data_tar(file)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            tar.extractall(folder, filter=select)  # noqa: S202 - data_filter keeps it inside


def _seek_data_tar(file: IO[bytes]) -> None:
    """Move to the contents of a Debian package, which is an ``ar`` archive of several files."""
    file.seek(8)
    while header := file.read(60):
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, 1)
