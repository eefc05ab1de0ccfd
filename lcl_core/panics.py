"""Failures of libraries written in Rust: a panic there arrives as a BaseException that is no Exception."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager

from lcl_core.errors import UserError

# what ends a thread or a coroutine, and is nobody's failure
ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)


def failure(error: BaseException) -> Exception:
    """The failure that a caught ``error`` is, for whoever waits for an Exception.

    Raises: ``error`` itself when it ends the thread.
    """
    if isinstance(error, ENDINGS):
        raise error
    if isinstance(error, Exception):
        return error
    return tokenizer_failed(error) if type(error).__name__ == "PanicException" else RuntimeError(repr(error)[:500])


def tokenizer_failed(error: BaseException) -> UserError:
    reason = str(error).strip().partition("\n")[0][:200]
    return UserError(
        f"the encoder's tokenizer cannot read this text ({reason}); its owner should import it again",
        code="tokenizer_failed",
    )


@contextmanager
def tokenizing() -> Iterator[None]:
    """Whatever a tokenizer raises inside becomes a UserError ``tokenizer_failed``."""
    try:
        yield
    except (UserError, *ENDINGS):
        raise
    except BaseException as error:
        raise tokenizer_failed(error) from error


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """A panic inside becomes a UserError ``tokenizer_failed``; Exceptions stay as they are."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise failure(error) from error
