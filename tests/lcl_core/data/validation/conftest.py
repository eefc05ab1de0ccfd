"""Corpora that end the process that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

DEADLY = '''
import os

from lcl_core.data import open_corpus


class Deadly:
    """A corpus whose reader kills its process at some names."""

    def __init__(self, path):
        self.inner = open_corpus(path)
        self.path, self.documents, self.all_pairs = self.inner.path, self.inner.documents, self.inner.all_pairs
        self.held_out_documents = self.inner.held_out_documents

    def __reduce__(self):
        return Deadly, (self.inner.path,)

    def image_bytes(self, name):
        if name.startswith("deadly"):
            os._exit(9)
        return self.inner.image_bytes(name)
'''


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: Any) -> Any:
    """Makes a corpus of captioned images whose deadly ones end whoever reads them."""
    (tmp_path / "deadly_corpus.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(names: list[str]) -> Any:
        from deadly_corpus import Deadly  # type: ignore[import-not-found]

        return Deadly(kit.corpus(pairs=[kit.pair(name, f"{place}") for place, name in enumerate(names)]).path)

    return make
