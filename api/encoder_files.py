"""An encoder's directory, ours or another library's, out of the service as a tar and into it by copying.

Only plain data files travel, and nothing of theirs is run: whose encoder it is follows from names and small JSON.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.callers import Caller
from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.interop.identity import Hashes, differing, hash_of_weights_in, hashes_of, identity_of
from lcl_core.interop.origins import Origin, recognise
from lcl_core.interop.small_files import data_files
from lcl_core.runs import store
from lcl_core.runs.artifacts import Staged, remove_tree, sync
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.ids import new_id
from lcl_core.runs.tables import Encoder
from lcl_core.serving.examination import ExaminationBusy, examine

EXAMINED = "examined"  # in the home: what examinations found
CHUNK = 1 << 20


def files_of(directory: Path) -> list[Path]:
    """The regular data files of an encoder, sorted. Raises: Problem 410 when they are gone."""
    own = data_files(directory)
    if not any(path.suffix == ".safetensors" for path in own):
        raise Problem(410, "missing_files", "the encoder's files are gone from the disk; import or train it again")
    return own


def tar_size(files: list[Path]) -> int:
    """Bytes of ``tar_of``: a header and padded content a file, then padding to whole records."""
    blocks = sum(tarfile.BLOCKSIZE + _padded(path.stat().st_size) for path in files) + 2 * tarfile.BLOCKSIZE
    return -(-blocks // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def tar_of(files: list[Path], folder: str) -> Iterator[bytes]:
    """The files as a tar, made while it is sent: no copy on disk, no more than a chunk in memory."""
    sent = 0
    for path in files:
        facts = tarfile.TarInfo(f"{folder}/{path.name}")
        facts.size = path.stat().st_size
        yield facts.tobuf(tarfile.GNU_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        yield b"\0" * (_padded(facts.size) - facts.size)
        sent += tarfile.BLOCKSIZE + _padded(facts.size)
    yield b"\0" * (tar_size(files) - sent)


@dataclass(frozen=True)
class Prepared:
    """An encoder that was examined and copied, hidden beside its place, and waits to be registered."""

    id: str
    staged: Staged
    origin: Origin
    info: dict[str, Any]
    files: dict[str, str]  # sha256 by name, of the copies

    @property
    def hash(self) -> str:
        """Of the weights."""
        return hash_of_weights_in(self.files, self.origin.weights)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.staged.hidden.iterdir())

    @property
    def path(self) -> str:
        """As the row has it."""
        return f"{self.staged.target.parent.name}/{self.id}"

    def register(self, session: Session, name: str, caller: Caller, *, allow_twin: bool = False) -> Encoder:
        """Add the row. The caller publishes before the commit, last: all that can fail has been done then.

        Raises: Problem 409 ``encoder_twin``; UserError ``bad_name``, ``name_taken``.
        """
        admin = caller.sees is None
        store.check_name(session, "encoder", name, caller.owner, admin=admin)
        self._check_twins(session, caller, allow_twin)
        row = Encoder(
            id=self.id,
            name=name,
            path=self.path,
            hash=self.hash,
            owner=caller.owner,
            info=self.info,
            created_at=datetime.now(UTC),
        )
        store.note_files(row, self.files)
        session.add(row)
        session.flush()
        return row

    def publish(self) -> None:
        self.staged.publish()

    def _check_twins(self, session: Session, caller: Caller, allow_twin: bool) -> None:
        """Refuse known weights with other files beside them, unless who may decide it says that they are meant."""
        known = [row for row in store.encoders_with(session, self.hash) if row.identity is not None]
        if not known or identity_of(self.files) in {row.identity for row in known}:
            return
        if allow_twin and (caller.sees is None or {row.owner for row in known} == {caller.owner}):
            return
        row = known[0]
        names = ", ".join(differing(store.registered_files(row), self.files)[:4])
        message = (
            f"these are the weights of encoder {row.name!r} ({row.id}) with another {names}; use that encoder, or have "
            "its owner or an admin import this one with allow_twin: true"
        )
        raise Problem(409, "encoder_twin", message, field="path")


def prepare(source: Path, encoders_dir: Path) -> Prepared:
    """Copy the data files of ``source``, hidden, into the service's home, and examine the copy, which nobody changes.

    Asks nothing of the database. Whoever calls it registers and publishes, or discards. What a crash leaves is garbage
    that no row names.

    Raises: Problem 422 ``bad_encoder``; ExaminationBusy; OSError.
    """
    try:
        paths = data_files(source)
        recognise(source)
    except UserError as error:
        raise _bad(str(error)) from error
    except OSError as error:
        raise _bad(f"{source}: the directory cannot be listed ({error.strerror})") from error
    encoder_id = new_id("enc")
    waiting = encoders_dir / f".import-{encoder_id}"
    waiting.mkdir(parents=True)
    try:
        for path in paths:
            shutil.copyfile(path, waiting / path.name, follow_symlinks=False)
            sync(waiting / path.name)
        sync(waiting)
        files = hashes_of(waiting)
        origin, info = check(waiting, source, files)
    except BaseException:
        shutil.rmtree(waiting, ignore_errors=True)
        raise
    return Prepared(encoder_id, Staged(waiting, encoders_dir / encoder_id), origin, info, files)


def discard(prepared: Prepared, database: Database) -> None:
    """Remove what was copied, unless a row names it: a commit may have been kept though its answer was lost.

    Where the database cannot be asked, the garbage collector finds it.
    """
    prepared.staged.discard()
    if not prepared.staged.target.exists():
        return
    try:
        with database.reading() as session:
            registered = session.get(Encoder, prepared.id) is not None
    except UNREACHABLE:
        return
    if not registered:
        remove_tree(prepared.staged.target)


def check(directory: Path, source: Path, hashes: Hashes) -> tuple[Origin, dict[str, Any]]:
    """Whose encoder it is, and what a process of its own found when it read it.

    Args:
        hashes: of its files.
        source: where the files were copied from, which errors name.

    Raises: Problem 422 ``bad_encoder``; ExaminationBusy.
    """
    try:
        found = examine(directory, memory=directory.parent.parent / EXAMINED, hashes=hashes)
    except ExaminationBusy:
        raise
    except UserError as error:
        raise _bad(str(error).replace(str(directory.resolve()), str(source))) from error
    said = {name: found[name] for name in ("kind", "model", "reads", "parameters")}
    origin = Origin(found["kind"], found["model"], tuple(found["weights"]), tuple(found["reads"]))
    return origin, {**said, "imported_from": str(source)}


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _bad(message: str) -> Problem:
    return Problem(422, "bad_encoder", message, field="path")
