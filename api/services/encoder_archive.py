"""Import of encoder directories, and export as tar in the service's own or another library's format.

Only plain data files are copied, and no code of theirs runs: the format follows from names and small JSON files.
Conversions run in a confined process each, so its memory and its crashes stay there.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from sqlalchemy.orm import Session

from api.core.auth import Principal
from api.core.errors import Problem
from api.core.settings import ApiSettings
from lcl_core.common.errors import UserError
from lcl_core.common.files import Staged, fsync_path, remove_tree
from lcl_core.common.sandbox import SandboxLimits, run_sandboxed
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow, new_id
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.encoders.detect import EncoderFormat, detect_encoder
from lcl_core.encoders.export import FORMATS, check_exportable
from lcl_core.encoders.export.__main__ import REFUSED
from lcl_core.encoders.file_hashes import Hashes, changed_files, combined_weights_hash, hash_files, identity_hash
from lcl_core.encoders.sandbox import SandboxBusy, inspect_encoder
from lcl_core.encoders.schemas.base import data_files

EXAMINATIONS_FOLDER = "examined"  # in the home: what examinations found
TAR_CHUNK_BYTES = 1 << 20


def encoder_files(directory: Path) -> list[Path]:
    """The regular data files of an encoder, sorted. Raises: Problem 410 when they are gone."""
    own = data_files(directory)
    if not any(path.suffix == ".safetensors" for path in own):
        raise Problem(410, "missing_files", "the encoder's files are gone from the disk; import or train it again")
    return own


def tar_size(files: list[Path]) -> int:
    """Bytes of ``tar_of``: a header and padded content a file, then padding to whole records."""
    blocks = sum(tarfile.BLOCKSIZE + _padded(path.stat().st_size) for path in files) + 2 * tarfile.BLOCKSIZE
    return -(-blocks // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def stream_tar(files: list[Path], folder: str) -> Iterator[bytes]:
    """The files as a tar, made while it is sent: no copy on disk, no more than a chunk in memory."""
    sent = 0
    for path in files:
        facts = tarfile.TarInfo(f"{folder}/{path.name}")
        facts.size = path.stat().st_size
        yield facts.tobuf(tarfile.GNU_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(TAR_CHUNK_BYTES):
                yield chunk
        yield b"\0" * (_padded(facts.size) - facts.size)
        sent += tarfile.BLOCKSIZE + _padded(facts.size)
    yield b"\0" * (tar_size(files) - sent)


@dataclass(frozen=True)
class StagedEncoder:
    """An encoder that was examined and copied, hidden beside its place, and waits to be registered."""

    id: str
    staged: Staged
    origin: EncoderFormat
    info: dict[str, Any]
    files: dict[str, str]  # sha256 by name, of the copies

    @property
    def hash(self) -> str:
        """Of the weights."""
        return combined_weights_hash(self.files, self.origin.weights)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.staged.hidden.iterdir())

    @property
    def path(self) -> str:
        """As the row has it."""
        return f"{self.staged.target.parent.name}/{self.id}"

    def register(self, session: Session, name: str, caller: Principal, *, allow_twin: bool = False) -> EncoderRow:
        """Add the row. The caller publishes before the commit, last: all that can fail has been done then.

        Raises: Problem 409 ``encoder_twin``; UserError ``bad_name``, ``name_taken``.
        """
        admin = caller.visible_owner is None
        registry.check_name(session, "encoder", name, caller.owner, admin=admin)
        self._check_twins(session, caller, allow_twin)
        row = EncoderRow(
            id=self.id,
            name=name,
            path=self.path,
            hash=self.hash,
            owner=caller.owner,
            info=self.info,
            created_at=datetime.now(UTC),
        )
        registry.set_encoder_files(row, self.files)
        session.add(row)
        session.flush()
        return row

    def publish(self) -> None:
        self.staged.publish()

    def _check_twins(self, session: Session, caller: Principal, allow_twin: bool) -> None:
        """Refuse known weights with other files beside them, unless who may decide it says that they are meant."""
        known = [row for row in registry.encoders_by_weights_hash(session, self.hash) if row.identity is not None]
        if not known or identity_hash(self.files) in {row.identity for row in known}:
            return
        if allow_twin and (caller.visible_owner is None or {row.owner for row in known} == {caller.owner}):
            return
        row = known[0]
        names = ", ".join(changed_files(registry.registered_files(row), self.files)[:4])
        message = (
            f"these are the weights of encoder {row.name!r} ({row.id}) with another {names}; use that encoder, or have "
            "its owner or an admin import this one with allow_twin: true"
        )
        raise Problem(409, "encoder_twin", message, field="path")


def stage_import(source: Path, encoders_dir: Path) -> StagedEncoder:
    """Copy the data files of ``source``, hidden, into the service's home, and examine the copy, which nobody changes.

    Asks nothing of the database. Whoever calls it registers and publishes, or discards. What a crash leaves is garbage
    that no row names.

    Raises: Problem 422 ``bad_encoder``; ExaminationBusy; OSError.
    """
    try:
        paths = data_files(source)
        detect_encoder(source)
    except UserError as error:
        raise _bad_encoder(str(error)) from error
    except OSError as error:
        raise _bad_encoder(f"{source}: the directory cannot be listed ({error.strerror})") from error
    encoder_id = new_id("enc")
    waiting = encoders_dir / f".import-{encoder_id}"
    waiting.mkdir(parents=True)
    try:
        for path in paths:
            shutil.copyfile(path, waiting / path.name, follow_symlinks=False)
            fsync_path(waiting / path.name)
        fsync_path(waiting)
        files = hash_files(waiting)
        origin, info = inspect_staged(waiting, source, files)
    except BaseException:
        shutil.rmtree(waiting, ignore_errors=True)
        raise
    return StagedEncoder(encoder_id, Staged(waiting, encoders_dir / encoder_id), origin, info, files)


def discard_staged(prepared: StagedEncoder, database: Database) -> None:
    """Remove what was copied, unless a row names it: a commit may have been kept though its answer was lost.

    Where the database cannot be asked, the garbage collector finds it.
    """
    prepared.staged.discard()
    if not prepared.staged.target.exists():
        return
    try:
        with database.reading() as session:
            registered = session.get(EncoderRow, prepared.id) is not None
    except UNREACHABLE:
        return
    if not registered:
        remove_tree(prepared.staged.target)


def inspect_staged(directory: Path, source: Path, hashes: Hashes) -> tuple[EncoderFormat, dict[str, Any]]:
    """Whose encoder it is, and what a process of its own found when it read it.

    Args:
        hashes: of its files.
        source: where the files were copied from, which errors name.

    Raises: Problem 422 ``bad_encoder``; ExaminationBusy.
    """
    try:
        found = inspect_encoder(directory, memory=directory.parent.parent / EXAMINATIONS_FOLDER, hashes=hashes)
    except SandboxBusy:
        raise
    except UserError as error:
        raise _bad_encoder(str(error).replace(str(directory.resolve()), str(source))) from error
    said = {name: found[name] for name in ("kind", "model", "reads", "parameters")}
    origin = EncoderFormat(found["kind"], found["model"], tuple(found["weights"]), tuple(found["reads"]))
    return origin, {**said, "imported_from": str(source)}


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _bad_encoder(message: str) -> Problem:
    return Problem(422, "bad_encoder", message, field="path")


log = structlog.get_logger(__name__)

ExportFormat = Literal["lcl", "huggingface", "openclip", "timm", "onnx"]
AS_STORED: ExportFormat = "lcl"
FORMAT_DESCRIPTION = (
    f"`lcl`: as it lies here; {'; '.join(f'`{name}`: {each.carries}' for name, each in FORMATS.items())}"
)
EXPORT_BASE_BYTES, EXPORT_SIZE_FACTOR = 64 << 20, 4  # of a file of the copy: bf16 becomes fp32
MAX_EXPORTS = 4  # copies on the disk, from the first byte that is made to the last that is sent


class EncoderExporter:
    """Makes copies and takes them away again. Thread-safe."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._places = threading.BoundedSemaphore(MAX_EXPORTS)

    @contextmanager
    def files(self, directory: Path, name: ExportFormat) -> Iterator[list[Path]]:
        """The encoder's files in that format, until the end of the block.

        Raises: Problem 410 (its own are gone), 422 ``not_expressible`` with the reason, 503 (too many at once).
        """
        own = encoder_files(directory)
        if name == AS_STORED or name == detect_encoder(directory).kind:
            yield own
            return
        check_exportable(name, directory)
        size = sum(path.stat().st_size for path in own)
        if size > self._settings.max_export_bytes:
            message = f"its {size} bytes are more than the service rewrites (LCL_MAX_EXPORT_BYTES); take format=lcl"
            raise Problem(422, "too_large", message, field="format")
        with self._copy(directory, name) as copy:
            yield sorted(path for path in copy.iterdir() if path.is_file())

    @contextmanager
    def _copy(self, directory: Path, name: str) -> Iterator[Path]:
        if not self._places.acquire(blocking=False):
            message = "other encoders are being rewritten; try again in a few seconds"
            raise Problem(503, "busy", message, headers={"retry-after": "5"})
        # named so that the garbage collection knows it, should this process die
        target = self._settings.encoders_dir / f".{new_id('enc')}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._convert(name, directory.resolve(), target.resolve())
            yield target
        finally:
            shutil.rmtree(target, ignore_errors=True)
            self._places.release()

    def _convert(self, name: str, directory: Path, target: Path) -> None:
        seconds = self._settings.export_seconds
        size = sum(path.stat().st_size for path in encoder_files(directory))
        limits = SandboxLimits(seconds, written=EXPORT_BASE_BYTES + EXPORT_SIZE_FACTOR * size)
        ended = run_sandboxed("lcl_core.encoders.export", [name, str(directory), str(target)], limits)
        if ended.status is None:
            message = f"rewriting took longer than {seconds:g} s (LCL_EXPORT_SECONDS); take format=lcl"
            raise Problem(503, "export_timeout", message)
        if ended.status == REFUSED:
            facts = json.loads(ended.output)
            raise Problem(422, facts["code"], facts["message"], field=facts.get("field"))
        if ended.status:
            log.error("export failed", status=ended.status, reason=ended.reason, error=ended.error[-2000:])
            raise Problem(503, "export_failed", f"rewriting as {name} failed; the service's log says why")
