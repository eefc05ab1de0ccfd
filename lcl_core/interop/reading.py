"""Reading what others wrote: one sentence for the user, whatever their library raises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lcl_core.errors import UserError
from lcl_core.interop.origins import Origin, recognise

_RAISED = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError, ImportError,
    SafetensorError,
)  # fmt: skip


@contextmanager
def readable(directory: Path) -> Iterator[None]:
    """What goes wrong inside becomes a UserError ``encoder_unreadable`` that names the directory."""
    try:
        yield
    except UserError:
        raise
    except _RAISED as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise unreadable(directory, f"{type(error).__name__}: {reason}") from error


def unreadable(directory: Path, reason: str) -> UserError:
    return UserError(
        f"the encoder cannot be read ({reason}); save it again with its library",
        code="encoder_unreadable", field="encoder", file=directory,
    )  # fmt: skip


def is_kind(directory: Path, kind: str) -> bool:
    """Does an encoder of that kind lie there?"""
    try:
        return recognise(directory).kind == kind
    except UserError:
        return False


def names_of(directory: Path, origin: Origin) -> set[str]:
    """Names of all tensors of the weights, from the files' headers."""
    names: set[str] = set()
    for file in origin.weights:
        with safe_open(directory / file, framework="pt") as tensors:
            names.update(tensors.keys())
    return names


def all_filled(directory: Path, missing: Sequence[str]) -> None:
    """Raises: UserError when the weights lack some of the network's names, which a library would fill with noise."""
    if missing:
        raise unreadable(directory, f"the weights lack {len(missing)} of the names, the first is {sorted(missing)[0]}")


def square_side(directory: Path, size: int | Sequence[int]) -> int:
    """The side of the pictures that an encoder takes. Raises: UserError where they are not square."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise unreadable(directory, f"it takes pictures of {height} x {width}, and only square ones can be given")
    return height
