"""Which functions of the plain client wait: for ``api.client.derivation``.

A function waits when it calls something that does. There are two ways: a *coroutine* gives its value at the end, a
*stream* (whatever yields, or hands on what does) piece by piece.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef

# What other libraries have for both worlds, by how the plain client calls it.
COROUTINES = {
    "self._http.request": "self._http.request",
    "self._http.close": "self._http.aclose",
    "response.read": "response.aread",
    "time.sleep": "asyncio.sleep",
}
STREAMS = {
    "self._http.stream": "self._http.stream",
    "response.iter_lines": "response.aiter_lines",
    "response.iter_bytes": "response.aiter_bytes",
}
RENAMED = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
_WORDS = {"Iterator": "AsyncIterator", "contextmanager": "asynccontextmanager"}
_GIVING = ("Iterator", "Generator")  # how the plain client says that something is a stream
_ROOT = "Transport"
_TWINS = ("blocking",)  # files that are written by hand for both
_NOT_CALLS = ("__init__", "errors")


def sources(folder: Path) -> dict[str, str]:
    """{module: text} of the plain client."""
    files = sorted(path for path in folder.glob("*.py") if path.stem not in _NOT_CALLS)
    return {path.stem: path.read_text(encoding="utf-8") for path in files}


class Waiting:
    """What waits, in all modules together.

    Attributes:
        text: {module: source}.
        foreign: how calls into other libraries are named in the other world.
        foreign_names: the same for names that are not called.
    """

    def __init__(self, text: dict[str, str]) -> None:
        self.text = text
        self.foreign = COROUTINES | STREAMS
        self.foreign_names = {"httpx.Client": "httpx.AsyncClient"}
        trees = {name: ast.parse(source) for name, source in text.items()}
        self._home = {node.name: name for name, tree in trees.items() for node in _definitions(tree)}
        self._aliases = {each.id for tree in trees.values() for node in tree.body for each in _named(node)}
        self._classes = _below_root([node for tree in trees.values() for node in tree.body])
        self._coroutines, self._streams = set(COROUTINES), set(STREAMS)
        functions = list(self._functions(trees))
        while self._spread(functions):
            pass

    def is_coroutine(self, called: str) -> bool:
        return called in self._coroutines

    def is_stream(self, called: str) -> bool:
        return called in self._streams

    def is_async_def(self, node: Function, above: Sequence[ast.AST]) -> bool:
        """A stream that only hands another on stays a plain function."""
        return _placed(node, above) in self._coroutines or (self.gives_stream(node, above) and _yields(node))

    def gives_stream(self, node: Function, above: Sequence[ast.AST]) -> bool:
        return _placed(node, above) in self._streams

    def keeps(self, module: str, node: ast.stmt) -> bool:
        """Is this definition written a second time?"""
        if module in _TWINS:
            return False
        if isinstance(node, ast.ClassDef):
            return node.name in self._classes
        if _named(node):
            return True
        return isinstance(node, Function) and node.name in self._coroutines | self._streams

    def new_name(self, name: str) -> str:
        return f"Async{name}" if name in self._classes else _WORDS.get(name, name)

    def home_of(self, module: str, name: str) -> str:
        """The module from which the asynchronous client imports a name."""
        here, _, stem = module.rpartition(".")
        waits = name in self._classes | self._aliases | self._coroutines | self._streams
        return f"{here}.aio.{stem}" if here == "api.client" and waits else module

    def streams_among(self, node: Function) -> set[str]:
        """Parameters that are streams."""
        return {each.arg for each in node.args.args if _is_iterator(each.annotation)}

    def defined_in(self, tree: ast.Module, but: Sequence[ast.stmt]) -> Iterator[str]:
        """Names that a module defines at its top, apart from those definitions."""
        for node in tree.body:
            if node in but:
                continue
            if isinstance(node, ast.ClassDef | Function):
                yield node.name
            elif isinstance(node, ast.Assign):
                yield from (each.id for each in node.targets if isinstance(each, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id

    def _functions(self, trees: dict[str, ast.Module]) -> Iterator[tuple[str, Function]]:
        for module, tree in trees.items():
            for node in tree.body:
                if isinstance(node, Function):
                    if module in _TWINS:
                        (self._streams if _yields(node) else self._coroutines).add(node.name)
                    yield node.name, node
                elif isinstance(node, ast.ClassDef) and node.name in self._classes:
                    yield from ((_key(each, in_class=True), each) for each in node.body if isinstance(each, Function))

    def _hands_on(self, node: Function) -> bool:
        given = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
        return any(isinstance(each, ast.Call) and ast.unparse(each.func) in self._streams for each in given)

    def _spread(self, functions: list[tuple[str, Function]]) -> bool:
        """One step further up the callers; False: nothing new."""
        known = len(self._coroutines) + len(self._streams)
        for key, node in functions:
            called = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
            waits = bool(called & (self._coroutines | self._streams)) or bool(self.streams_among(node))
            if (waits or node.name in RENAMED) and key not in self._coroutines | self._streams:
                (self._streams if _yields(node) or self._hands_on(node) else self._coroutines).add(key)
        return len(self._coroutines) + len(self._streams) > known


def _definitions(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    yield from (node for node in tree.body if isinstance(node, ast.ClassDef | Function))


def _below_root(nodes: Sequence[ast.stmt]) -> set[str]:
    """Classes that stand on the transport."""
    found = {_ROOT}
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    while more := {
        node.name for node in classes if node.name not in found and found & {ast.unparse(each) for each in node.bases}
    }:
        found |= more
    return found


def _key(node: Function, in_class: bool) -> str:
    return f"self.{node.name}" if in_class else node.name


def _placed(node: Function, above: Sequence[ast.AST]) -> str:
    return _key(node, bool(above) and isinstance(above[-1], ast.ClassDef))


def piece_of(annotation: ast.expr | None) -> ast.expr | None:
    """What a stream of that type gives; None: it is no stream's type."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) not in _GIVING:
        return None
    return annotation.slice.elts[0] if isinstance(annotation.slice, ast.Tuple) else annotation.slice


def _named(node: ast.stmt) -> list[ast.Name]:
    """The name that a statement gives to a type of streams, if it does."""
    if not isinstance(node, ast.Assign) or piece_of(node.value) is None:
        return []
    return [each for each in node.targets if isinstance(each, ast.Name)]


def _is_iterator(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Iterator"


def _yields(node: Function) -> bool:
    return any(isinstance(each, ast.Yield | ast.YieldFrom) for each in ast.walk(node))
