"""UserError, the one error that a user sees: what is wrong, where, and the way out. Import of optional libraries,
names that were meant."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Bad input. Its message is shown to the user, never a traceback.

    Args:
        message: what is wrong and what to do about it, one or two sentences.
        code: a stable snake_case word for programs (``bad_spec``, ``corpus_unreadable`` …); None: that of the class.
        field: dotted path of the offending spec field, such as ``data.sources.0.dataset``.
        file: the offending file, when there is one.
        line: the 1-based line in ``file``.
    """

    status = 422  # of an HTTP response
    code = "invalid_value"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        file: str | Path | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.field = field
        self.file = None if file is None else str(file)
        self.line = line

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{where}: {self.message}" if where else self.message

    def to_dict(self) -> dict[str, Any]:
        """JSON form in run rows, ``error.json`` and REST responses; empty fields are left out."""
        fields = {"code": self.code, "message": str(self), "field": self.field, "file": self.file, "line": self.line}
        return {key: value for key, value in fields.items() if value is not None}


class NotFound(UserError):
    """What a name or id refers to does not exist, or is not visible."""

    status, code = 404, "not_found"


class Conflict(UserError):
    """The present state of things does not allow it."""

    status, code = 409, "conflict"


class TooLarge(UserError):
    """More bytes than are accepted."""

    status, code = 413, "too_large"


class Busy(UserError):
    """Something is missing for now; the same request may succeed later."""

    status, code = 503, "busy"


class StoreError(Busy):
    """A store that does not answer or does not permit the access: it says nothing about the item that was wanted.

    Code that leaves out items that cannot be read lets it pass. Else an outage would leave out all items after it.
    """


@contextlib.contextmanager
def item_errors_suppressed() -> Iterator[None]:
    """Suppress a UserError about an item; a StoreError passes."""
    try:
        yield
    except StoreError:
        raise
    except UserError:
        pass


def import_optional(module: str, purpose: str, extra: str = "data", field: str | None = None) -> Any:
    """Import a module of an extra."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        message = f"{purpose} needs {name}, which is not installed; `pip install 'lcl[{extra}]'` brings it"
        raise UserError(message, code="missing_extra", field=field) from error


def suggestion(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the most similar of ``names``, to be put after a message; empty: none is similar."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
