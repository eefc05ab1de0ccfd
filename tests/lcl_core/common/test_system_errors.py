"""What the machine had too little of is told from what is wrong with the input."""

import errno
import os
from pathlib import Path

import pytest

from lcl_core.common.errors import FailureCode, failure_code

HERE = Path("/home/lcl/runs/run_1")


def system(number, path=None):
    return OSError(number, os.strerror(number), None if path is None else str(path))


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (system(errno.ENOSPC), FailureCode.DISK_FULL),
        (system(errno.EDQUOT), FailureCode.DISK_FULL),
        (system(errno.EROFS), FailureCode.READ_ONLY),
        (system(errno.EACCES, HERE / "metrics.jsonl"), FailureCode.READ_ONLY),
        (system(errno.EACCES, Path("/data/corpus.jsonl")), None),
        (system(errno.ENOENT, HERE / "x"), None),
        (system(errno.ENOMEM), FailureCode.OUT_OF_MEMORY),
        (MemoryError(), FailureCode.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), FailureCode.OUT_OF_MEMORY),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            FailureCode.DISK_FULL,
        ),
        (ValueError("no"), None),
    ],
)
def test_by_number_or_words(error, fault):
    assert failure_code(error, HERE) is fault


def test_a_cause_is_found_behind_other_errors_and_circles_end():
    error = RuntimeError("rank 1 failed")
    error.__cause__ = system(errno.ENOSPC)
    assert failure_code(error, HERE) is FailureCode.DISK_FULL
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert failure_code(first, HERE) is None
