"""ARCHITECTURE.md names files that exist, and no flow of it needs more than seventeen of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
PATH = re.compile(r"`((?:api|workers|lcl_core|ui|deploy|benchmarks|tests|docs)/[\w./{},]*)`")
MOST_FILES_OF_A_FLOW = 17


def flows() -> dict[str, set[str]]:
    """The Python files that each flow names, by the flow's letter."""
    section = TEXT.split("## Six flows")[1].split("\n## ")[0]
    parts = re.split(r"\*\*\((\w)\)", section)[1:]
    return {
        letter: {path for path in PATH.findall(text) if path.endswith(".py")}
        for letter, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_every_path_exists() -> None:
    paths = [path for path in PATH.findall(TEXT) if "NAME" not in path]
    assert len(paths) > 80, "the pattern finds the paths"
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_each_flow_fits_on_a_page() -> None:
    found = flows()
    assert sorted(found) == list("abcdef")
    assert not {letter: len(files) for letter, files in found.items() if not 5 <= len(files) <= MOST_FILES_OF_A_FLOW}


def test_every_folder_of_the_tree_is_listed() -> None:
    listed = TEXT.split("## The tree")[1].split("## Six flows")[0]
    rooms = [f"lcl_core/{entry.name}/" for entry in (ROOT / "lcl_core").iterdir() if (entry / "__init__.py").is_file()]
    assert not [room for room in rooms if f"`{room}`" not in listed]
