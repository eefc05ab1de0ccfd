"""The process stays as it is; a stand-in for the Python that has infinity, which answers what it was started with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lcl_core.conftest import documents, image_tokens, pixels, small_config, small_model  # noqa: F401

STAND_IN = """#!{python} -S
import json, os, pathlib, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = sys.argv[1:]
if words[0] == "-c":
    print(json.dumps(dict.fromkeys(words[2:], "0")))
    sys.exit()
if words[:2] == ["-m", "benchmarks.clip"]:
    pathlib.Path(words[2]).mkdir()
    pathlib.Path(words[2], "written").write_text(" ".join(words[3:]))
    sys.exit()
assert words[:3] == ["-m", "infinity_emb.cli", "v2"], words
after = dict(zip(words, words[1:]))


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, {{}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = self.path == "/embeddings" and asked["model"] == after["--served-model-name"]
        right = right and asked["modality"] == "image" and asked["input"].startswith("data:image/jpeg;base64,")
        written = pathlib.Path(after["--model-id"], "written").read_text()
        environment = {{name: os.environ[name] for name in ("HF_HOME", "HF_HUB_OFFLINE", "DO_NOT_TRACK")}}
        self.answer(200 if right else 422, {{"words": words, "written": written, **environment}})

    def answer(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer((after["--host"], int(after["--port"])), Answering).serve_forever()
"""


@pytest.fixture
def python_with_infinity(tmp_path: Path) -> str:
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    return str(program)


@pytest.fixture(autouse=True)
def benchmarks_leave_no_trace(process_as_before: None) -> None:
    """A benchmark sets the number of threads and hides GPUs."""
