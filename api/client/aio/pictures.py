# Made from api/client/pictures.py by `python -m api.client.derivation`: change that one.
"""Calls about folders of pictures on this machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

from api.client.aio.blocking import in_parallel, read_bytes
from api.client.aio.inference import AsyncEncoderCalls
from api.client.errors import ApiError
from api.client.pictures import MAX_REQUEST, Embedded, Skipped, pictures_in, refused_place
from api.client.transport import Progress


class AsyncPictureCalls(AsyncEncoderCalls):
    async def embed_folder(
        self,
        encoder: str,
        folder: str | Path,
        *,
        batch: int = 32,
        at_once: int = 4,
        on_skip: Callable[[Skipped], None] | None = None,
        on_progress: Progress | None = None,
    ) -> AsyncGenerator[tuple[Path, list[float]]]:
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
        async with aclosing(in_parallel(partial(self._embed_files, encoder), parts, at_once)) as pieces:
            async for found in pieces:
                done += len(found.rows) + len(found.skipped)
                if on_skip is not None:
                    for skipped in found.skipped:
                        on_skip(skipped)
                if on_progress is not None:
                    on_progress(done, len(paths))
                for each in found.rows:
                    yield each

    async def _embed_files(self, encoder: str, paths: Sequence[Path]) -> Embedded:
        whole = Embedded([], [])
        pictures: list[tuple[Path, bytes]] = []
        for path in paths:
            try:
                data = await read_bytes(path)
            except OSError as error:
                whole.skipped.append(Skipped(path, error.strerror or str(error)))
                continue
            if pictures and sum(len(each) for _, each in pictures) + len(data) > MAX_REQUEST:
                await self._embed_pictures(encoder, pictures, whole)
                pictures = []
            pictures.append((path, data))
        await self._embed_pictures(encoder, pictures, whole)
        return whole

    async def _embed_pictures(self, encoder: str, pictures: list[tuple[Path, bytes]], whole: Embedded) -> None:
        """Add their vectors to ``whole``; one that the service refuses is left out, and the others asked again."""
        while pictures:
            try:
                vectors = await self.embed_images(encoder, [data for _, data in pictures])
            except ApiError as error:
                if error.code == "too_many_pixels" and len(pictures) > 1:
                    half = len(pictures) // 2
                    await self._embed_pictures(encoder, pictures[:half], whole)
                    await self._embed_pictures(encoder, pictures[half:], whole)
                    return
                path, _ = pictures.pop(refused_place(error, len(pictures)))
                whole.skipped.append(Skipped(path, error.message))
                continue
            whole.rows.extend((path, vector) for (path, _), vector in zip(pictures, vectors, strict=True))
            return
