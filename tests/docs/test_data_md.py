"""The data guide: its Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "data.md"


def python_blocks() -> list[tuple[int, str]]:
    """Line and text of each block."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lxml", "markdown_it"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    found = python_blocks()
    assert len(found) >= 12
    for line, text in found:
        # blank lines in front, so that a traceback names the guide's own line
        exec(compile("\n" * line + text, str(GUIDE), "exec"), names)


def test_every_format_is_shown() -> None:
    from lcl_core.data.formats import FORMATS

    shown = {name for _, text in python_blocks() for name in re.findall(r'streams\("\w+", "(\w+)"', text)}
    assert shown == set(FORMATS)
