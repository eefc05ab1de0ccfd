"""The asynchronous client's files, whole."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from api.client.derivation.edits import Edits
from api.client.derivation.rewriter import Rewriter
from api.client.derivation.waiting import Waiting, sources

HERE = Path(__file__).parents[1]
TARGET = HERE / "aio"
_ALWAYS = "from collections.abc import AsyncGenerator\nfrom contextlib import aclosing\n"  # unused ones are taken out
MARK = "# Made from api/client/{name}.py by `python -m api.client.derivation`: change that one.\n"


def derived(name: str, waiting: Waiting) -> str | None:
    """The asynchronous file for a plain one, not tidied yet; None where nothing in it waits.

    Raises: SyntaxError, naming file and line, for a way of waiting that this does not know.
    """
    source = waiting.text[name]
    tree = ast.parse(source)
    kept = [node for node in tree.body if waiting.keeps(name, node)]
    if not kept:
        return None
    edits = Edits(source)
    for node in kept:
        Rewriter(name, waiting, edits).visit(node)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    parts = [
        MARK.format(name=name) + f'"""{ast.get_docstring(tree, clean=False)}"""',
        "from __future__ import annotations",
    ]
    parts += [_ALWAYS + "\n".join(_imports(name, waiting, imports, tree, kept))]
    parts += [edits.text_of(_first(edits, node), edits.end_of_line(node)) for node in kept]
    return "\n\n".join(parts) + "\n"


def _first(edits: Edits, node: ast.stmt) -> int:
    """Where a definition begins, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return edits.place(decorators[0].lineno, 0) if decorators else edits.start(node)


def _imports(
    name: str, waiting: Waiting, imports: list[ast.Import | ast.ImportFrom], tree: ast.Module, kept: list[ast.stmt]
) -> Iterator[str]:
    """The plain file's, those of ours from where they wait, and what of the plain file itself is used as it is."""
    for node in imports:
        if isinstance(node, ast.Import):
            yield "import asyncio" if [each.name for each in node.names] == ["time"] else ast.unparse(node)
        elif node.module != "__future__":
            for each in node.names:
                home = waiting.home_of(str(node.module), each.name)
                yield f"from {home} import {waiting.new_name(each.name)}"
    used = {_said(node) for each in kept for node in ast.walk(each)}
    for defined in waiting.defined_in(tree, but=kept):
        if defined in used:
            yield f"from api.client.{name} import {defined}"


def _said(node: ast.AST) -> str:
    """The name that stands there, or in a text that may be a type."""
    if isinstance(node, ast.Name):
        return node.id
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def tidied(texts: dict[str, str]) -> dict[str, str]:
    """By ruff: imports that nothing uses are taken out, the others sorted, lines broken as everywhere."""
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        settings = ("--config", str(HERE.parents[1] / "pyproject.toml"), "--quiet", "--no-cache", folder)
        for command in (("check", "--fix-only", "--select", "F401,I"), ("format",)):
            subprocess.run([sys.executable, "-m", "ruff", *command, *settings], cwd=HERE.parents[1], check=True)
        return {name: (Path(folder) / name).read_text(encoding="utf-8") for name in texts}


def all_derived() -> dict[str, str]:
    """{file name in ``aio``: text}."""
    waiting = Waiting(sources(HERE))
    made = {name: derived(name, waiting) for name in waiting.text}
    return tidied({f"{name}.py": text for name, text in made.items() if text is not None})
