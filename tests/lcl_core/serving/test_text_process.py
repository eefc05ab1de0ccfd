"""Texts in a second process: when it comes, what it answers, and that no request notices when it goes."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lcl_core.encoders.engine import EncoderEngine
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.text_process import MAX_FAILURES, START_PAUSE_SECONDS, TextEncoderProcess

WORDS = ["ant", "a bus in the rain", "seven moons"]


@pytest.fixture(scope="module")
def alone(encoder: Path) -> EncoderEngine:
    return EncoderEngine(encoder, device="cpu")


@pytest.fixture(scope="module")
def apart(alone: EncoderEngine) -> TextEncoderProcess:
    """With its process, ready."""
    reader = TextEncoderProcess(alone, busy=1)
    reader.embed_texts(["begin"])
    until(lambda: reader.embed_texts(["ready"]) is not None and reader.pid is not None)
    return reader


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_vectors_are_the_sessions(apart: TextEncoderProcess, alone: EncoderEngine) -> None:
    assert apart.pid is not None
    assert apart.embed_texts(WORDS) == pytest.approx(alone.embed_texts(WORDS), abs=1e-5)
    assert apart.embed_texts(["\ud800 ' \" \n é 象"]).shape == (1, alone.dim)


def test_what_it_cannot_read_is_read_here(apart: TextEncoderProcess, alone: EncoderEngine) -> None:
    """So that the session's own error comes, and the process stays."""
    before = apart.pid
    with pytest.raises(TypeError):
        apart.embed_texts([7])  # type: ignore[list-item]
    assert apart.pid == before
    assert apart.embed_texts(WORDS) == pytest.approx(alone.embed_texts(WORDS), abs=1e-5)


def test_it_gets_no_secrets(apart: TextEncoderProcess) -> None:
    environment = Path(f"/proc/{apart.pid}/environ").read_bytes().split(b"\0")
    assert any(each.startswith(b"OMP_NUM_THREADS=") for each in environment)
    assert not any(each.startswith(b"LCL_") for each in environment)


def test_a_killed_one_is_not_missed_and_another_comes(apart: TextEncoderProcess, alone: EncoderEngine) -> None:
    first = apart.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: not is_there(first))
    assert apart.embed_texts(WORDS) == pytest.approx(alone.embed_texts(WORDS), abs=1e-5)
    assert apart.pid is None
    apart.embed_texts(WORDS)
    assert apart._process is not None
    second = apart._process.pid
    assert second != first
    os.kill(second, signal.SIGKILL)  # before it was ready
    until(lambda: apart.embed_texts(WORDS) is not None and not is_there(second))


def test_few_texts_start_nothing(alone: EncoderEngine) -> None:
    seconds = [0.0]
    reader = TextEncoderProcess(alone, busy=4, clock=lambda: seconds[0])
    for _ in range(10):
        reader.embed_texts(WORDS)
        seconds[0] += 1.5
    assert reader._process is None


def test_one_that_cannot_start_is_given_up(alone: EncoderEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    reader = TextEncoderProcess(alone, busy=1)
    until(lambda: reader.embed_texts(WORDS) is not None and reader._failures == MAX_FAILURES)
    reader.embed_texts(WORDS)
    assert reader._process is None


def test_texts_are_read_here_while_the_system_starts_no_process(
    alone: EncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, started = [0.0], [0]

    def refuse(*_: object, **__: object) -> None:
        started[0] += 1
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("lcl_core.serving.text_process.subprocess.Popen", refuse)
    reader = TextEncoderProcess(alone, busy=1, clock=lambda: seconds[0])
    expected = alone.embed_texts(WORDS)
    for attempt in range(MAX_FAILURES + 2):
        for _ in range(3):
            assert reader.embed_texts(WORDS) == pytest.approx(expected, abs=1e-5)
        assert started[0] == min(attempt + 1, MAX_FAILURES), "once in a while, and then no more"
        seconds[0] += START_PAUSE_SECONDS


def test_it_goes_with_the_session(alone: EncoderEngine) -> None:
    before = children()
    shared = BatchedEngine(alone, texts_apart=True)
    shared.embed_texts(["many"] * 40)
    (child,) = children() - before
    shared.close()
    del shared
    gc.collect()
    until(lambda: not is_there(child))


def children() -> set[int]:
    """Processes of ours that read texts."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"lcl_core.serving.text_process" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found
