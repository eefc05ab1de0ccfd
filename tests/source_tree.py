"""The source tree, parsed: its modules, what they import, and what they define. No module is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("api", "workers", "lcl_core", "ui", "deploy")
# a room imports from itself and from rooms below it
ORDER = (
    *("deploy", "ui", "api", "workers", "lcl_core.db", "lcl_core.studies", "lcl_core.serving", "lcl_core.collections"),
    *("lcl_core.evaluation", "lcl_core.train", "lcl_core.encoders", "lcl_core.pretrained", "lcl_core.objectives"),
    *("lcl_core.model", "lcl_core.ops", "lcl_core.estimate", "lcl_core.dataset_builder", "lcl_core.data"),
    *("lcl_core.parts", "lcl_core.specs", "lcl_core.jobs", "lcl_core.vector_indexes", "lcl_core.common"),
    "lcl_core",
)


@dataclass(frozen=True)
class Import:
    """An import of one product module by another.

    Attributes:
        lazy: inside a function.
        typing: below ``if TYPE_CHECKING``.
    """

    target: str
    line: int
    lazy: bool
    typing: bool


@dataclass(frozen=True)
class Module:
    """A file of the product."""

    name: str
    path: Path
    lines: int
    tree: ast.Module

    @property
    def file(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_entry(self) -> bool:
        return self.path.stem in ("__init__", "__main__")


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def package_of(file: Path) -> str:
    """Dotted name of the package that ``file`` lies in."""
    return ".".join(file.relative_to(ROOT).parent.parts)


def room_of(module: str) -> str:
    """The first of ``ORDER`` that the module is, or lies below."""
    return next(room for room in ORDER if module == room or module.startswith(f"{room}."))


@cache
def product() -> dict[str, Module]:
    """Modules of the product by dotted name; migrations are left out."""
    modules = {}
    for path in python_files(*PRODUCT):
        if "versions" not in path.parts:
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            source = path.read_text(encoding="utf-8")
            modules[name] = Module(name, path, source.count("\n"), ast.parse(source))
    return modules


@cache
def product_imports() -> dict[str, list[Import]]:
    """Imports of product modules, by the importing module."""
    return {name: list(_imports_of(module, module.tree, False, False)) for name, module in product().items()}


def _imports_of(module: Module, node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in _imported_names(child, package_of(module.path)):
            target = name if name in product() else name.rpartition(".")[0]
            if target in product() and target != module.name:
                yield Import(target, child.lineno, lazy, typing)  # type: ignore[attr-defined]
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports_of(module, child, inside, typing or _is_typing(child))


def imports(source: str, package: str, module_level_only: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that ``source``, a module of ``package``, imports."""
    tree = ast.parse(source)
    for node in _at_module_level(tree) if module_level_only else ast.walk(tree):
        for name in _imported_names(node, package):
            yield node.lineno, name  # type: ignore[attr-defined]


def _imported_names(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def _at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: no function bodies, no ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_typing(child):
            continue
        yield child
        yield from _at_module_level(child)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
