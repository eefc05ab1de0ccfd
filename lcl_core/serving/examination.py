"""Imported encoders are read by a process of their own before this one reads them. Knows no torch.

The process checks their form, builds them, looks at a picture and reads texts with them, within bounds of memory and
time and without a network. What it found is remembered by the hash of all of their files, so that it is done once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from lcl_core import __version__
from lcl_core.confinement import Limits, run_confined
from lcl_core.errors import UserError
from lcl_core.interop.identity import Hashes, hashes_of
from lcl_core.interop.small_files import data_files

MODULE = "lcl_core.serving.examining"
AT_ONCE = 2
PATIENCE_SECONDS = 60.0  # that a caller waits for others' examinations
SECONDS = 120.0  # of one; more for many weights
BYTES_A_SECOND = 20 << 20
REMEMBERED = 256

Facts = dict[str, Any]

_known: OrderedDict[str, Facts] = OrderedDict()
_lock = threading.Lock()
_slots = threading.BoundedSemaphore(AT_ONCE)


class ExaminationBusy(UserError):
    """Others are being examined. ``retry_after``: seconds."""

    retry_after = 10.0

    def __init__(self) -> None:
        super().__init__("other encoders are being examined; try again in a few seconds", code="examination_busy")


def examine(
    directory: Path, memory: Path | None = None, seconds: float = SECONDS, hashes: Hashes | None = None
) -> Facts:
    """Read an encoder in a process of its own, unless these very files were read before. Thread-safe; blocks.

    Args:
        memory: a folder that keeps what was found beyond this process.
        seconds: of wall clock; more for many weights.
        hashes: sha256 of the files by name, where they are known; whoever loads them then compares them.

    Returns:
        ``kind``, ``model``, ``reads``, ``weights`` and ``parameters``; ``loaded``: whether it could be tried out, which
        needs its library.

    Raises:
        UserError: ``bad_encoder`` or ``encoder_unreadable``, with what is wrong; ExaminationBusy.
    """
    digest = digest_of(hashes or _hashes(directory))
    if (found := _remembered(digest, memory)) is not None:
        return found
    if not _slots.acquire(timeout=PATIENCE_SECONDS):
        raise ExaminationBusy
    try:
        if (found := _remembered(digest, memory)) is not None:
            return found
        found = _ask(directory, seconds)
    finally:
        _slots.release()
    if found["loaded"]:
        _remember(digest, found, memory)
    return found


def digest_of(hashes: Hashes) -> str:
    """sha256 (hex) of every data file's name and content, and of our version."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(f"{__version__}\n{lines}".encode()).hexdigest()


def _hashes(directory: Path) -> Hashes:
    """Raises: UserError."""
    try:
        return hashes_of(directory)
    except OSError as error:
        message = f"the files cannot be read ({error.strerror}); give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", field="encoder", file=directory) from error


def _ask(directory: Path, seconds: float) -> Facts:
    size = sum(path.stat().st_size for path in data_files(directory))
    ended = run_confined(MODULE, [str(directory.resolve())], Limits(seconds + size / BYTES_A_SECOND))
    with contextlib.suppress(ValueError):
        answer = json.loads(ended.output.rpartition(b"\n")[2])
        if ended.status == 0 and answer.get("ok"):
            return dict(answer["facts"])
        if ended.status == 0:
            raise UserError(answer["message"], code=answer["code"], field="encoder", file=answer.get("file"))
    message = f"the encoder cannot be read: {ended.reason}; save it again with its library"
    raise UserError(message, code="encoder_unreadable", field="encoder", file=directory)


def _remembered(digest: str, memory: Path | None) -> Facts | None:
    with _lock:
        if digest in _known:
            _known.move_to_end(digest)
            return _known[digest]
    if memory is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((memory / f"{digest}.json").read_text(encoding="utf-8")))
    return None


def _remember(digest: str, facts: Facts, memory: Path | None) -> None:
    with _lock:
        _known[digest] = facts
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)
    if memory is None:
        return
    with contextlib.suppress(OSError):  # a full disk costs an examination more
        memory.mkdir(parents=True, exist_ok=True)
        kept = sorted(memory.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in kept[: max(0, len(kept) - REMEMBERED + 1)]:
            old.unlink(missing_ok=True)
        waiting = memory / f".{digest}.{os.getpid()}.{threading.get_ident()}"
        waiting.write_text(json.dumps(facts), encoding="utf-8")
        waiting.replace(memory / f"{digest}.json")
