"""The code blocks of README.md and docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block, or a run of indented lines that are commands."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    page, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    fences = list(re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL))
    for fence in fences:
        yield Block(page, text[: fence.start(3)].count("\n") + 1, fence[2], fence[3])
    outside = re.sub(r"^ *```.*?^ *```$", lambda part: "\n" * part[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    for run in re.finditer(r"(?:^ {4}(?:lcl|make|python|docker|curl) .*\n)+", outside, re.MULTILINE):
        yield Block(page, outside[: run.start()].count("\n") + 1, "sh", run[0])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
