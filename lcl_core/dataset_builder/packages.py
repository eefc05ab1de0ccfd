"""Pinned npm and Debian packages on the local disk: fetched by their own clients, verified, and unpacked safely.

A pin is a sha256: the same bytes on every machine, or an error. Extraction writes below one folder, bounds the number
and size of files, and makes only links that stay inside.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from lcl_core.common.disk_cache import DiskCache
from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file

Client = Literal["npm", "apt"]


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm or Debian, pinned by version and sha256.

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


_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60
_COMPRESSIONS = {"data.tar": "", "data.tar.gz": "gz", "data.tar.xz": "xz", "data.tar.bz2": "bz2"}
_ARCHIVE_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Of one archive's unpacked files."""

    files: int = 200_000
    bytes: int = 4 << 30


def unpack_archive(
    archive: Path, folder: Path, selects: Callable[[str], bool], bounds: UnpackLimits = UnpackLimits()
) -> None:
    """Put the wanted files of a ``.deb`` or ``.tgz`` below ``folder``.

    Links are made where they lead to another place inside it, and left out otherwise; so is what is no file.

    Raises: UserError ``archive_damaged``, ``archive_unsafe`` or ``archive_too_large``; OSError of the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    links: list[tuple[str, str]] = []
    budget = _UnpackBudget(archive, bounds)
    try:
        with _open_tar(archive) as tar:
            for member in tar:
                name = _member_path(archive, member.name)
                if name is None or not selects(name):
                    continue
                budget.spend(member.size)
                if member.isreg():
                    _extract_file(tar, member, folder / name)
                elif member.issym():
                    links.append((name, member.linkname))
    except _ARCHIVE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the archive
            raise
        raise UserError(f"the archive cannot be unpacked ({error})", code="archive_damaged", file=archive) from error
    for name, target in links:  # after all files, so that none is written through a link
        _make_link(folder, name, target)


class _UnpackBudget:
    def __init__(self, archive: Path, bounds: UnpackLimits) -> None:
        self._archive, self._files, self._bytes = archive, bounds.files, bounds.bytes

    def spend(self, size: int) -> None:
        """Raises: UserError when there is nothing left."""
        self._files -= 1
        self._bytes -= size
        if self._files < 0 or self._bytes < 0:
            message = "the archive unpacks to more than any package should"
            raise UserError(message, code="archive_too_large", file=self._archive)


@contextmanager
def _open_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        compression = "gz" if archive.suffix == ".tgz" else _seek_data_tar(file)
        with tarfile.open(fileobj=file, mode=f"r|{compression}") as tar:  # type: ignore[call-overload]
            yield tar


def _seek_data_tar(file: IO[bytes]) -> str:
    """Move to the ``data.tar`` of a Debian package; its compression. Raises: ValueError."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it is no Debian package")
    while header := file.read(_AR_HEADER):
        if len(header) < _AR_HEADER or header[58:] != b"`\n":
            raise ValueError("a header of the package is damaged")
        name, size = header[:16].decode("ascii").rstrip().rstrip("/"), int(header[48:58])
        if name in _COMPRESSIONS:
            return _COMPRESSIONS[name]
        if name.startswith("data.tar"):
            raise ValueError(f"{name} is compressed in a way that is not known here")
        file.seek(size + size % 2, 1)
    raise ValueError("the package holds no files")


def _member_path(archive: Path, name: str) -> str | None:
    """The member's name without what every one begins with; None for the folder itself. Raises: UserError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        message = f"the archive names a file outside itself, {name[:120]!r}"
        raise UserError(message, code="archive_unsafe", file=archive)
    parts = path.parts[1:] if archive.suffix == ".tgz" else path.parts  # npm's all lie in one folder
    return "/".join(parts) or None


def _extract_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None, "an ordinary file has contents"
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file)


def _make_link(folder: Path, name: str, target: str) -> None:
    """Only forms that cannot leave the folder, whatever its other links are: steps up first, then down."""
    ups = PurePosixPath(target).parts
    steps = next((at for at, part in enumerate(ups) if part != ".."), len(ups))
    path = folder / name
    if target.startswith("/") or ".." in ups[steps:] or steps >= len(PurePosixPath(name).parts) or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


DEFAULT_CACHE = Path.home() / ".cache" / "lcl" / "packages"
FETCH_SECONDS = 1800
Log = Callable[[str], None]


class PackageCache:
    """A folder of archives, and below ``unpacked/`` what is in them.

    Args:
        folder: made when needed.
        fetch: whether what is missing is downloaded.
        say: called with messages about slow steps.
    """

    def __init__(self, folder: Path, fetch: bool, say: Log) -> None:
        self._folder, self._fetch, self._say = folder, fetch, say
        self._unpacked = DiskCache(folder / "unpacked", max_bytes=None)

    def require(self, packages: list[Package]) -> None:
        """Have every archive, or say which are missing.

        Raises: UserError ``packages_missing`` or ``fetch_failed``.
        """
        missing = [package for package in packages if not self._has(package)]
        if missing and not self._fetch:
            names = ", ".join(package.file for package in missing)
            message = f"not in the cache: {names}; --fetch downloads them, or put them there"
            raise UserError(message, code="packages_missing", file=self._folder)
        for package in missing:
            self._say(f"fetching {package.name} {package.version}")
            self._download(package)

    def files_of(self, package: Package) -> Path:
        """The folder of the unpacked package. Raises: UserError, also ``package_differs``."""
        name = _unpacked_name(package)
        if not self._unpacked.path(name).is_dir():
            self._say(f"unpacking {package.file}")
            archive = self._folder / package.file
            self._check(archive, package)
            with self._unpacked.open(name, lambda folder: unpack_archive(archive, folder, package.wants)):
                pass
        return self._unpacked.path(name)

    def _has(self, package: Package) -> bool:
        return self._unpacked.path(_unpacked_name(package)).is_dir() or (self._folder / package.file).is_file()

    def _download(self, package: Package) -> None:
        with self._beside() as name:
            _run_client(package, Path(name))
            fetched = Path(name) / package.file
            if not fetched.is_file():
                message = f"{package.client} did not bring {package.file}; put it into the cache yourself"
                raise UserError(message, code="fetch_failed", file=self._folder)
            self._check(fetched, package)
            fetched.rename(self._folder / package.file)

    def _beside(self) -> tempfile.TemporaryDirectory[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".at-work-", dir=self._folder, ignore_cleanup_errors=True)

    def _check(self, archive: Path, package: Package) -> None:
        digest = sha256_file(archive)
        if digest != package.sha256:
            message = f"its sha256 is {digest} and not {package.sha256}; remove it and fetch it again"
            raise UserError(message, code="package_differs", file=archive)


def _unpacked_name(package: Package) -> str:
    """Named after all that it depends on, so that another pin or choice of parts is another folder."""
    key = hashlib.sha256("\n".join((package.sha256, *package.parts)).encode()).hexdigest()[:12]
    return f"{package.file}-{key}"


def _run_client(package: Package, folder: Path) -> None:
    """Let the package's own client download it into ``folder``. Raises: UserError ``fetch_failed``."""
    program = {"npm": "npm", "apt": "apt-get"}[package.client]
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed; install it, or put {package.file} into the cache"
        raise UserError(message, code="fetch_failed", field="fetch")
    commands = {
        "npm": [path, "pack", f"{package.name}@{package.version}", "--silent"],
        "apt": [path, "download", "-q", "-o", "APT::Sandbox::User=root", f"{package.name}={package.version}"],
    }
    try:
        done = subprocess.run(
            commands[package.client], cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"{program} took longer than {FETCH_SECONDS} s for {package.name}"
        raise UserError(message, code="fetch_failed") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        message = f"{program} could not fetch {package.name} {package.version}: {reason[:300]}"
        raise UserError(message, code="fetch_failed")
