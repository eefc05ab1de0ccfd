"""Import of encoder directories, and export as tar in the service's own or another library's format.

Only plain data files are copied, and no code of theirs runs: the format follows from names and small JSON files.
Conversions run in a confined process each, so its memory and its crashes stay there.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.services.encoder_figures import encoder_figures, main_figures
from lcl_core.common.errors import UserError
from lcl_core.common.files import Staged, fsync_path
from lcl_core.common.sandbox import SandboxLimits, run_sandboxed
from lcl_core.db import registry
from lcl_core.db.models import Dataset, EncoderRow, new_id
from lcl_core.encoders.export import EXPORT_REFUSED, FORMATS, check_exportable
from lcl_core.encoders.export.files import CARD, model_card
from lcl_core.encoders.files import combined_weights_hash, data_files, hash_files, read_json_object
from lcl_core.encoders.pooling import files_to_import
from lcl_core.encoders.registry import detect_encoder
from lcl_core.encoders.sandbox import inspect_encoder

log = structlog.get_logger(__name__)
ExportFormat = Literal["lcl", "huggingface", "timm", "onnx"]
AS_STORED: ExportFormat = "lcl"
FORMAT_DESCRIPTION = f"`lcl`: as stored; {'; '.join(f'`{name}`: {each.carries}' for name, each in FORMATS.items())}"
TRAINING = "training.json"  # spec of the training that made an encoder
EXAMINATIONS_FOLDER = "examined"  # in the home: results of examinations
TAR_CHUNK_BYTES = 1 << 20
EXPORT_BASE_BYTES, EXPORT_SIZE_FACTOR = 64 << 20, 4  # largest converted file: bf16 becomes fp32
EXPORT_SECONDS = 300.0  # after which a conversion is ended


def encoder_files(directory: Path) -> list[Path]:
    """Regular data files of an encoder, sorted. Raises: Problem 410 when they are gone."""
    files = data_files(directory)
    if not any(path.suffix == ".safetensors" for path in files):
        raise Problem(410, "file_missing", "the encoder's files are gone from the disk; import or train it again")
    return files


def stage_import(source: Path, encoders_dir: Path) -> tuple[Staged, EncoderRow]:
    """Copy the data files of ``source`` into a hidden folder of the home, and examine the copy in a sandboxed process.

    Returns: the copy, which the caller publishes or discards, and its row, without name and owner. After a crash the
    garbage collector removes the copy.

    Raises: Problem 422 ``encoder_unreadable``, also for what cannot be read; OSError of the home's disk.
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
        report = _inspect(hidden, source, files)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    info = {name: report[name] for name in ("kind", "model", "reads", "parameters")}
    row = EncoderRow(
        id=encoder_id,
        path=f"{encoders_dir.name}/{encoder_id}",
        hash=combined_weights_hash(files, tuple(report["weights"])),
        info={**info, "imported_from": str(source)},
        created_at=datetime.now(UTC),
    )
    registry.set_encoder_files(row, files)
    return Staged(hidden, encoders_dir / encoder_id), row


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Around code that only reads ``source``. Raises: Problem 422 ``encoder_unreadable``, naming the file at fault."""
    try:
        yield
    except UserError as error:
        raise _bad_encoder(str(error)) from error
    except OSError as error:
        raise _bad_encoder(f"{error.filename or source}: it cannot be read ({error.strerror})") from error


def _inspect(directory: Path, source: Path, hashes: dict[str, str]) -> dict[str, Any]:
    """What the sandboxed process reports of the copy. An error names the original directory."""
    try:
        return dict(inspect_encoder(directory, memory=directory.parent.parent / EXAMINATIONS_FOLDER, hashes=hashes))
    except UserError as error:
        raise _bad_encoder(str(error).replace(str(directory.resolve()), str(source))) from error


def _bad_encoder(message: str) -> Problem:
    return Problem(422, "encoder_unreadable", message, field="path")


def read_card(session: Session, row: EncoderRow, directory: Path, use: str = "") -> tuple[str, dict[str, Any]]:
    """(README, spec of its training or {}) of an encoder. ``use``: how to load it in another format."""
    own, training = directory / CARD, directory / TRAINING
    spec = read_json_object(training) if training.is_file() else {}
    sources = spec["data"].get("sources") or [] if isinstance(spec.get("data"), dict) else []
    names = dict.fromkeys(str(each["dataset"]) for each in sources if isinstance(each, dict) and "dataset" in each)
    known = {
        each.name: each.statistics or {} for each in session.scalars(select(Dataset).where(Dataset.name.in_(names)))
    }
    data = [{"dataset": name, **known.get(name, {})} for name in names]
    words = own.read_text("utf-8", errors="replace") if own.is_file() and not own.is_symlink() else ""
    figures = main_figures(encoder_figures(session, row))
    return model_card(row.name, words, spec, data, figures, use), spec


def exported_files(directory: Path, name: ExportFormat, target: Path) -> list[Path]:
    """The encoder's files in a format: its own, or those of the new folder ``target``; without its README.

    Raises: Problem 410 (files are gone), 422 ``unsupported`` with the reason, 503.
    """
    files = encoder_files(directory)
    if name not in (AS_STORED, detect_encoder(directory).kind):
        check_exportable(name, directory)
        size = sum(path.stat().st_size for path in files)
        limits = SandboxLimits(EXPORT_SECONDS, written=EXPORT_BASE_BYTES + EXPORT_SIZE_FACTOR * size)
        command = ["export", name, str(directory.resolve()), str(target.resolve()), "--json"]
        result = run_sandboxed("lcl_core.encoders", command, limits)
        if result.status == EXPORT_REFUSED:
            refusal = json.loads(result.output)
            raise Problem(422, refusal["code"], refusal["message"], field=refusal.get("field"))
        if result.status != 0:
            log.error("export failed", status=result.status, reason=result.reason, error=result.error[-2000:])
            raise Problem(503, "export_failed", f"rewriting as {name} failed; the service's log says why")
        files = sorted(path for path in target.iterdir() if path.is_file())
    return [path for path in files if path.name != CARD]


def stream_tar(files: list[BinaryIO], folder: str) -> Iterator[bytes]:
    """The files, which may have been removed since they were opened, as a tar; a chunk is in memory at a time."""
    for file in files:
        with file:
            yield _tar_header(file, folder)
            while chunk := file.read(TAR_CHUNK_BYTES):
                yield chunk
            yield bytes(-file.tell() % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def tar_size(files: list[BinaryIO], folder: str) -> int:
    """Bytes of ``stream_tar``."""
    sizes = [len(_tar_header(file, folder)) + os.fstat(file.fileno()).st_size for file in files]
    return sum(size + -size % tarfile.BLOCKSIZE for size in sizes) + 2 * tarfile.BLOCKSIZE


def _tar_header(file: BinaryIO, folder: str) -> bytes:
    info = tarfile.TarInfo(f"{folder}/{Path(file.name).name}")
    info.size = os.fstat(file.fileno()).st_size
    return info.tobuf(tarfile.GNU_FORMAT)
