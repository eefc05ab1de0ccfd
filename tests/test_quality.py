"""The linter, the type checker, and the size of things."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("api", "workers", "lcl_core", "ui", "deploy", "benchmarks", "tests")
LONGEST_FUNCTION = 60
LONGEST_FILE = 600


def checked(*command: str) -> None:
    module = [sys.executable, "-m", *command]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def python_files() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def long_functions(source: str, limit: int = LONGEST_FUNCTION) -> list[str]:
    """``name (lines)`` of each function whose body, decorators apart, spans more than ``limit`` lines."""
    return [
        f"{node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > limit
    ]


def test_ruff_is_silent() -> None:
    checked("ruff", "check", ".")


def test_the_tree_is_formatted() -> None:
    checked("ruff", "format", "--check", ".")


def test_mypy_is_silent() -> None:
    checked("mypy")


def test_functions_are_short() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {function}"
        for file in python_files()
        for function in long_functions(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_files_are_short() -> None:
    lengths = {file: file.read_text(encoding="utf-8").count("\n") for file in python_files()}
    found = [f"{file.relative_to(ROOT)}: {n} lines" for file, n in lengths.items() if n > LONGEST_FILE]
    assert not found, "\n".join(found)


def test_a_long_function_is_seen() -> None:
    assert long_functions("def f():\n" + "    x = 1\n" * 60) == ["f (61)"]
    assert long_functions("def f():\n" + "    x = 1\n" * 59) == []
