"""A forked job is, seen from outside and from inside, the process that ``python -m MODULE`` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lcl_core.common.fork_server import ForkedProcess, ForkServer, start_module
from lcl_core.common.processes import allowed_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")


def environment():
    return {name: value for name, value in allowed_environment(os.environ).items() if not name.startswith("PYTEST_")}


@pytest.fixture(scope="module")
def server():
    server = ForkServer(["numpy.random", "torch"], environment())
    yield server
    server.close()


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Starts a module that the working directory has, with its output in files."""
    monkeypatch.chdir(tmp_path)
    started = []

    def start(code, server=None, *arguments, **more):
        module = tmp_path / "job.py"
        if not module.exists() or module.read_text() != code:  # which an earlier job may be reading
            module.write_text(code)
        with (tmp_path / "out").open("wb") as output, (tmp_path / "err").open("wb") as errors:
            process = start_module(["job", *arguments], environment() | more, output, errors, server=server)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()


@pytest.fixture
def both(server, job, tmp_path):
    """Status, output and errors of a module as a new process and as a forked one."""

    def run(code, **more):
        ends = []
        for chosen in (None, server):
            process = job(code, chosen, "a", "b c", **more)
            assert isinstance(process, ForkedProcess) is (chosen is server)
            ends.append((process.wait(180), (tmp_path / "out").read_text(), (tmp_path / "err").read_text()))
        return ends

    return run


@pytest.mark.parametrize(
    ("code", "status", "output", "error"),
    [
        ("print('done')", 0, "done\n", ""),
        ("import sys; sys.exit('in words')", 1, "", "in words"),
        ("raise RuntimeError('broken')", 1, "", "RuntimeError: broken"),
        ("import nothing_of_that_name", 1, "", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("import os; print('x', flush=True); os._exit(7)", 7, "x\n", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
        ("import os; os.kill(os.getpid(), 15)", -15, "", ""),
        ("import atexit; atexit.register(print, 'bye'); print('work')", 0, "work\nbye\n", ""),
        ("import threading, time\nthreading.Timer(.1, print, ['late']).start()", 0, "late\n", ""),
    ],
)
def test_it_ends_as_a_new_process_does(both, code, status, output, error):
    for found in both(code):
        assert found[:2] == (status, output), found
        assert found[2].strip().rpartition("\n")[2] == error


INSIDE = """
import json, os, signal, sys, threading, torch
handlers = {number.name: repr(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals() - {0}
            if isinstance(number, signal.Signals)}
environment = {name: value for name, value in os.environ.items() if not name.startswith(("_", "LC_CTYPE", "TORCHIND"))}
print(json.dumps({
    "arguments": sys.argv[1:], "file": __file__, "name": __name__,
    "main": sys.modules["__main__"].__spec__.name,
    "first of the path": sys.path[0], "directory": os.getcwd(), "environment": environment, "handlers": handlers,
    "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "leads": [os.getpgrp() == os.getpid(),
    os.getsid(0) == os.getpid()], "open": sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
    "threads": threading.active_count(), "command": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0"),
    "torch": [torch.get_num_threads(), torch.cuda.is_initialized()],
    "buffered": sys.stdout.write_through, "encoding": sys.stdout.encoding,
}))
"""


def test_it_is_inside_what_a_new_process_is(both):
    new, fork = (json.loads(output) for _, output, _ in both(INSIDE, LCL_HOME="/its own", CUDA_VISIBLE_DEVICES=""))
    assert fork == new
    assert fork["environment"]["LCL_HOME"] == "/its own"
    assert fork["command"][1:] == ["-m", "job", "a", "b c"]


def test_no_two_draw_the_same_numbers(server, job, tmp_path):
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item())"
    lines = []
    for _ in range(2):
        assert job(code, server).wait(60) == 0
        lines.append((tmp_path / "out").read_text().split())
    assert all(len(numbers) == 2 for numbers in map(set, zip(*lines, strict=True)))


def test_signals_reach_it_and_its_group(server, job, tmp_path, eventually):
    code = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'])\n"
    process = job(code + "print(child.pid, flush=True); child.wait()", server)
    eventually(lambda: (tmp_path / "out").read_text().endswith("\n"), "its child")
    assert os.getpgid(int((tmp_path / "out").read_text())) == process.pid
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # without effect


def test_a_dead_server_takes_its_jobs_along_and_later_ones_are_new_processes(job):
    server = ForkServer([], environment())
    process = job("import time; time.sleep(600)", server)
    assert isinstance(process, ForkedProcess)
    server.close()
    assert process.wait(60) == -signal.SIGKILL
    assert isinstance(job("", server), subprocess.Popen)


def test_the_server_ends_with_its_owner(eventually):
    code = "import os; from lcl_core.common.fork_server import ForkServer; s = ForkServer([], dict(os.environ))\n"
    code += "s.start(); print(s.process.pid, flush=True); os.read(0, 1)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as owner:
        pid = owner.stdout.readline().strip()
        owner.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the server")
