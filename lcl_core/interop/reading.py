"""Reading what others wrote: one sentence for the user, whatever their library raises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lcl_core.errors import UserError
from lcl_core.interop.origins import Origin


@contextmanager
def readable(directory: Path) -> Iterator[None]:
    """What goes wrong inside becomes a UserError ``encoder_unreadable`` that names the directory."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library raises its own
        reason = str(error).strip().partition("\n")[0][:300]
        raise unreadable(directory, f"{type(error).__name__}: {reason}") from error


def unreadable(directory: Path, reason: str) -> UserError:
    return UserError(
        f"the encoder cannot be read ({reason}); save it again with its library",
        code="encoder_unreadable", field="encoder", file=directory,
    )  # fmt: skip


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


def check_ids(directory: Path, tokenizer: Any, rows: int) -> None:
    """Raises: UserError when a tokenizer, ready to be used, makes an id that is no row of the token embeddings."""
    words = getattr(tokenizer, "tokenizer", tokenizer)  # OpenCLIP wraps those of transformers
    words = words.get_vocab() if hasattr(words, "get_vocab") else words.encoder
    if (highest := max(words.values(), default=0)) >= rows:
        raise unreadable(directory, f"its tokenizer makes the id {highest}, and there are {rows} token embeddings")


def square_side(directory: Path, size: int | Sequence[int]) -> int:
    """The side of the pictures that an encoder takes. Raises: UserError where they are not square."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise unreadable(directory, f"it takes pictures of {height} x {width}, and only square ones can be given")
    return height
