"""The laws of the house: who may import whom.

Imports inside functions count, except where a law is about start-up.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORKS = ("fastapi", "starlette", "uvicorn", "celery", "redis", "sqlalchemy", "alembic", "gradio")
HEAVY = ("torch", "torchvision", "transformers")
ROOMS = ("model", "objectives", "data", "train", "evaluation", "encoders", "ops")
LARGE = tuple(
    f"lcl_core.{room}" for room in ("model", "objectives", "data", "train", "serving", "collections", "encoders")
)
SCIENCE = tuple(f"lcl_core/{room}" for room in ROOMS)
BARE = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL", "pyarrow", "pydantic"}
BARE |= {"regex", "ftfy", "fsspec"}
# of the extras, or of who calls us: imported where they are used, never at start
OPTIONAL = {"lxml", "markdown_it", "scipy", "matplotlib", "lmms_eval"}


@dataclass(frozen=True)
class Law:
    """Files below ``folders`` import nothing whose dotted name is, or is below, one of ``forbidden``."""

    folders: tuple[str, ...]
    forbidden: tuple[str, ...]
    but: tuple[str, ...] = ()
    module_level_only: bool = False


LAWS = {
    "api does not know workers": Law(("api",), ("workers", "ui", "deploy")),
    "workers do not know api": Law(("workers",), ("api", "ui", "deploy", "fastapi", "gradio")),
    "science knows no service": Law(
        SCIENCE,
        (*FRAMEWORKS, "httpx", "structlog", "pydantic_settings", "lcl_core.db", "lcl_core.common.settings"),
    ),
    "the ground floor knows no floor above": Law(("lcl_core",), ("api", "workers", "ui", "deploy")),
    "the database layer knows no torch": Law(
        ("lcl_core/db",),
        (*HEAVY, "fastapi", "gradio", "lcl_core.serving", "lcl_core.collections"),
        but=("lcl_core.collections.records",),
    ),
    "studies know neither torch nor service": Law(
        ("lcl_core/studies",),
        (
            *HEAVY,
            *FRAMEWORKS,
            "httpx",
            "structlog",
            "pydantic_settings",
            *LARGE,
            "lcl_core.db",
            "lcl_core.common.settings",
        ),
    ),
    "estimates know neither torch nor service": Law(
        ("lcl_core/estimate",),
        (*HEAVY, *FRAMEWORKS, "httpx", "numpy", *LARGE, "lcl_core.db", "lcl_core.common.settings"),
    ),
    "serving knows no database": Law(("lcl_core/serving", "lcl_core/collections"), (*FRAMEWORKS, "lcl_core.db")),
    "the page talks to the client alone": Law(
        ("ui",),
        ("api", "workers", "deploy", "lcl_core", "sqlalchemy", "celery", "redis"),
        but=("api.client", "lcl_core.specs"),
    ),
    "workers never import torch": Law(("workers",), HEAVY),
    "the api starts without torch": Law(("api",), (*HEAVY, "lcl_core.model", "lcl_core.train"), module_level_only=True),
}


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def package_of(file: Path) -> str:
    """Dotted name of the package that ``file`` lies in."""
    return ".".join(file.relative_to(ROOT).parent.parts)


def imports(source: str, package: str, module_level_only: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that ``source``, a module of ``package``, imports."""
    tree = ast.parse(source)
    for node in _at_module_level(tree) if module_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: no function bodies, no ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_module_level(child)


def below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def broken(law: Law, source: str, package: str) -> list[tuple[int, str]]:
    found = imports(source, package, law.module_level_only)
    return [(line, name) for line, name in found if below(name, law.forbidden) and not below(name, law.but)]


@pytest.mark.parametrize("title", LAWS)
def test_the_house_keeps_the_law(title: str) -> None:
    law = LAWS[title]
    files = python_files(*law.folders)
    assert files, f"no file below {law.folders}: the law examines nothing"
    breaches = []
    for file in files:
        breaches += [
            f"{file.relative_to(ROOT)}:{line} imports {name}"
            for line, name in broken(law, file.read_text(encoding="utf-8"), package_of(file))
        ]
    assert not breaches, f"{title}:\n" + "\n".join(breaches)


@pytest.mark.parametrize(
    ("source", "package", "caught"),
    [
        ("import workers.worker", "api.routes", True),
        ("def f():\n    from workers import tasks", "api.routes", True),
        ("from ..client import x", "api.routes", False),
        ("from workers_extra import x", "api", False),
    ],
)
def test_a_breach_is_seen(source: str, package: str, caught: bool) -> None:
    assert bool(broken(LAWS["api does not know workers"], source, package)) is caught


def test_science_runs_on_a_bare_machine() -> None:
    """Nothing but the standard library and the project's plain dependencies, even inside functions."""
    at_start = {*sys.stdlib_module_names, *BARE, "lcl_core"}
    strangers = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in python_files(*SCIENCE)
        for when, allowed in ((True, at_start), (False, at_start | OPTIONAL))
        for line, name in imports(file.read_text(encoding="utf-8"), package_of(file), module_level_only=when)
        if name.split(".")[0] not in allowed
    ]
    assert not strangers, "\n".join(strangers)


def test_start_up_laws_look_at_module_level_only() -> None:
    law = LAWS["the api starts without torch"]
    assert not broken(law, "def f():\n    import torch", "api")
    assert not broken(law, "if TYPE_CHECKING:\n    import torch", "api")
    assert broken(law, "try:\n    import torch\nexcept ImportError:\n    pass", "api")
    assert broken(law, "class A:\n    import torch", "api")


def test_the_client_is_the_pages_only_door() -> None:
    law = LAWS["the page talks to the client alone"]
    assert not broken(law, "from api.client import Client", "ui")
    assert broken(law, "from api.core.settings import ApiSettings", "ui")
    assert broken(law, "from lcl_core import settings", "ui")
