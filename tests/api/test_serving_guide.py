"""The guide to asking an encoder: its requests are answered, and its commands exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from api.cli import app

GUIDE = Path(__file__).parents[2] / "docs" / "serving.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def ant(
    live_service: Any, encoder: Any, sample_images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the image that the guide asks about."""
    (tmp_path / "ant.webp").write_bytes(sample_images["red"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCL_API_URL", live_service.url)
    monkeypatch.setenv("LCL_API_KEY", live_service.keys["viewer"])
    return tmp_path


def test_its_requests_are_answered(live_service: Any, ant: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    first, *requested = [block for block in blocks("sh") if not block.startswith("lcl ")]
    assert len(requested) == 4
    answers = []
    for block in requested:
        script = (first + block).replace('"sample"', '"tiny"')
        environment = {**os.environ, "API": live_service.url, "KEY": live_service.keys["viewer"], "NO_PROXY": "*"}
        done = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, check=True)
        answers.append(done.stdout)
    assert [len(json.loads(answer)["data"]) for answer in answers[:2]] == [2, 1]
    assert answers[2].rstrip().splitlines()[-2] == "event: done"
    assert isinstance(json.loads(answers[3])["text"], str)


def test_its_python_runs(ant: Path) -> None:
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(code.replace('"sample"', '"tiny"'), str(GUIDE), "exec"), names)
    assert isinstance(names["text"], str)


def test_its_commands_exist() -> None:
    root: Any = get_command(app)
    used = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lcl ")]
    assert len(used) == 4
    for line in used:
        words = line.split()
        known = {option for parameter in root.commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
