"""The folder in which a corpus grows: hidden beside its place, kept when the work is interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lcl_core.corpora.steps.rows import Document, Pair, line_of
from lcl_core.errors import UserError
from lcl_core.rundir import write_json_atomically

PAIRS, IMAGES, DOCUMENTS, FIGURES = "pairs", "images", "interleaved", "statistics.json"
SPLITS = ("train", "val")
_STEPS, _DONE = "steps", "done.json"


class Workplace:
    """What is finished of a corpus, source by source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / IMAGES

    def done(self, source: str, key: str) -> dict[str, Any] | None:
        """The figures of a source that was finished from the same inputs. ``key``: what stands for these."""
        try:
            facts = json.loads((self._step(source) / _DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts["figures"] if facts["key"] == key else None

    def begin(self, source: str) -> None:
        """Forget what an interrupted attempt left of a source."""
        for left in (self._step(source), self.images / source):
            shutil.rmtree(left, ignore_errors=True)
        self._step(source).mkdir(parents=True)

    def finish(self, source: str, key: str, pairs: Iterable[Pair], documents: Iterable[Document], figures: Any) -> None:
        step, listed = self._step(source), list(documents)
        _write(step / f"{PAIRS}.jsonl", (pair.to_json() for pair in pairs))
        for split in SPLITS:
            _write(step / f"{split}.jsonl", (document.to_json() for document in listed if document.split == split))
        write_json_atomically(step / _DONE, {"key": key, "figures": figures})

    def assemble(self, sources: list[str]) -> dict[str, Any]:
        """Put the sources together, in this order; their figures."""
        figures = {}
        for folder in (PAIRS, DOCUMENTS):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
            (self.folder / folder).mkdir()
        for split in SPLITS:
            with (self.folder / DOCUMENTS / f"{split}.jsonl").open("wb") as target:
                for source in sources:
                    with (self._step(source) / f"{split}.jsonl").open("rb") as part:
                        shutil.copyfileobj(part, target)
        for source in sources:
            step = self._step(source)
            figures[source] = json.loads((step / _DONE).read_text(encoding="utf-8"))["figures"]
            if (step / f"{PAIRS}.jsonl").stat().st_size:
                shutil.copyfile(step / f"{PAIRS}.jsonl", self.folder / PAIRS / f"{source}.jsonl")
        self._drop_others(sources)
        return figures

    def publish(self, target: Path) -> None:
        """The corpus appears, whole."""
        self.folder.rename(target)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _drop_others(self, sources: list[str]) -> None:
        """The steps, and pictures of sources that an interrupted attempt at another choice had finished."""
        shutil.rmtree(self.folder / _STEPS)
        for left in self.images.iterdir() if self.images.is_dir() else ():
            if left.name not in sources:
                shutil.rmtree(left)

    def _step(self, source: str) -> Path:
        return self.folder / _STEPS / source


@contextlib.contextmanager
def workplace(target: Path) -> Iterator[Workplace]:
    """Where ``target`` grows until it is published. What is not published waits for the next attempt.

    Raises: UserError ``target_exists`` or ``build_running``.
    """
    if target.exists():
        raise UserError("there is something already; choose another place", code="target_exists", file=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.building")
    lock_file = target.with_name(f".{target.name}.lock")
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another build to this place is running; wait for it or choose another place"
            raise UserError(message, code="build_running", file=target) from error
        folder.mkdir(exist_ok=True)
        try:
            yield Workplace(folder)
        finally:
            with contextlib.suppress(OSError):  # there is something to go on from, or it was published
                folder.rmdir()
            lock_file.unlink(missing_ok=True)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(map(line_of, rows))
