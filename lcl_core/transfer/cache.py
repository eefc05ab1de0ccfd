"""Frozen features on disk: computed once, used by every head, seed and sweep. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.rundir import write_json_atomically

Arrays = Mapping[str, NDArray[np.floating]]

_LAYOUT = 2  # of an entry, and of what its numbers mean; raise it when either changes


class FeatureCache:
    """Folders of ``.npy`` files named by the hash of everything that the numbers depend on.

    An entry is built beside and renamed, so a reader sees all of it or nothing, and two writers of one key
    agree. The entries used longest ago are removed beyond ``max_bytes``; arrays that someone still has mapped
    stay readable.
    """

    def __init__(self, root: Path, max_bytes: int = 20 * 2**30) -> None:
        self.root = root
        self.max_bytes = max_bytes

    def get_or_make(self, facts: Mapping[str, Any], make: Callable[[Path], None]) -> Arrays:
        """The arrays of the entry for ``facts``, memory-mapped and read-only.

        Args:
            facts: what the numbers depend on, JSON values.
            make: writes the entry's ``NAME.npy`` files into the folder it is given; called only on a miss.
        """
        text = json.dumps({"layout": _LAYOUT, **facts}, sort_keys=True)
        entry = self.root / hashlib.sha256(text.encode()).hexdigest()
        found = self._read(entry)
        if found is None:
            self._make(entry, text, make)
            found = self._read(entry)
        if found is None:
            raise OSError(f"the feature cache entry {entry} vanished while it was being read")
        return found

    def _read(self, entry: Path) -> Arrays | None:
        try:
            os.utime(entry)
            files = sorted(entry.glob("*.npy"))
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except FileNotFoundError:
            return None

    def _make(self, entry: Path, facts: str, make: Callable[[Path], None]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".making-", ignore_cleanup_errors=True) as folder:
            building = Path(folder) / "entry"
            building.mkdir()
            make(building)
            write_json_atomically(building / "facts.json", json.loads(facts))
            try:
                building.rename(entry)
            except OSError:
                if not entry.is_dir():  # else another process made the same entry first
                    raise
        self._prune(newest=entry)

    def _prune(self, newest: Path) -> None:
        entries = [entry for entry in self.root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        used = {entry: _seen(entry) for entry in entries}
        total = sum(size for _, size in used.values())
        for entry in sorted(entries, key=lambda entry: used[entry][0]):
            if total <= self.max_bytes or entry == newest:
                return
            shutil.rmtree(entry, ignore_errors=True)
            total -= used[entry][1]


def _seen(entry: Path) -> tuple[float, int]:
    """When an entry was last used, and its bytes; (0, 0) if another process has just removed it."""
    try:
        return entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir())
    except FileNotFoundError:
        return 0.0, 0
