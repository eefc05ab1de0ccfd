"""SQLite's errors in words that name the file and the way out."""

from __future__ import annotations

import os

from sqlalchemy import ExceptionContext
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

_LITTLE = 1 << 20  # bytes; with less room than that an input/output error is a full disk's


class _InWords(DBAPIError):
    """Says its own words, in one line; the statement and its values, which may be anybody's, are left out."""

    words = ""

    def __str__(self) -> str:
        return self.words


class DatabaseFull(_InWords, OperationalError):
    """The disk that holds the database is full; it answers again when there is room."""


class DatabaseUnusable(_InWords, OperationalError):
    """The file cannot be opened or written."""


class DatabaseDamaged(_InWords, DatabaseError):
    """The file is no database, or some of its pages are torn: no wait helps."""


def in_words(path: str, context: ExceptionContext) -> DBAPIError | None:
    """For the event ``handle_error`` of an engine on the file ``path``; None: the error stays as it is."""
    cause = context.original_exception
    said = str(cause).lower()
    if "database or disk is full" in said or ("disk i/o error" in said and _room_beside(path) < _LITTLE):
        words = f"no space left on the disk that holds {path} ({cause}); make room there, then try again"
        return _made(DatabaseFull, words, cause)
    if "file is not a database" in said or "malformed" in said or "disk i/o error" in said:
        words = f"{path} is damaged ({cause}); stop the service and restore a backup (docs/operations.md, Backup)"
        return _made(DatabaseDamaged, words, cause)
    if "readonly database" in said or "unable to open database file" in said:
        words = f"{path} cannot be opened and written ({cause}); see to the rights of the file and its folder"
        return _made(DatabaseUnusable, words, cause)
    return None


def _made(kind: type[_InWords], words: str, cause: BaseException) -> _InWords:
    error = kind(None, None, cause)
    error.words = words
    return error


def _room_beside(path: str) -> int:
    """Bytes that this user may still write to the disk of the file's folder."""
    try:
        found = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return _LITTLE
    return found.f_bavail * found.f_frsize
