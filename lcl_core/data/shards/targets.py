"""Where a conversion goes: a folder that appears only when all is done, or a URL whose index is written last."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lcl_core.data.shards.outbox import Claim, Outbox
from lcl_core.errors import UserError
from lcl_core.roots import is_url
from lcl_core.storage import Storage

SCRATCH = "lcl-converting-"  # how folders begin that hold what is on its way to a URL


@dataclass(frozen=True)
class Workplace:
    """Where the files are made.

    Attributes:
        finished: called with the name of a file that will not change any more; it may be gone afterwards.
        removed_leftover: an earlier, interrupted conversion had left something.
    """

    folder: Path
    finished: Callable[[str], None]
    removed_leftover: bool


def open_target(target: str | Path, owner: str, scratch: Path | None) -> AbstractContextManager[Workplace]:
    """A place that becomes a corpus at the end, or stays without one when anything is raised.

    Args:
        owner: who converts; what an earlier attempt of the same one left at a URL is replaced.
        scratch: folder for what is on its way to a URL; None: the system's for temporary files.

    Raises (on entry): UserError ``target_exists`` or ``conversion_running``.
    """
    if is_url(str(target)):
        return _distant(str(target), owner, scratch)
    return _beside(Path(target))


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Workplace]:
    """A folder beside ``target`` that becomes it by renaming."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError("there is something already; choose another name", code="target_exists", file=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.converting")
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another conversion to this place is running; wait for it or choose another name"
            raise UserError(message, code="conversion_running", file=target) from error
        leftover = folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield Workplace(folder, lambda name: None, leftover)
            folder.rename(target)
        except BaseException as error:
            _say_that_nothing_is_left(error, target)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _distant(url: str, owner: str, scratch: Path | None) -> Iterator[Workplace]:
    """A folder of ours whose finished files go to ``url`` one after the other, the index last of all."""
    claim = Claim(Storage(url), owner)
    leftover = claim.take()
    try:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=scratch) as name:
            folder = Path(name)
            with Outbox(claim.storage, folder) as outbox:
                yield Workplace(folder, outbox.send, leftover)
                outbox.send_rest()
            claim.conclude(folder)
    except BaseException as error:
        claim.withdraw()
        _say_that_nothing_is_left(error, url)
        raise


def _say_that_nothing_is_left(error: BaseException, target: str | Path) -> None:
    words = f"the conversion was interrupted and left nothing at {target}"
    error.add_note(words)
    if isinstance(error, UserError):
        error.message = f"{error.message}; {words}"
