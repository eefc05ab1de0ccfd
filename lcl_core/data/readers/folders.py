"""The files of a corpus: which there are, in which order, and which are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lcl_core.data.readers.values import printable
from lcl_core.data.record import BadItem


def shown(path: Path, root: Path) -> str:
    """A file's name for messages and ids: relative to the corpus, whatever bytes it has."""
    inside = path.name if path == root else os.path.relpath(path, root)
    return printable(inside.replace(os.sep, "/"))


def corpus_files(
    root: Path, wanted: Callable[[str], bool], order: Callable[[Path], Any] = str, outside: Path | None = None
) -> Iterator[Path | BadItem]:
    """Files that make a corpus: ``root`` itself, or those directly in it, or else one folder down.

    A file that is wanted and is no ordinary one, or a link out of the folder, is a BadItem.

    Args:
        wanted: judges by the name of a file.
        order: sort key.
        outside: a folder whose files are not meant.
    """
    if not root.is_dir():
        yield root if root.is_file() else BadItem(root.name, 0, "unreadable file", "it is not an ordinary file")
        return
    inside = root.resolve()
    for path in sorted(_candidates(root, wanted), key=order):
        if path.parent == outside:
            continue
        real, ordinary = real_file(path)
        if not real.is_relative_to(inside):
            yield BadItem(shown(path, root), 0, "unsafe link", "the link leads out of the folder")
        elif not ordinary:
            yield BadItem(shown(path, root), 0, "unreadable file", "it is not an ordinary file")
        else:
            yield path


def real_file(path: Path) -> tuple[Path, bool]:
    """Where links lead to from ``path``, and whether an ordinary file is there."""
    try:
        real = path.resolve()
        return real, real.is_file()
    except (OSError, RuntimeError):  # a loop of links
        return path, False


def has_files(root: Path, wanted: Callable[[str], bool]) -> bool:
    """Is ``root`` such a file, or does it hold one?"""
    return bool(_candidates(root, wanted)) if root.is_dir() else wanted(root.name)


def _candidates(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    above = [path for path in root.glob("*") if wanted(path.name) and not path.is_dir()]
    return above or [path for path in root.glob("*/*") if wanted(path.name) and not path.is_dir()]
