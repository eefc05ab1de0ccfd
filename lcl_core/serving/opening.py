"""The session of whatever encoder lies in a directory."""

from __future__ import annotations

from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.interop.origins import recognise
from lcl_core.serving.session import EncoderSession
from lcl_core.train.device import Precision


def open_session(directory: str | Path, device: str = "auto", precision: Precision = "fp32") -> EncoderSession:
    """Load an encoder, ours or another library's; ``precision`` as EncoderSession's.

    Raises:
        UserError: as EncoderSession.
    """
    try:
        kind = recognise(Path(directory)).kind
    except UserError:
        kind = "lcl"  # its own loader says best what is missing
    if kind == "lcl":
        return EncoderSession(directory, device, precision=precision)
    from lcl_core.serving.tower_session import TowerSession  # imports the libraries of the others

    return TowerSession(directory, device, precision=precision)
