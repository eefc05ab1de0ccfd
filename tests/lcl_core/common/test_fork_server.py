"""A forked job is, seen from outside and from inside, the process that ``python -m MODULE`` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lcl_core.common.fork_server import AVAILABLE, ForkedProcess, ForkServer, start_module
from lcl_core.common.processes import without_secrets

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="jobs are forked on Linux alone")


def environment():
    return {name: value for name, value in without_secrets(os.environ).items() if not name.startswith("PYTEST_")}


@pytest.fixture(scope="module")
def server():
    server = ForkServer(["numpy.random", "torch"], environment(), shared=True)
    yield server
    server.close()


@pytest.fixture
def own_server():
    """Of the test alone."""
    servers = []

    def start(*modules):
        servers.append(ForkServer(modules, environment()))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Writes a module that the working directory has."""
    monkeypatch.chdir(tmp_path)

    def write(code):
        (tmp_path / "job.py").write_text(code)
        return "job"

    return write


def forked(server, module, *arguments, **options):
    """Start it as soon as the server has imported its modules."""
    deadline = time.monotonic() + 180
    while True:
        process = start_module(module, arguments, **{"server": server.address, "env": environment(), **options})
        if isinstance(process, ForkedProcess):
            return process
        end(process)
        assert time.monotonic() < deadline, "the server does not come up"
        time.sleep(0.05)


def group(leader):
    """The living processes of a process group."""
    states = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            states.append(status.read_text().rpartition(")")[2].split()[:3])
    return [number for state, _, number in states if int(number) == leader and state not in "ZX"]


def end(process):
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def outcome(process, out, err):
    status = process.wait(180)
    end(process)
    return status, out.read_text(), err.read_text()


@pytest.fixture
def both(server, job, tmp_path):
    """Status, output and errors of a module as a new process and as a forked one."""

    def run(code, **more):
        module, ends = job(code), []
        env = environment() | more
        for forks in (False, True):
            out, err = tmp_path / f"out-{forks}", tmp_path / f"err-{forks}"
            with out.open("wb") as output, err.open("wb") as errors:
                options = {"env": env, "output": output, "errors": errors}
                if forks:
                    process = forked(server, module, "a", "b c", **options)
                else:
                    process = start_module(module, ["a", "b c"], server="off", **options)
            ends.append(outcome(process, out, err))
        return ends

    return run


# a shell may have had SIGINT ignored by the process that runs the tests
INTERRUPTED = (
    "import signal, time; signal.signal(2, signal.default_int_handler); signal.raise_signal(2); time.sleep(60)"
)


@pytest.mark.parametrize(
    ("code", "status", "output", "error"),
    [
        ("print('done')", 0, "done\n", ""),
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit()", 0, "", ""),
        ("import sys; sys.exit('in words')", 1, "", "in words"),
        ("raise RuntimeError('broken')", 1, "", "RuntimeError: broken"),
        ("import nothing_of_that_name", 1, "", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("import os; print('x', flush=True); os._exit(7)", 7, "x\n", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
        ("import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()", -6, "", None),
        ("import os; os.kill(os.getpid(), 15)", -15, "", ""),
        (INTERRUPTED, -2, "", "KeyboardInterrupt"),
        ("import atexit; atexit.register(print, 'bye'); print('work')", 0, "work\nbye\n", ""),
        ("import threading, time\nthreading.Timer(.1, print, ['late']).start()", 0, "late\n", ""),
    ],
)
def test_it_ends_as_a_new_process_does(both, code, status, output, error):
    new, fork = both(code)
    for found in (new, fork):
        assert found[:2] == (status, output), found
        last = found[2].strip().rpartition("\n")[2]
        assert error is None or last == error


INSIDE = """
import json, multiprocessing, os, signal, sys, threading, torch
handlers = {number.name: repr(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals() - {0}
            if isinstance(number, signal.Signals)}
environment = {name: value for name, value in os.environ.items() if not name.startswith(("_FS", "LC_CTYPE"))}
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
    for found in (new, fork):
        found["environment"].pop("TORCHINDUCTOR_CACHE_DIR", None)
    assert fork == new
    assert fork["environment"]["LCL_HOME"] == "/its own"
    assert fork["command"][1:] == ["-m", "job", "a", "b c"]


def test_none_but_its_owner_is_served(own_server, job):
    server = own_server()
    end(forked(server, job("")))
    done = subprocess.run([sys.executable, "-c", CLIENT, server.address], input="", capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


def test_no_two_draw_the_same_numbers(both):
    code = "import random, numpy, torch, multiprocessing as m; "
    code += "print(random.random(), numpy.random.rand(), torch.rand(1).item(), m.current_process().authkey.hex())"
    lines = [both(code)[1][1].split() for _ in range(2)]
    assert all(len(numbers) == 2 for numbers in map(set, zip(*lines, strict=True)))


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "HF_HOME", "ANY_OTHER"]
)
def test_what_a_library_may_have_read_makes_it_a_new_process(server, job, name):
    end(forked(server, job("")))
    process = start_module("job", [], server=server.address, env=environment() | {name: "7"})
    assert isinstance(process, subprocess.Popen)
    assert process.wait(60) == 0
    end(process)


def test_it_ends_when_its_standard_input_closes(server, job):
    process = forked(server, job("import os, sys; os.read(0, 1); sys.exit(5)"))
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 5
    assert process.poll() == 5


CLIENT = """
import os, sys
from lcl_core.common.fork_server import ForkedProcess, start_module
process = start_module("job", [], server=sys.argv[1], env=dict(os.environ))
print(process.pid if isinstance(process, ForkedProcess) else 0, flush=True)
os.read(0, 1)
"""


def test_it_ends_with_a_client_that_is_killed(server, job, eventually):
    end(forked(server, job("import os; os.read(0, 1)")))
    command = [sys.executable, "-c", CLIENT, server.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as client:
        pid = int(client.stdout.readline())
        assert pid > 0
        client.kill()
        client.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the job, and its reaping")


def test_signals_reach_it_and_its_group(server, job, tmp_path):
    code = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'])\n"
    code += "print(child.pid, flush=True); child.wait()"
    with (tmp_path / "out").open("w+b") as output:
        process = forked(server, job(code), output=output)
        deadline = time.monotonic() + 60
        while not (line := (tmp_path / "out").read_text()).endswith("\n"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert os.getpgid(int(line)) == process.pid
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # without effect
    end(process)


def test_many_at_a_time(server, job):
    job("import os, sys; os.read(0, 1); sys.exit(int(sys.argv[1]))")
    processes = [forked(server, "job", str(number)) for number in range(12)]
    for process in reversed(processes):
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == list(range(12))


def test_a_dead_server_takes_its_jobs_along_and_later_ones_are_new_processes(own_server, job, eventually):
    server = own_server()
    process = forked(server, job("import os, subprocess; subprocess.run(['sleep', '600'])"))
    server._process.kill()
    assert process.wait(60) == -signal.SIGKILL
    eventually(lambda: not group(process.pid), "the end of all that the job started")
    end(process)
    later = start_module(job(""), [], server=server.address, env=environment())
    assert isinstance(later, subprocess.Popen)
    end(later)


def test_after_a_change_of_a_source_file_jobs_are_new_processes(own_server, tmp_path, job):
    (tmp_path / "library.py").write_text("VALUE = 3")
    server = own_server("library")
    assert forked(server, job("import library, sys; sys.exit(library.VALUE)")).wait(60) == 3
    (tmp_path / "library.py").write_text("VALUE = 14")
    new = start_module("job", [], server=server.address, env=environment())
    assert isinstance(new, subprocess.Popen)
    assert new.wait(60) == 14
    end(new)


OWNER = """
import os
from lcl_core.common.fork_server import ForkServer
server = ForkServer([], dict(os.environ))
server.prepare()
while server._process is None:
    pass
print(server._process.pid, server.address, flush=True)
os.read(0, 1)
"""


def test_the_server_ends_with_its_owner_and_is_private(eventually):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", OWNER], text=True, **pipes) as owner:
        pid, address = owner.stdout.readline().split()
        assert Path(address).parent.stat().st_mode & 0o777 == 0o700
        owner.kill()
        owner.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the server")
    assert not Path(address).parent.exists()


def test_a_closed_server_leaves_nothing():
    server = ForkServer([], environment())
    end(forked(server, "this"))
    pid, folder = server._process.pid, Path(server.address).parent
    server.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()
    process = start_module("this", [], server=server.address, env=environment())
    assert isinstance(process, subprocess.Popen)
    end(process)
