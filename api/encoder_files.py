"""An encoder's directory, ours or another library's, out of the service as a tar and into it by copying.

Only plain data files travel, and nothing of theirs is run: whose encoder it is follows from names and small JSON.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.interop.origins import Origin, hash_of_weights, recognise
from lcl_core.interop.small_files import SUFFIXES, data_files
from lcl_core.runs.artifacts import sha256_of, stage
from lcl_core.runs.ids import new_id
from lcl_core.runs.tables import Encoder
from lcl_core.serving.examination import ExaminationBusy, examine

EXAMINED = "examined"  # in the home: what examinations found
CHUNK = 1 << 20


def files_of(directory: Path) -> list[Path]:
    """The regular data files of an encoder, sorted. Raises: Problem 410 when they are gone."""
    found = [path for path in directory.glob("*") if path.suffix in SUFFIXES and path.is_file()]
    own = sorted(path for path in found if not path.is_symlink())
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


def import_encoder(source: Path, encoders_dir: Path, name: str, owner: str) -> Encoder:
    """Copy the data files of ``source`` whole into the service's home, examine the copy, and give the row to add.

    Raises: Problem 422 ``bad_encoder``; ExaminationBusy.
    """
    try:
        files = data_files(source)
        recognise(source)
    except UserError as error:
        raise _bad(str(error)) from error
    except OSError as error:
        raise _bad(f"{source}: the directory cannot be listed ({error.strerror})") from error
    encoder_id = new_id("enc")
    waiting = encoders_dir / f".import-{encoder_id}"
    waiting.mkdir(parents=True)
    try:
        for path in files:
            shutil.copyfile(path, waiting / path.name, follow_symlinks=False)
        # the copy, which nobody changes any more
        origin, info = check(waiting, source)
        staged = stage(waiting, encoders_dir / encoder_id)
        staged.publish()
    finally:
        shutil.rmtree(waiting, ignore_errors=True)
    target = encoders_dir / encoder_id
    hashes = {path.name: sha256_of(path) for path in files_of(target)}
    return Encoder(
        id=encoder_id,
        name=name,
        path=f"{encoders_dir.name}/{encoder_id}",
        hash=hash_of_weights(target, origin.weights),
        owner=owner,
        info={**info, "files": hashes},
        created_at=datetime.now(UTC),
    )


def check(directory: Path, source: Path) -> tuple[Origin, dict[str, Any]]:
    """Whose encoder it is, and what a process of its own found when it read it.

    Args:
        source: where the files were copied from, which errors name.

    Raises: Problem 422 ``bad_encoder``; ExaminationBusy.
    """
    try:
        found = examine(directory, memory=directory.parent.parent / EXAMINED)
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
