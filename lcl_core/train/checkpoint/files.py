"""Files that are on the disk when the call returns, and their checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lcl_core.errors import UserError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write CPU tensors in the safetensors format. Returns: the sha256 of the file.

    Not the library's ``save_file``: here the checksum is taken while the bytes pass, the file is flushed to the disk,
    a full disk is an OSError with its number, and other threads run meanwhile.
    Raises: OSError.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return _write(path, [len(text).to_bytes(8, "little"), text, *map(_bytes, tensors.values())])


def write_text(path: Path, text: str) -> str:
    """Write and flush. Returns: the sha256 of the file. Raises: OSError."""
    return _write(path, [text.encode()])


@contextmanager
def disk_full_told(folder: Path) -> Iterator[None]:
    """Raises: UserError in place of the OSError of a full disk; any other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(
            "no space left to write a checkpoint; the earlier ones are whole. "
            "Free some space or lower keep_checkpoints, then resume the run",
            code="disk_full",
            file=folder,
        ) from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(path: Path, parts: list[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
