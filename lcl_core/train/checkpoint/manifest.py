"""The list of a checkpoint's files and their checksums; its presence says that the rest had been written."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from lcl_core.train.checkpoint.files import sha256, write_text
from lcl_core.train.checkpoint.stored import StoredGroup
from lcl_core.train.ranks import Ranks

_NAME = "manifest.json"
_RANK_FILE = re.compile(r"^(?P<group>[^/]+)\.rank_(?P<rank>\d+)\.safetensors$")
_GROUP_FILE = re.compile(r"^(?P<group>[^/]+?)(/rank_\d+)?\.safetensors$")


@dataclass(frozen=True)
class Manifest:
    """
    Attributes:
        step: the step of the checkpoint.
        ranks: how many processes wrote it.
        files: sha256 by name, relative to the checkpoint.
    """

    step: int
    ranks: int
    files: dict[str, str]

    @classmethod
    def read(cls, checkpoint: Path) -> Manifest:
        """Raises: OSError, ValueError or TypeError when there is none or it is torn."""
        return cls(**json.loads((checkpoint / _NAME).read_text(encoding="utf-8")))

    def write(self, checkpoint: Path) -> None:
        write_text(checkpoint / _NAME, json.dumps(asdict(self), indent=1))

    def folders(self) -> set[str]:
        return {name.rpartition("/")[0] for name in self.files if "/" in name}

    def groups(self, checkpoint: Path) -> dict[str, list[Path]]:
        """The files of each group that all ranks share."""
        found: dict[str, list[Path]] = {}
        for name in sorted(self.files):
            if (match := _GROUP_FILE.match(name)) and not _RANK_FILE.match(name):
                found.setdefault(match["group"], []).append(checkpoint / name)
        return found

    def rank_files(self, checkpoint: Path, rank: int) -> dict[str, Path]:
        """The file of each group that belongs to ``rank`` alone."""
        matches = [match for name in self.files if (match := _RANK_FILE.match(name))]
        return {match["group"]: checkpoint / match[0] for match in matches if int(match["rank"]) == rank}


def damage(checkpoint: Path, ranks: Ranks) -> str | None:
    """What is wrong with a checkpoint, the same answer on all ranks, which share the reading; none when whole."""
    found: str | None
    try:
        manifest = Manifest.read(checkpoint)
        mine = sorted(manifest.files)[ranks.rank :: ranks.size]
        wrong = [name for name in mine if manifest.files[name] != sha256(checkpoint / name)]
        found = f"checksum of {', '.join(wrong)} does not match" if wrong else None
        if not wrong:
            for files in manifest.groups(checkpoint).values():
                StoredGroup(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
    return next((problem for problem in ranks.gather(found) if problem), None)
