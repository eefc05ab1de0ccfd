"""The launcher as a person starts it: for a team, with wrong settings, and told twice to end."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.client import Client
from deploy.local import main
from deploy.local_stack import LocalStack
from deploy.process import PROJECT, responds

pytestmark = pytest.mark.extended

KEY = "4f0c9a7be1d2835c6a8e7f10"


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder:
        yield Path(folder) / "home"


@pytest.mark.e2e
def test_it_comes_up_for_a_team(home, monkeypatch):
    monkeypatch.setenv("LCL_TEAM", "1")
    monkeypatch.setenv("LCL_ADMIN_KEY", KEY)
    with LocalStack(home, lambda text: None, ports=(0, 0)) as stack:
        assert responds(f"{stack.page_url}/healthz")
        requested = httpx.get(stack.page_url, trust_env=False)
        assert (requested.status_code, requested.headers["location"]) == (303, "login"), "visitors sign in"
        with stack.client() as client:
            assert client.keys()[0]["owner"] == "admin"
        assert not stack.key_file.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"LCL_TEAM": "1"}, "LCL_ADMIN_KEY is not set"),
        ({"LCL_DATA_ROOTS": "/"}, "LCL_DATA_ROOTS: / opens LCL_HOME"),
        ({"LCL_LEASE_SECONDS": "-1"}, "LCL_LEASE_SECONDS: Input should be greater than 0"),
        ({"LCL_LEASE_SECONDS": "5"}, "LCL_HEARTBEAT_SECONDS (10) must be at most a quarter of LCL_LEASE_SECONDS (5)"),
        ({"LCL_WORKER_SLOTS": "0"}, "LCL_WORKER_SLOTS: Input should be greater than or equal to 1"),
        ({"LCL_UI_MAX_UPLOAD": "much"}, "LCL_UI_MAX_UPLOAD: must be a size"),
        ({"LCL_WORKER_SLOT": "2"}, "LCL_WORKER_SLOT is not a setting; did you mean LCL_WORKER_SLOTS?"),
        ({"LCL_DATABASE_URL": "mysql://x/y"}, "LCL_DATABASE_URL: only sqlite and postgresql+psycopg are supported"),
    ],
)
def test_wrong_settings_are_reported_in_one_line_before_anything_starts(home, monkeypatch, capsys, settings, said):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main(["up", "--home", str(home)]) == 1
    reported = capsys.readouterr().err
    assert reported.startswith(f"error: {said}")
    assert len(reported.splitlines()) == 1
    assert not home.exists()


@contextmanager
def launched(home, **settings):
    """The launcher, up; and what it has said."""
    launcher = subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "up", "--home", str(home)],
        cwd=PROJECT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert launcher.stdout is not None
        said = ""
        for line in iter(launcher.stdout.readline, ""):
            said += line
            if line.startswith("Ctrl-C"):
                break
        yield launcher, said
    finally:
        launcher.kill()
        launcher.communicate()


@pytest.mark.e2e
def test_a_second_ctrl_c_ends_at_once_what_does_not_listen(home, is_running):
    home.mkdir(mode=0o755)
    with launched(home, LCL_CANCEL_GRACE_SECONDS="3600") as (launcher, said):
        address = re.search(r"^api +(\S+)/docs", said, re.MULTILINE)
        assert address is not None, said
        with Client(address[1], (home / "key").read_text(encoding="ascii").strip()) as client:
            worker = client.workers()[0]["pid"]
        files = [home, *(path for path in home.rglob("*") if not path.is_socket())]
        assert {path.name for path in files if path.stat().st_mode & 0o077} == set(), "other users see nothing"
        os.kill(worker, signal.SIGSTOP)
        launcher.send_signal(signal.SIGINT)
        assert launcher.stdout is not None
        assert "stopping" in launcher.stdout.readline()
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(120) == 0
        assert not is_running(worker)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def stack(said):
    with (
        tempfile.TemporaryDirectory(prefix="lcl-") as folder,
        LocalStack(Path(folder), said.append, ports=(0, 0)) as stack,
    ):
        yield stack


def works(stack):
    stack.check()
    return responds(f"{stack.api_url}/readyz") and responds(f"{stack.page_url}/healthz")


@pytest.mark.e2e
@pytest.mark.parametrize("part", ["broker", "api", "worker", "ui"])
def test_a_killed_part_is_started_again_and_queued_runs_go_on(stack, said, part, eventually):
    before, others = stack.pids(), {name: pid for name, pid in stack.pids().items() if name != part}
    said.clear()
    with stack.client() as client:
        run = client.submit("validate", {"dataset": "sample", "workers": 1})
        os.kill(before[part], signal.SIGKILL)
        eventually(lambda: stack.check() or stack.pids()[part] != before[part], f"another process of {part}")
        eventually(lambda: works(stack), "the service")
        eventually(lambda: stack.check() or client.run(run["id"])["state"] == "succeeded", "the end of the run")
    assert {name: pid for name, pid in stack.pids().items() if name != part} == others, "the other parts went on"
    assert [line.partition(";")[0] for line in said] == [f"{part} was killed by SIGKILL", f"{part} is started again"]
