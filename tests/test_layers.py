"""Laws of imports: which room may import what. Imports inside functions count, except for laws about start-up."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from tests.source_tree import ROOT, imports, package_of, python_files

FRAMEWORKS = ("fastapi", "starlette", "uvicorn", "celery", "redis", "sqlalchemy", "alembic", "gradio", "ray")
HEAVY = ("torch", "torchvision", "transformers")
ROOMS = ("model", "objectives", "data", "train", "evaluation", "encoders", "ops")
LARGE = tuple(
    f"lcl_core.{room}" for room in ("model", "objectives", "data", "train", "serving", "collections", "encoders")
)
SCIENCE = tuple(f"lcl_core/{room}" for room in ROOMS)
BARE = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL", "pyarrow", "pydantic"}
BARE |= {"regex", "ftfy", "fsspec"}
# of the extras, of who calls us, or slow to import: imported where they are used, never at start
OPTIONAL = {"lxml", "timm", "markdown_it", "scipy", "matplotlib", "lmms_eval", "gguf"}


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
    "the core knows no service": Law(("lcl_core",), ("api", "workers", "ui", "deploy")),
    "the product knows no benchmark": Law(("api", "workers", "lcl_core", "ui", "deploy"), ("benchmarks", "tests")),
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


def below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def broken(law: Law, source: str, package: str) -> list[tuple[int, str]]:
    found = imports(source, package, law.module_level_only)
    return [(line, name) for line, name in found if below(name, law.forbidden) and not below(name, law.but)]


@pytest.mark.parametrize("title", LAWS)
def test_no_forbidden_import(title: str) -> None:
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
def test_a_breach_is_detected(source: str, package: str, caught: bool) -> None:
    assert bool(broken(LAWS["api does not know workers"], source, package)) is caught


def test_science_runs_on_a_bare_machine() -> None:
    """Nothing but the standard library and the project's plain dependencies, even inside functions."""
    at_start = {*sys.stdlib_module_names, *BARE, "lcl_core"}
    unexpected = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in python_files(*SCIENCE)
        for when, allowed in ((True, at_start), (False, at_start | OPTIONAL))
        for line, name in imports(file.read_text(encoding="utf-8"), package_of(file), module_level_only=when)
        if name.split(".")[0] not in allowed
    ]
    assert not unexpected, "\n".join(unexpected)


def test_start_up_laws_check_module_level_only() -> None:
    law = LAWS["the api starts without torch"]
    assert not broken(law, "def f():\n    import torch", "api")
    assert not broken(law, "if TYPE_CHECKING:\n    import torch", "api")
    assert broken(law, "try:\n    import torch\nexcept ImportError:\n    pass", "api")
    assert broken(law, "class A:\n    import torch", "api")


def test_the_page_imports_the_client_alone() -> None:
    law = LAWS["the page talks to the client alone"]
    assert not broken(law, "from api.client import Client", "ui")
    assert broken(law, "from api.core.settings import ApiSettings", "ui")
    assert broken(law, "from lcl_core import settings", "ui")
