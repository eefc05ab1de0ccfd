"""Launchers that start at one time and wish for the same ports do not take them from each other."""

import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.process import PROJECT, listening_socket

pytestmark = pytest.mark.extended

LAUNCH = """
import sys
from pathlib import Path
from deploy.local_stack import LocalStack
with LocalStack(Path(sys.argv[1]), lambda text: None, ports=(int(sys.argv[2]), int(sys.argv[3]))) as house:
    print(house.api_url, house.page_url, flush=True)
    sys.stdin.read()
"""


def test_a_port_goes_to_one_of_many_that_ask_at_once():
    with listening_socket(0) as probe:
        wished = probe.getsockname()[1]
    together, found = threading.Barrier(8), []

    def ask():
        together.wait()
        found.append(listening_socket(wished))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as stack:
        ports = [stack.enter_context(listener).getsockname()[1] for listener in found]
    assert len(set(ports)) == 8
    assert ports.count(wished) == 1


@pytest.mark.e2e
def test_two_services_come_up_at_once():
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder, ExitStack() as stack:
        with listening_socket(0) as one, listening_socket(0) as other:
            wished = [str(probe.getsockname()[1]) for probe in (one, other)]
        launchers = [launch(Path(folder) / name, wished) for name in ("first", "second")]
        for launcher in launchers:
            stack.callback(launcher.kill)
        addresses = []
        for launcher in launchers:
            assert launcher.stdout is not None
            addresses += launcher.stdout.readline().split()
        assert len(set(addresses)) == 4, addresses
        assert {f"http://127.0.0.1:{port}" for port in wished} <= set(addresses)
        for launcher in launchers:
            launcher.communicate()
            assert launcher.returncode == 0


def launch(home, wished):
    command = [sys.executable, "-c", LAUNCH, str(home), *wished]
    return subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
