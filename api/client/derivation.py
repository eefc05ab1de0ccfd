"""``python -m api.client.derivation``: writes ``api/client/aio``, the asynchronous client, from the plain one.

Calls are written once, in the plain files beside this one. What waits there (a request, a stream, a sleep) becomes
``await``, ``async for`` or ``async with`` there, and so does whatever calls it. A test holds what lies in ``aio``
against what comes out here, so that nobody has to think of it: add a call to the plain client and run this.

Only what waits is written a second time; constants, helpers and small classes are imported from the plain file.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from api.client.waiting import RENAMED, STREAMS, Waiting, sources

HERE = Path(__file__).parent
TARGET = HERE / "aio"
_ALWAYS = "from collections.abc import AsyncGenerator\nfrom contextlib import aclosing\n"  # unused ones are taken out
MARK = "# Made from api/client/{name}.py by `python -m api.client.derivation`: change that one.\n"


class Edits:
    """Changes of a text by position, made all at once from the last to the first."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines(keepends=True)
        self._changes: list[tuple[int, int, str]] = []
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def place(self, line: int, column: int) -> int:
        """Offset of what the parser calls line and column, which counts bytes."""
        before = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(before)

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.place(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.place(node.end_lineno, node.end_col_offset)

    def replace(self, start: int, end: int, text: str) -> None:
        self._changes.append((start, end, text))

    def instead(self, start: int, end: int, text: str) -> None:
        """Replace, and forget the changes in between."""
        self._changes = [each for each in self._changes if not (start <= each[0] and each[1] <= end)]
        self.replace(start, end, text)

    def insert(self, at: int, text: str) -> None:
        self.replace(at, at, text)

    def end_of_line(self, node: ast.stmt) -> int:
        """Behind a comment, if one follows."""
        assert node.end_lineno is not None
        return self._starts[node.end_lineno] - 1

    def text_of(self, start: int, end: int) -> str:
        """That part with the changes that lie in it."""
        found = "".join(self._lines)[start:end]
        inside = [change for change in self._changes if start <= change[0] and change[1] <= end]
        for first, last, text in sorted(inside, key=lambda change: change[:2], reverse=True):
            found = found[: first - start] + text + found[last - start :]
        return found


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
        _Rewriter(name, waiting, edits).visit(node)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    parts = [
        MARK.format(name=name) + f'"""{ast.get_docstring(tree, clean=False)}"""',
        "from __future__ import annotations",
    ]
    parts += [_ALWAYS + "\n".join(_imports(name, waiting, imports, tree, kept))]
    parts += [edits.text_of(_first(edits, node), edits.end_of_line(node)) for node in kept]
    return "\n\n".join(parts) + "\n"


class _Rewriter(ast.NodeVisitor):
    """Notes the changes that make one function or class wait as an event loop wants it."""

    def __init__(self, name: str, waiting: Waiting, edits: Edits) -> None:
        self._name, self._waiting, self._edits = name, waiting, edits
        self._above: list[ast.AST] = []
        self._streams: set[ast.AST] = set()  # expressions that are asynchronous iterators, where that is in order
        self._parameters: set[str] = set()
        self._in_async = False
        self._deeper = 0  # blanks by which lines move to the right here

    def generic_visit(self, node: ast.AST) -> None:
        self._above.append(node)
        super().generic_visit(node)
        self._above.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        at = self._edits.start(node) + len("class ")
        self._edits.replace(at, at + len(node.name), f"Async{node.name}")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        at = self._edits.start(node)
        self._in_async = self._waiting.is_async_def(node, self._above)
        if self._in_async:
            self._edits.insert(at, "async ")
        if node.name in RENAMED:
            at += len("def ")
            self._edits.replace(at, at + len(node.name), RENAMED[node.name])
        self._parameters = self._waiting.streams_among(node)
        if isinstance(node.returns, ast.Subscript) and self._waiting.gives_stream(node, self._above):
            name = node.returns.value
            self._edits.replace(self._edits.start(name), self._edits.end(name), "AsyncGenerator")
            node.returns = node.returns.slice
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        if not self._is_stream(node.iter):
            self.generic_visit(node)
            return
        self._streams.add(node.iter)
        ours = self._is_ours(node.iter)
        self._deeper += 4 * ours
        self.generic_visit(node)
        self._deeper -= 4 * ours
        if not ours:
            self._edits.insert(self._edits.start(node), "async ")
            return
        target = self._edits.text_of(self._edits.start(node.target), self._edits.end(node.target))
        self._closing(node, node.iter, f"async for {target} in pieces")
        assert node.iter.end_lineno is not None
        assert node.end_lineno is not None
        if any(isinstance(each, ast.Constant) and "\n" in str(each.value) for each in ast.walk(node)):
            raise self._unknown(node, "a loop with a text of several lines in it")
        for line in range(node.iter.end_lineno + 1, node.end_lineno + 1):
            self._edits.insert(self._edits.place(line, 0), "    ")

    def visit_With(self, node: ast.With) -> None:
        streams = [item.context_expr for item in node.items if self._is_stream(item.context_expr)]
        if streams:
            if len(streams) < len(node.items):
                raise self._unknown(node, "one `with` for what waits and what does not")
            self._streams.update(streams)
            self._edits.insert(self._edits.start(node), "async ")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._streams.add(node.value)  # handed on as it is
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """``yield from``, which nothing asynchronous may say."""
        if not (isinstance(node.value, ast.YieldFrom) and self._in_async):
            self.generic_visit(node)
            return
        inner, deeper = node.value.value, " " * (node.col_offset + self._deeper + 4)
        self._streams.add(inner)
        self.generic_visit(node)
        if self._is_ours(inner):
            self._closing(node, inner, "async for each in pieces")
            deeper += "    "
        else:
            loop = "async for" if self._is_stream(inner) else "for"
            self._edits.replace(self._edits.start(node), self._edits.start(inner), f"{loop} each in ")
        self._edits.insert(self._edits.end(node), f":\n{deeper}yield each")

    def _closing(self, node: ast.stmt, stream: ast.expr, loop: str) -> None:
        """Whoever leaves such a loop early closes the stream at once, and what that reads from."""
        text = self._edits.text_of(self._edits.start(stream), self._edits.end(stream))
        indent = " " * (node.col_offset + self._deeper + 4)
        header = f"async with aclosing({text}) as pieces:\n{indent}{loop}"
        self._edits.instead(self._edits.start(node), self._edits.end(stream), header)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called in self._waiting.foreign:
            self._edits.replace(self._edits.start(node.func), self._edits.end(node.func), self._waiting.foreign[called])
        if self._waiting.is_coroutine(called):
            self._await(node)
        elif self._waiting.is_stream(called):
            parent = self._above[-1]
            if isinstance(parent, ast.Call) and self._waiting.is_stream(ast.unparse(parent.func)):
                self._streams.add(node)  # one stream read by another
            if node not in self._streams:
                raise self._unknown(node, f"what {called} gives, anywhere but in `for`, `with` or `return`")
        if called in self._waiting.foreign:
            for part in (*node.args, *node.keywords):
                self.visit(part)
            return
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        new = self._waiting.new_name(node.id)
        if new != node.id:
            self._edits.replace(self._edits.start(node), self._edits.end(node), new)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if ast.unparse(node) in self._waiting.foreign_names:
            new = self._waiting.foreign_names[ast.unparse(node)]
            self._edits.replace(self._edits.start(node), self._edits.end(node), new)
            return
        self.generic_visit(node)

    def _await(self, node: ast.Call) -> None:
        parent = self._above[-1]
        within = isinstance(parent, ast.Attribute | ast.Subscript) and parent.value is node
        self._edits.insert(self._edits.start(node), "(await " if within else "await ")
        if within:
            self._edits.insert(self._edits.end(node), ")")

    def _is_ours(self, node: ast.expr) -> bool:
        """A stream that nobody else closes: httpx closes those of its answers."""
        return isinstance(node, ast.Call) and self._is_stream(node) and ast.unparse(node.func) not in STREAMS

    def _is_stream(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._parameters
        return isinstance(node, ast.Call) and self._waiting.is_stream(ast.unparse(node.func))

    def _unknown(self, node: ast.expr | ast.stmt, what: str) -> SyntaxError:
        words = (
            f"the asynchronous client cannot be derived from {what}; write it in another way, or teach derivation.py"
        )
        return SyntaxError(words, (str(HERE / f"{self._name}.py"), node.lineno, node.col_offset + 1, None))


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
    used = {node.id for each in kept for node in ast.walk(each) if isinstance(node, ast.Name)}
    for defined in waiting.defined_in(tree, but=kept):
        if defined in used:
            yield f"from api.client.{name} import {defined}"


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


def main() -> None:
    for name, text in all_derived().items():
        (TARGET / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
