"""Manifest of a checkpoint: its files, and groups. Imports no torch."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lcl_core.common.errors import StoreError

# errors of a checkpoint with a missing file or with wrong content
DAMAGE = (
    FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError
)  # fmt: skip
MANIFEST = "manifest.json"
_RANK_FILE = re.compile(r"^(?P<group>[^/]+)\.rank_(?P<rank>\d+)\.safetensors$")
_GROUP_FILE = re.compile(r"^(?P<group>[^/]+?)(/rank_\d+)?\.safetensors$")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Errors of the storage while ``path``, a checkpoint or the folder of all, is read; ``DAMAGE`` passes.

    Raises: StoreError ``checkpoint_unreadable``; OSError for a lack of memory.
    """
    try:
        yield
    except DAMAGE:
        raise
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        raise StoreError(
            f"it cannot be read at present ({error.strerror or error}), and may be whole. Mend the storage or the "
            "permissions of the folder, then resume the run; or rename this checkpoint, to go on from an earlier one",
            code="checkpoint_unreadable",
            file=path,
        ) from error


@dataclass(frozen=True)
class CheckpointManifest:
    """
    Attributes:
        step: the step of the checkpoint.
        ranks: how many processes wrote it.
        files: sha256 by name, relative to the checkpoint.
    """

    step: int
    ranks: int
    files: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def folders(self) -> set[str]:
        return {name.rpartition("/")[0] for name in self.files if "/" in name}

    def groups(self) -> dict[str, list[str]]:
        """The files of each group that all ranks share."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.files):
            if (match := _GROUP_FILE.match(name)) and not _RANK_FILE.match(name):
                found.setdefault(match["group"], []).append(name)
        return found

    def rank_files(self, rank: int) -> dict[str, str]:
        """The file of each group that belongs to ``rank`` alone."""
        matches = [match for name in self.files if (match := _RANK_FILE.match(name))]
        return {match["group"]: match[0] for match in matches if int(match["rank"]) == rank}
