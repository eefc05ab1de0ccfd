"""fsspec file system behind a URL: opened on first use, retried on failure, credentials removed from messages."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lcl_core.common.errors import StoreError, UserError, import_optional

_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.1
# user names and queries of URLs, which may be credentials
_SECRETS = ((re.compile(r"://[^/@\s'\"]*@"), "://…@"), (re.compile(r"\?[^\s'\"]+"), "?…"))
# botocore's; other protocols raise PermissionError, also for credentials that have expired
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
_LOCAL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
T = TypeVar("T")


class Storage:
    """Files below a URL. Thread-safe, and safe after a fork. Each wait between two attempts is twice the last.

    Credentials and endpoints come from where the protocol's own library looks for them, such as ``AWS_*`` variables.
    """

    def __init__(self, url: str, attempts: int = _ATTEMPTS, first_wait: float = _FIRST_WAIT_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._attempts, self._first_wait = attempts, first_wait
        self._opened: tuple[int, Any, str] | None = None
        self.files()

    def files(self) -> tuple[Any, str]:
        """File system and path in it; reopened in a forked process, where the event loop does not run."""
        if self._opened is None or self._opened[0] != os.getpid():
            core = import_optional("fsspec.core", f"reading {self.url}")
            try:
                # a local file system needs its folders made; object storage has none
                options = {"auto_mkdir": True} if self.url.startswith(("file://", "local://")) else {}
                files, path = core.url_to_fs(self.url, skip_instance_cache=self._opened is not None, **options)
            except (ImportError, ValueError) as error:
                message = f"the URL cannot be opened ({error})"
                raise UserError(message, code="corpus_unreadable", file=self.url) from error
            self._opened = (os.getpid(), files, path)
        return self._opened[1], self._opened[2]

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or a range of it. Raises: UserError ``file_missing``; StoreError."""
        return bytes(self.with_retries(name, "read", lambda files, path: files.cat_file(path, start=start, end=end)))

    def download(self, name: str, target: Path) -> None:
        """Write a file to ``target``, piece by piece. Raises: as :meth:`read`; OSError of ``target``."""
        target.touch()  # an error of the local disk is not one of the storage
        try:
            self.with_retries(name, "read", lambda files, path: files.get_file(path, str(target)))
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _LOCAL_DISK:
                raise error.__cause__ from None
            raise

    def with_retries(self, name: str, verb: str, act: Callable[[Any, str], T]) -> T:
        """Result of ``act(file system, path of the file)``, retried on failure. ``verb``: read or written.

        Raises: FileExistsError; UserError ``file_missing``; StoreError ``store_unreachable``, or ``store_forbidden``
            where credentials are missing, have expired or do not suffice.
        """
        files, path = self.files()
        wait = self._first_wait
        for attempt in range(1, self._attempts + 1):
            try:
                return act(files, f"{path}/{name}" if name else path)
            except FileNotFoundError as error:
                raise UserError(f"the file is not in {self.url}", code="file_missing", file=name) from error
            except FileExistsError:
                raise
            except Exception as error:  # each protocol has its own exceptions
                if attempt == self._attempts or _is_forbidden(error):
                    place = f"the file in {self.url}" if name else self.url
                    message = (
                        f"{place} cannot be {verb} after {attempt} attempts "
                        f"({type(error).__name__}: {redact_credentials(str(error))}); check the network, and the "
                        "credentials in the environment of the process"
                    )
                    code = "store_forbidden" if _is_forbidden(error) else "store_unreachable"
                    raise StoreError(message, code=code, file=name or None) from error
                time.sleep(wait)
                wait *= 2
        raise AssertionError("the last attempt returns or raises")


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS


def redact_credentials(text: str) -> str:
    """``text`` with user names and queries of URLs masked."""
    for pattern, mark in _SECRETS:
        text = pattern.sub(mark, text)
    return text
