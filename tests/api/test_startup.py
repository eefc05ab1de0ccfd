"""Processes as a person starts them: what they import, what they refuse, and how they stop."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.__main__ import main
from lcl_core.common.processes import usable_cores

pytestmark = pytest.mark.usefixtures("process_as_before")
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "torchvision", "numpy", "PIL", "tokenizers", "celery", "gradio")


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(home, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LCL_")}
    return {**kept, "LCL_HOME": str(home), **more}


@contextmanager
def api(home, port, **more):
    """``python -m api`` as a process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        env=environment(home, LCL_API_PORT=str(port), **more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def loaded_after(code, home):
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    lines = python(f"{code}\n{report}", LCL_HOME=str(home)).splitlines()  # a wake-up may be logged last
    return json.loads(next(line for line in lines if line.startswith("[")))


def test_the_client_and_the_command_line_are_light(tmp_path):
    assert loaded_after("import api.client", tmp_path) == []
    more = "import api.cli, sys; assert not {'fastapi', 'sqlalchemy', 'pydantic'} & set(sys.modules), 'not light'"
    assert loaded_after(more, tmp_path) == []


def test_the_api_starts_and_answers_without_anything_heavy(tmp_path):
    code = """
import asyncio, httpx
from api.app import create_app

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        key = app.state.context.settings.key_file.read_text().strip()
        transport = httpx.ASGITransport(app)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            paths = ("/v1/runs", "/v1/datasets", "/v1/encoders", "/v1/collections", "/v1/workers", "/v1/specs/pretrain",
                     "/v1/keys", "/healthz", "/metrics", "/docs", "/openapi.json")
            for path in paths:
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
            answer = await client.post("/v1/specs/pretrain/estimate", json={"spec": {"preset": "sample"}})
            assert answer.status_code == 200, answer.text

asyncio.run(main())
"""
    assert loaded_after(code, tmp_path) == []


def test_torch_comes_with_the_first_inference_and_not_before(tmp_path):
    code = """
import asyncio, httpx, sys
from api.app import create_app

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        key = app.state.context.settings.key_file.read_text().strip()
        transport = httpx.ASGITransport(app)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            assert (await client.get("/v1/datasets/sample/documents")).status_code == 200
            assert (await client.get("/v1/datasets/sample/statistics")).status_code == 200
            spec = {"kind": "pretrain", "spec": {"preset": "sample"}}
            assert (await client.post("/v1/runs", json=spec)).status_code == 202
            assert (await client.post("/v1/embeddings", json={"model": "none", "input": "x"})).status_code == 404

asyncio.run(main())
"""
    assert not {"torch", "transformers", "torchvision"} & set(loaded_after(code, tmp_path))


def test_it_serves_and_leaves_on_sigterm(tmp_path, free_port, eventually):
    url = f"http://127.0.0.1:{free_port}"

    def answers():
        assert process.poll() is None, "the service ended by itself"
        try:
            return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    with api(tmp_path, free_port, LCL_LOG_FORMAT="json") as process:
        eventually(answers, "the service")
        key = (tmp_path / "key").read_text().strip()
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, trust_env=False) as client:
            assert [row["name"] for row in client.get("/v1/datasets").json()["items"]] == ["sample"]
            body = {"kind": "pretrain", "spec": {"preset": "sample"}}
            run_id = client.post("/v1/runs", json=body, headers={"x-request-id": "mine-7"}).json()["id"]
            client.get(f"/v1/runs/{run_id}", params={"what": "private"})
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=180)
        assert process.returncode in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in said.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    (submitted,) = [line for line in lines if line["event"] == "run_submitted"]
    assert (submitted["run"], submitted["request_id"], submitted["kind"]) == (run_id, "mine-7", "pretrain")
    requested = [line for line in lines if line["event"] == "request" and line.get("run") == run_id]
    assert [(line["method"], line["status"], line["path"]) for line in requested] == [
        ("GET", 200, f"/v1/runs/{run_id}")
    ]
    # none where the signal comes before the wake-up has failed
    assert {line["run"] for line in lines if line["event"] == "broker_unreachable"} <= {run_id}
    assert key not in said
    assert "private" not in said
    assert not [line for line in lines if line.get("path") == "/healthz"]


@pytest.fixture
def refused_start(tmp_path, monkeypatch, capsys):
    """Start with settings that must be refused: what standard error says."""
    for name in [name for name in os.environ if name.startswith("LCL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LCL_HOME", str(tmp_path))

    def start(status, **settings):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert main() == status
        reported = capsys.readouterr().err
        assert reported.startswith("error: ")
        assert reported.count("\n") == 1
        return reported

    return start


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"LCL_TEAM": "1"}, "LCL_ADMIN_KEY is not set"),
        ({"LCL_TEAM": "1", "LCL_ADMIN_KEY": "changeme"}, "LCL_ADMIN_KEY"),
        ({"LCL_ADMIN_KEY": "changeme"}, "LCL_ADMIN_KEY"),
        ({"LCL_API_PORT": "many"}, "LCL_API_PORT"),
        ({"LCL_DATA_ROOTS": "[1"}, "LCL_DATA_ROOTS"),
    ],
)
def test_bad_settings_are_refused_in_one_line(refused_start, tmp_path, settings, word):
    assert word in refused_start(2, **settings)
    assert list(tmp_path.iterdir()) == []


def test_threads_of_inference_are_set_before_torch_can_be_loaded(tmp_path):
    code = """
import os
from api.__main__ import main

os.environ.pop("OMP_NUM_THREADS", None)
assert main() == 2  # a team's deployment needs an admin key
print(os.environ["OMP_NUM_THREADS"], os.environ["GOMP_SPINCOUNT"])
"""
    said = python(code, LCL_HOME=str(tmp_path), LCL_TEAM="1")
    threads, spins = map(int, said.split())
    assert threads == usable_cores()
    assert spins < 300_000  # OpenMP's own


def test_a_database_that_cannot_be_used_is_told_in_one_line(refused_start):
    assert "cannot start" in refused_start(1, LCL_DATABASE_URL="sqlite:////proc/none/lcl.db")
