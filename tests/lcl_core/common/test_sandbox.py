"""A process that reads what anonymous users wrote: what it may take, and what it cannot reach."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from lcl_core.common.processes import allowed_environment
from lcl_core.common.sandbox import KILLED_FOR_MEMORY, SandboxLimits, run_sandboxed


def run(tmp_path, monkeypatch, code, *arguments, **limits):
    (tmp_path / "stranger.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return run_sandboxed("stranger", arguments, SandboxLimits(**{"seconds": 60, **limits}))  # type: ignore[arg-type]


def test_secrets_stay_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATABASE_URL", "postgresql://hush-hush/z")
    monkeypatch.setenv("LCL_ADMIN_KEY", "hush-hush")
    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    ended = run(tmp_path, monkeypatch, "import os; print(dict(os.environ))")
    assert b"hush-hush" not in ended.output
    assert b"'HF_HUB_OFFLINE': '1'" in ended.output
    assert allowed_environment({"HF_HUB_OFFLINE": "0", "A": "b"})["HF_HUB_OFFLINE"] == "1"


def test_it_reaches_nobody(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        host, port = listening.getsockname()
        code = f"""
import socket
for ask in (lambda: socket.create_connection(({host!r}, {port}), 5), lambda: socket.getaddrinfo("example.invalid", 80),
            lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ({host!r}, {port}))):
    try:
        ask()
    except PermissionError as error:
        print("refused")
"""
        assert run(tmp_path, monkeypatch, code).output == b"refused\n" * 3
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_memory_ends(tmp_path, monkeypatch):
    code = "from lcl_core.common.sandbox import limit_memory\nlimit_memory(64 << 20)\n"
    code += "x = bytearray(32 << 20); y = bytearray(1 << 30)"
    ended = run(tmp_path, monkeypatch, code)
    assert ended.status == 1
    assert "MemoryError" in ended.error
    assert ended.reason == KILLED_FOR_MEMORY


def test_time_ends_for_it_and_its_children(tmp_path, monkeypatch):
    code = f"""
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
while True:
    time.sleep(1)
"""
    ended = run(tmp_path, monkeypatch, code, seconds=5)
    assert ended.status is None
    assert "too long" in ended.reason
    if (tmp_path / "child").exists():  # a slow machine may not have come so far
        pid = int((tmp_path / "child").read_text())
        deadline = time.monotonic() + 60
        while is_alive(pid):  # the signal is sent; the kernel takes its time
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_no_descriptor_of_ours_goes_along(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("x")
    with (tmp_path / "secret").open() as held:
        code = "import os, glob; print([os.path.realpath(each) for each in glob.glob('/proc/self/fd/*')])"
        assert str(tmp_path / "secret").encode() not in run(tmp_path, monkeypatch, code).output
        assert not held.closed
