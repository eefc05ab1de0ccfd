"""Changes of a source by the places that its syntax tree names, so that everything else stays as it was written."""

from __future__ import annotations

import ast


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
