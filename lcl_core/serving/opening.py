"""The session of whatever encoder lies in a directory."""

from __future__ import annotations

from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.interop.identity import Hashes, check_unchanged, hashes_of
from lcl_core.interop.origins import recognise
from lcl_core.serving.session import EncoderSession
from lcl_core.train.device import Precision


def open_session(
    directory: str | Path, device: str = "auto", precision: Precision = "fp32", registered: Hashes | None = None
) -> EncoderSession:
    """Load an encoder, ours or another library's; ``precision`` as EncoderSession's.

    Args:
        registered: what is known of its files, sha256 by name; another content is refused. None: nothing is.

    Raises:
        UserError: as EncoderSession; ``encoder_changed``.
    """
    hashes = read_hashes(Path(directory))
    if registered:
        check_unchanged(registered, hashes)
    try:
        kind = recognise(Path(directory)).kind
    except UserError:
        kind = "lcl"  # its own loader says best what is missing
    if kind == "lcl":
        return EncoderSession(directory, device, precision=precision, file_hashes=hashes)
    from lcl_core.serving.tower_session import TowerSession  # imports the libraries of the others

    return TowerSession(directory, device, precision=precision, file_hashes=hashes)


def read_hashes(directory: Path) -> dict[str, str]:
    """``hashes_of``. Raises: UserError ``encoder_unreadable``."""
    try:
        return hashes_of(directory)
    except OSError as error:
        message = f"a file cannot be read ({error.strerror}); give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=error.filename or directory) from error
