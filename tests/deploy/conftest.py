"""What the launcher's tests share."""

import time
from pathlib import Path

import pytest


@pytest.fixture
def until():
    """Polls until a condition holds; fails with the given words after 60 s."""

    def wait(condition, what):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"not within 60 s: {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def is_running():
    """Whether a process exists and is no zombie."""

    def running(pid):
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return status.rpartition(")")[2].split()[0] not in "ZX"

    return running
