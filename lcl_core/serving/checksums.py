"""The checksums of a collection's files, compared once after it was opened. Knows no torch.

What is small is compared before the first answer. Of what is large that would take seconds or minutes: a thread reads
it meanwhile, one collection at a time, with a lower priority than the threads that search, and what it finds is told
from then on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from lcl_core.serving.layout import IMAGES, Manifest, changed_file, present

AT_ONCE_BYTES = 64 << 20  # compared before the first answer: .06 to .25 s
CHUNK = 1 << 20
NICENESS = 10
_one_at_a_time = threading.Lock()
log = logging.getLogger(__name__)
Stamp = tuple[tuple[int, int] | None, ...]


class ChecksumCheck:
    """Of one opened directory. Thread-safe.

    Args:
        at_once: bytes up to which the files are compared by the first caller of ``check``.
    """

    def __init__(self, directory: Path, manifest: Manifest, at_once: int = AT_ONCE_BYTES) -> None:
        self._directory, self._manifest = directory, manifest
        # the vectors decide what is found: before the images, which may be a hundred times as large
        self._names = sorted(present(manifest), key=lambda name: (name == IMAGES, manifest.files[name].bytes))
        self._small = sum(facts.bytes for facts in manifest.files.values()) <= at_once
        self._begun = False
        self._damage: str | None = None
        self._stamp: Stamp = ()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Compare, or have it begun. Raises: UserError ``collection_changed``, naming the file."""
        if not self._begun:
            with self._lock:
                self._begin()
        if self._damage is not None:
            raise changed_file(self._directory / self._damage)

    @property
    def is_outdated(self) -> bool:
        """Whether files that were found changed are others by now: the directory is to be opened anew."""
        return self._damage is not None and self._stamp != self._stamp_now()

    def _begin(self) -> None:
        if self._begun:
            return
        if self._small:
            self._compare()
        else:
            threading.Thread(target=self._compare_slowly, name="lcl-checksums", daemon=True).start()
        self._begun = True

    def _compare_slowly(self) -> None:
        with _one_at_a_time:
            with suppress(OSError, AttributeError):  # on Linux a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            self._compare()

    def _compare(self) -> None:
        stamp = self._stamp_now()
        for name in self._names:
            try:
                found = _sha256(self._directory / name)
            except OSError:  # folded or deleted meanwhile: who has it open reads what was mapped
                return
            if found != self._manifest.files[name].sha256:
                log.error("collection_changed: %s", self._directory / name)
                self._stamp, self._damage = stamp, name
                return

    def _stamp_now(self) -> Stamp:
        return tuple(_facts(self._directory / name) for name in self._names)


def check_all(directory: Path, manifest: Manifest) -> None:
    """Compare every file now. Raises: UserError ``collection_changed``, naming the file; OSError."""
    for name in present(manifest):
        if _sha256(directory / name) != manifest.files[name].sha256:
            raise changed_file(directory / name)


def _sha256(path: Path) -> str:
    """In pieces of which each gives up Python's lock. Raises: OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()


def _facts(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
