"""Import of encoder directories, and export as tar in the service's own or another library's format.

Only plain data files are copied, and no code of theirs runs: the format follows from names and small JSON files.
Conversions run in a confined process each, so its memory and its crashes stay there.
"""

from __future__ import annotations

import json
import shutil
import tarfile
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
from lcl_core.common.errors import UserError
from lcl_core.common.files import Staged, fsync_path, remove_tree
from lcl_core.common.sandbox import SandboxLimits, run_sandboxed
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow, new_id
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.encoders.export import FORMATS, check_exportable
from lcl_core.encoders.export.__main__ import REFUSED
from lcl_core.encoders.files import Hashes, combined_weights_hash, data_files, hash_files
from lcl_core.encoders.pooling import files_to_import
from lcl_core.encoders.registry import EncoderFormat, detect_encoder
from lcl_core.encoders.sandbox import inspect_encoder

log = structlog.get_logger(__name__)
ExportFormat = Literal["lcl", "huggingface", "openclip", "timm", "onnx"]
AS_STORED: ExportFormat = "lcl"
FORMAT_DESCRIPTION = f"`lcl`: as stored; {'; '.join(f'`{name}`: {each.carries}' for name, each in FORMATS.items())}"
EXAMINATIONS_FOLDER = "examined"  # in the home: results of examinations
TAR_CHUNK_BYTES = 1 << 20
EXPORT_BASE_BYTES, EXPORT_SIZE_FACTOR = 64 << 20, 4  # largest converted file: bf16 becomes fp32
EXPORT_SECONDS = 300.0  # after which a conversion is ended
SEND_BASE_SECONDS, SEND_BYTES_PER_SECOND = 60.0, 128 << 10  # for which an archive may be sent: a slow line's megabit


def encoder_files(directory: Path) -> list[Path]:
    """Regular data files of an encoder, sorted. Raises: Problem 410 when they are gone."""
    files = data_files(directory)
    if not any(path.suffix == ".safetensors" for path in files):
        raise Problem(410, "missing_files", "the encoder's files are gone from the disk; import or train it again")
    return files


def tar_size(files: list[Path], folder: str) -> int:
    """Bytes of ``stream_tar``: header and padded content of each file, then padding to whole records."""
    blocks = sum(len(_tar_header(path, folder)) + _padded(path.stat().st_size) for path in files)
    return -(-(blocks + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def sending_seconds(size: int) -> float:
    """Time in which a client has to read an archive of so many bytes: until then its copy stays on the disk."""
    return SEND_BASE_SECONDS + size / SEND_BYTES_PER_SECOND


def stream_tar(files: list[Path], folder: str) -> Iterator[bytes]:
    """The files as a tar: no copy on disk, one chunk in memory."""
    sent = 0
    for path in files:
        header, size = _tar_header(path, folder), path.stat().st_size
        yield header
        with path.open("rb") as file:
            while chunk := file.read(TAR_CHUNK_BYTES):
                yield chunk
        yield b"\0" * (_padded(size) - size)
        sent += len(header) + _padded(size)
    yield b"\0" * (tar_size(files, folder) - sent)


def _tar_header(path: Path, folder: str) -> bytes:
    """Of a file in ``folder``; three blocks where both names are long."""
    info = tarfile.TarInfo(f"{folder}/{path.name}")
    info.size = path.stat().st_size
    return info.tobuf(tarfile.GNU_FORMAT)


@dataclass(frozen=True)
class StagedEncoder:
    """An examined copy of an encoder, hidden beside its final directory until it is registered."""

    id: str
    staged: Staged
    format: EncoderFormat
    info: dict[str, Any]
    files: dict[str, str]  # sha256 by name, of the copies

    @property
    def hash(self) -> str:
        """sha256 of the weights."""
        return combined_weights_hash(self.files, self.format.weights)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.staged.hidden.iterdir())

    @property
    def path(self) -> str:
        """Relative to the home, as in the row."""
        return f"{self.staged.target.parent.name}/{self.id}"

    def register(self, session: Session, name: str, principal: Principal) -> EncoderRow:
        """Add the row. Call ``publish`` last before the commit, when nothing else can fail.

        Raises: UserError ``invalid_value``, ``conflict``.
        """
        admin = principal.visible_owner is None
        registry.check_name(session, "encoder", name, principal.owner, admin=admin)
        row = EncoderRow(
            id=self.id,
            name=name,
            path=self.path,
            hash=self.hash,
            owner=principal.owner,
            info=self.info,
            created_at=datetime.now(UTC),
        )
        registry.set_encoder_files(row, self.files)
        session.add(row)
        session.flush()
        return row

    def publish(self) -> None:
        self.staged.publish()


def stage_import(source: Path, encoders_dir: Path) -> StagedEncoder:
    """Copy the data files of ``source`` into a hidden folder of the home, and examine the copy.

    Needs no database. The caller registers and publishes the copy, or discards it. After a crash the garbage collector
    removes it.

    Raises: Problem 422 ``bad_encoder``, also for what cannot be read; OSError of the home's disk.
    """
    with _reading(source):
        paths = files_to_import(source)
        detect_encoder(source)
    encoder_id = new_id("enc")
    hidden = encoders_dir / f".import-{encoder_id}"
    hidden.mkdir(parents=True)
    try:
        for name, path in sorted(paths.items()):
            with _reading(path):
                shutil.copyfile(path, hidden / name)
            fsync_path(hidden / name)
        fsync_path(hidden)
        files = hash_files(hidden)
        encoder_format, info = inspect_staged(hidden, source, files)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return StagedEncoder(encoder_id, Staged(hidden, encoders_dir / encoder_id), encoder_format, info, files)


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Around code that only reads ``source``. Raises: Problem 422 ``bad_encoder``, naming the file at fault."""
    try:
        yield
    except UserError as error:
        raise _bad_encoder(str(error)) from error
    except OSError as error:
        raise _bad_encoder(f"{error.filename or source}: it cannot be read ({error.strerror})") from error


def discard_staged(encoder: StagedEncoder, database: Database) -> None:
    """Remove the copy, unless a row names it: the commit may have succeeded although its reply was lost.

    Where the database does not answer, the garbage collector decides.
    """
    encoder.staged.discard()
    if not encoder.staged.target.exists():
        return
    try:
        with database.reading() as session:
            registered = session.get(EncoderRow, encoder.id) is not None
    except UNREACHABLE:
        return
    if not registered:
        remove_tree(encoder.staged.target)


def inspect_staged(directory: Path, source: Path, hashes: Hashes) -> tuple[EncoderFormat, dict[str, Any]]:
    """Format and metadata of an encoder, read by a sandboxed process.

    Args:
        source: original directory, which errors name.
        hashes: sha256 of the files.

    Raises: Problem 422 ``bad_encoder``.
    """
    try:
        memory = directory.parent.parent / EXAMINATIONS_FOLDER
        report = inspect_encoder(directory, memory=memory, hashes=hashes)
    except UserError as error:
        raise _bad_encoder(str(error).replace(str(directory.resolve()), str(source))) from error
    info = {name: report[name] for name in ("kind", "model", "reads", "parameters")}
    encoder_format = EncoderFormat(report["kind"], report["model"], tuple(report["weights"]), tuple(report["reads"]))
    return encoder_format, {**info, "imported_from": str(source)}


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _bad_encoder(message: str) -> Problem:
    return Problem(422, "bad_encoder", message, field="path")


@contextmanager
def exported_files(directory: Path, name: ExportFormat, encoders_dir: Path) -> Iterator[list[Path]]:
    """The encoder's files in a format, converted into a temporary copy unless it is stored so, for the block.

    Raises: Problem 410 (files are gone), 422 ``not_expressible`` with the reason, 503.
    """
    stored = encoder_files(directory)
    if name == AS_STORED or name == detect_encoder(directory).kind:
        yield stored
        return
    check_exportable(name, directory)
    # a name that the garbage collector removes if this process dies
    target = encoders_dir / f".{new_id('enc')}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        size = sum(path.stat().st_size for path in stored)
        limits = SandboxLimits(EXPORT_SECONDS, written=EXPORT_BASE_BYTES + EXPORT_SIZE_FACTOR * size)
        command = [name, str(directory.resolve()), str(target.resolve())]
        result = run_sandboxed("lcl_core.encoders.export", command, limits)
        if result.status == REFUSED:
            refusal = json.loads(result.output)
            raise Problem(422, refusal["code"], refusal["message"], field=refusal.get("field"))
        if result.status != 0:
            log.error("export failed", status=result.status, reason=result.reason, error=result.error[-2000:])
            raise Problem(503, "export_failed", f"rewriting as {name} failed; the service's log says why")
        yield sorted(path for path in target.iterdir() if path.is_file())
    finally:
        shutil.rmtree(target, ignore_errors=True)
