"""Calls about folders of pictures on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from api.client.blocking import in_parallel, read_bytes
from api.client.errors import ApiError
from api.client.inference import EncoderCalls
from api.client.transport import Progress

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MAX_REQUEST = 24 << 20  # bytes of pictures; a third more as text, and the service takes 64 MiB
_PLACE = re.compile(r"input\.(\d+)")


class Skipped(NamedTuple):
    """A picture that has no vector, and why."""

    path: Path
    reason: str


class Embedded(NamedTuple):
    """What came of some files: vectors of those that are pictures, in order."""

    rows: list[tuple[Path, list[float]]]
    skipped: list[Skipped]


class PictureCalls(EncoderCalls):
    def embed_folder(
        self,
        encoder: str,
        folder: str | Path,
        *,
        batch: int = 32,
        at_once: int = 4,
        on_skip: Callable[[Skipped], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Iterator[tuple[Path, list[float]]]:
        """Every picture below ``folder`` with its vector, by path; files that cannot be read are skipped.

        Args:
            batch: pictures in a request; fewer where they are large.
            at_once: requests under way.
            on_skip: gets each picture that is skipped, with the reason.
            on_progress: gets the pictures that are done, skipped ones too, and how many there are.

        Raises: ApiError when the service refuses for another reason than a picture; NotADirectoryError.
        """
        paths = pictures_in(Path(folder))
        parts = [paths[start : start + batch] for start in range(0, len(paths), batch)]
        done = 0
        for found in in_parallel(partial(self._embed_files, encoder), parts, at_once):
            done += len(found.rows) + len(found.skipped)
            if on_skip is not None:
                for skipped in found.skipped:
                    on_skip(skipped)
            if on_progress is not None:
                on_progress(done, len(paths))
            yield from found.rows

    def _embed_files(self, encoder: str, paths: Sequence[Path]) -> Embedded:
        whole = Embedded([], [])
        pictures: list[tuple[Path, bytes]] = []
        for path in paths:
            try:
                data = read_bytes(path)
            except OSError as error:
                whole.skipped.append(Skipped(path, error.strerror or str(error)))
                continue
            if pictures and sum(len(each) for _, each in pictures) + len(data) > MAX_REQUEST:
                self._embed_pictures(encoder, pictures, whole)
                pictures = []
            pictures.append((path, data))
        self._embed_pictures(encoder, pictures, whole)
        return whole

    def _embed_pictures(self, encoder: str, pictures: list[tuple[Path, bytes]], whole: Embedded) -> None:
        """Add their vectors to ``whole``; one that the service refuses is left out, and the others asked again."""
        while pictures:
            try:
                vectors = self.embed_images(encoder, [data for _, data in pictures])
            except ApiError as error:
                if error.code == "too_many_pixels" and len(pictures) > 1:
                    half = len(pictures) // 2
                    self._embed_pictures(encoder, pictures[:half], whole)
                    self._embed_pictures(encoder, pictures[half:], whole)
                    return
                path, _ = pictures.pop(refused_place(error, len(pictures)))
                whole.skipped.append(Skipped(path, error.message))
                continue
            whole.rows.extend((path, vector) for (path, _), vector in zip(pictures, vectors, strict=True))
            return


def pictures_in(folder: Path) -> list[Path]:
    """Files below ``folder`` that are called like pictures, sorted. Raises: NotADirectoryError."""
    if not folder.is_dir():
        raise NotADirectoryError(20, "there is no such folder", str(folder))
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())


def refused_place(error: ApiError, count: int) -> int:
    """Which of ``count`` pictures the service refused. Raises: the error itself, when it is not about one of them."""
    match = _PLACE.fullmatch(error.field or "")
    if match and error.status == 422 and error.code.startswith("image_") and int(match[1]) < count:
        return int(match[1])
    if error.status == 413 and count == 1:
        return 0
    raise error
