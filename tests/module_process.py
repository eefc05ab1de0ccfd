"""``python -m MODULE`` from the tests' fork server, which saves it the import of torch."""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from lcl_core.common.fork_server import ForkServer, start_module
from workers.executors.local import FORKED, sanitized_env

SERVER = ForkServer(sorted(set(FORKED.values())), sanitized_env(os.environ))
atexit.register(SERVER.close)


def run_together(commands: Sequence[Sequence[str]], **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """Run several modules with their arguments at a time, and wait. On return none is left."""
    env = sanitized_env(os.environ) | environment
    del env["LCL_SUPERVISED"]
    done: list[subprocess.CompletedProcess[str]] = []
    with ExitStack() as stack:
        started = []
        for command in commands:
            out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            process = start_module(command, env, out, err, subprocess.DEVNULL, SERVER)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append((command, process, out, err))
        for command, process, *files in started:
            status = process.wait(timeout=900)
            done.append(subprocess.CompletedProcess([*command], status, *map(_content, files)))
    return done


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    [done] = run_together([[module, *arguments]])
    return done
