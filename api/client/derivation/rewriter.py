"""One function or class after another, made to wait as an event loop wants it."""

from __future__ import annotations

import ast

from api.client.derivation.edits import Edits
from api.client.derivation.waiting import RENAMED, STREAMS, Waiting, piece_of


class Rewriter(ast.NodeVisitor):
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
        returns = node.returns
        if returns is not None and self._waiting.gives_stream(node, self._above):
            node.returns = None
            self._retype(returns)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._above:
            self.generic_visit(node)
        else:
            self._retype(node.value)

    def _retype(self, node: ast.expr) -> None:
        """The type of a stream; one that has a name of its own has another meaning under it."""
        if (piece := piece_of(node)) is not None:
            self._edits.replace(self._edits.start(node), self._edits.end(node), f"AsyncGenerator[{ast.unparse(piece)}]")

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
        return SyntaxError(words, (f"api/client/{self._name}.py", node.lineno, node.col_offset + 1, None))
