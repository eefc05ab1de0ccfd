"""The data guide: its Python runs as it stands, and the commands in it exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from api.cli import app

GUIDE = Path(__file__).parents[2] / "docs" / "data.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """Line and text of each block of code in that language."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lxml", "markdown_it"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    found = blocks("python")
    assert len(found) >= 12
    for line, text in found:
        # blank lines in front, so that a traceback names the guide's own line
        exec(compile("\n" * line + text, str(GUIDE), "exec"), names)


def test_every_format_is_shown() -> None:
    from lcl_core.data.formats import FORMATS

    shown = {name for _, text in blocks("python") for name in re.findall(r'streams\("\w+", "(\w+)"', text)}
    assert shown == set(FORMATS)


def test_the_commands_exist() -> None:
    data: Any = get_command(app).commands["data"]  # type: ignore[attr-defined]
    used = [line for _, text in blocks("sh") for line in text.splitlines() if line.startswith("lcl data")]
    assert used
    for line in used:
        words = line.partition("#")[0].split()
        command = data.commands[words[2]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
