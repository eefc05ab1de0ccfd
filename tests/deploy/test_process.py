"""Children of the launcher end when they are told to, and never outlive it."""

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from deploy.process import PROJECT, ChildDied, ChildProcess, Service

Until = Callable[[Callable[[], object], str], None]
IsRunning = Callable[[int], bool]

OBEDIENT = """
import pathlib, signal, sys
def leave(*_):
    pathlib.Path(sys.argv[1]).write_text("told")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
signal.pause()
"""
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(code, *arguments, grace=10.0):
        child = ChildProcess(Service("part", ("python", "-c", code, *arguments), grace=grace), tmp_path / "logs")
        started.append(child)
        return child

    yield begin
    for child in started:
        child.process.kill()
        child.process.wait()


def test_a_child_is_reported_before_it_is_ended(start, tmp_path, until):
    child = start(OBEDIENT, str(tmp_path / "told"))
    until(lambda: "ready" in child.log_tail(), "the child's first line")
    child.check()
    child.stop()
    assert child.process.returncode == 0
    assert (tmp_path / "told").read_text(encoding="utf-8") == "told"


def test_a_stubborn_child_goes_with_its_family(start, until, is_running):
    child = start(STUBBORN, grace=0.2)
    until(child.log_tail, "the grandchild's number")
    grandchild = int(child.log_tail())
    assert is_running(grandchild)
    child.stop()
    assert child.process.returncode == -signal.SIGKILL
    until(lambda: not is_running(grandchild), "the grandchild's end")


def test_hurry_skips_the_grace(start, until):
    child = start(STUBBORN, grace=3600)
    until(child.log_tail, "the child's first line")
    child.stop(hurry=lambda: True)
    assert child.process.returncode == -signal.SIGKILL


def test_a_dead_child_is_reported_with_its_last_words(start):
    child = start("import sys; sys.exit('port 1 is taken')")
    child.process.wait()
    with pytest.raises(ChildDied, match=r"part ended with status 1; its log is .*part\.log and ends:\n.*port 1 is"):
        child.check()


def test_a_killed_child_is_reported_with_the_signal(start, until):
    child = start(STUBBORN)
    until(child.log_tail, "the child's first line")
    child.process.kill()
    child.process.wait()
    with pytest.raises(ChildDied, match="was killed by SIGKILL"):
        child.check()
    child.stop()  # and the grandchild goes too


def test_the_last_log_is_kept(start):
    for word in ("first", "second"):
        child = start(f"print({word!r})")
        child.process.wait()
    assert child.log.read_text(encoding="utf-8") == "second\n"
    assert child.log.with_suffix(".log.old").read_text(encoding="utf-8") == "first\n"


def test_a_child_dies_with_a_killed_launcher(tmp_path, until, is_running):
    code = (
        "import pathlib, signal, sys\n"
        "from deploy.process import ChildProcess, Service\n"
        "part = Service('part', ('python', '-c', 'import time; time.sleep(600)'))\n"
        "child = ChildProcess(part, pathlib.Path(sys.argv[1]))\n"
        "print(child.process.pid, flush=True)\n"
        "signal.pause()\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    with launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        assert is_running(pid)
        launcher.kill()
    until(lambda: not is_running(pid), "the child's end after its parent's")


def test_a_tether_to_a_dead_parent_starts_nothing(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    made = tmp_path / "made"
    command = [sys.executable, "-m", "deploy.pdeathsig", str(gone.pid), "touch", str(made)]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 1
    assert not made.exists()
