"""Calls about encoders: import and export, embeddings, attention maps, captions and continuations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client._async.blocking import in_parallel, read_bytes
from api.client._async.runs import parse_events
from api.client._async.transport import AsyncTransport
from api.client._sync.inference import (
    MAX_REQUEST_BYTES,
    STREAM_IDLE_SECONDS,
    EmbeddedBatch,
    Json,
    Skipped,
    TextDelta,
    _document_body,
    _text_delta,
    data_url,
    list_images,
    rejected_index,
)
from api.client._sync.transport import Progress
from api.client.errors import ApiError


class AsyncEncoderCalls(AsyncTransport):
    async def encoders(self) -> list[Json]:
        return (await self.get("/v1/encoders"))["items"]

    async def encoder(self, id_or_name: str) -> Json:
        return await self.get(f"/v1/encoders/{quote(id_or_name, safe='')}")

    async def encoder_figures(self, id_or_name: str) -> list[Json]:
        """Rows of every evaluation of this encoder."""
        return (await self.get(f"/v1/encoders/{quote(id_or_name, safe='')}/figures"))["items"]

    async def compare_encoders(self, left: str, right: str, *, paired: bool = True) -> Json:
        return await self.get("/v1/encoders/compare", left=left, right=right, paired=paired)

    async def import_encoder(self, name: str, path: str, allow_twin: bool = False) -> Json:
        """``path`` is a directory on the server, as ``save_pretrained`` wrote it.

        ``allow_twin``: also if its weights are known and other files of it differ; for who owns the known encoder.
        """
        twin = {"allow_twin": True} if allow_twin else {}
        return await self.post("/v1/encoders", {"name": name, "path": path, **twin})

    async def delete_encoder(self, id_or_name: str) -> None:
        """With its files, unless something needs it; for its owner and admins."""
        await self.send("DELETE", f"/v1/encoders/{quote(id_or_name, safe='')}")

    async def export_encoder(
        self, id_or_name: str, path: str | Path, format: str = "lcl", on_progress: Progress | None = None
    ) -> Path:
        """Write the encoder's directory as a tar file to ``path``.

        Args:
            format: ``lcl`` as it is, else rewritten: ``huggingface``, ``timm``, ``onnx``; ApiError 422 says why not.
            on_progress: gets the bytes so far, and of how many.
        """
        query = {} if format == "lcl" else {"format": format}
        return await self.download(f"/v1/encoders/{quote(id_or_name, safe='')}/export", path, on_progress, params=query)

    @asynccontextmanager
    async def encoder_archive(self, id_or_name: str, format: str = "lcl") -> AsyncGenerator[httpx.Response]:
        """The same tar as it comes, kept nowhere."""
        query = {} if format == "lcl" else {"format": format}
        async with self.stream(f"/v1/encoders/{quote(id_or_name, safe='')}/export", params=query) as response:
            yield response

    async def embed_texts(self, encoder: str, texts: Sequence[str]) -> list[list[float]]:
        return await self._embed(encoder, list(texts))

    async def embed_images(self, encoder: str, images: Sequence[bytes]) -> list[list[float]]:
        return await self._embed(encoder, [data_url(image) for image in images])

    async def attention(self, encoder: str, images: Sequence[bytes], *, heads: bool = True) -> list[Json]:
        """{"grid", "box", "mean", "heads"} of each picture: how much each patch weighs in its vector."""
        body = {"model": encoder, "images": [data_url(image) for image in images], "heads": heads}
        return (await self.post("/v1/attention", body, repeatable=True))["data"]

    async def caption(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> list[str]:
        """``decoding``: prompt, context, max_new_tokens, num_beams, top_p, temperature, seed."""
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        answer = await self.post("/v1/captions", body, repeatable=True)
        return [item["caption"] for item in answer["data"]]

    async def _embed(self, encoder: str, inputs: list[str]) -> list[list[float]]:
        answer = await self.post("/v1/embeddings", {"model": encoder, "input": inputs}, repeatable=True)
        return [item["embedding"] for item in answer["data"]]


TextDeltas = AsyncGenerator["TextDelta"]  # closing it ends the writing


class AsyncGenerationCalls(AsyncTransport):
    def stream_captions(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> TextDeltas:
        """Captions as they are written; ``decoding`` as ``caption``'s.

        Raises: ApiError, also on the way.
        """
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        return self._pieces("/v1/captions", body, len(images))

    async def continue_document(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> str:
        """The text that comes after texts and (bytes) pictures.

        ``decoding``: max_new_tokens, num_beams, top_p, temperature, seed.
        """
        return (await self.post("/v1/continuations", _document_body(encoder, document, decoding), repeatable=True))[
            "text"
        ]

    def stream_continuation(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> TextDeltas:
        """``continue_document`` as it is written. Raises: ApiError."""
        return self._pieces("/v1/continuations", _document_body(encoder, document, decoding), 1)

    async def _pieces(self, path: str, body: Json, missing: int) -> TextDeltas:
        timeout = httpx.Timeout(STREAM_IDLE_SECONDS, connect=10.0)
        async with self.stream(path, "POST", json={**body, "stream": True}, timeout=timeout) as response:
            async with aclosing(parse_events(response.aiter_lines())) as pieces:
                async for event in pieces:
                    piece = _text_delta(event, response.status_code)
                    missing -= piece.whole
                    yield piece
        if missing:
            raise ApiError(0, "unreachable", "the stream broke off before the text was complete; ask again")


class AsyncFolderCalls(AsyncEncoderCalls):
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
        paths = list_images(Path(folder))
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

    async def _embed_files(self, encoder: str, paths: Sequence[Path]) -> EmbeddedBatch:
        whole = EmbeddedBatch([], [])
        pictures: list[tuple[Path, bytes]] = []
        for path in paths:
            try:
                data = await read_bytes(path)
            except OSError as error:
                whole.skipped.append(Skipped(path, error.strerror or str(error)))
                continue
            if pictures and sum(len(each) for _, each in pictures) + len(data) > MAX_REQUEST_BYTES:
                await self._embed_pictures(encoder, pictures, whole)
                pictures = []
            pictures.append((path, data))
        await self._embed_pictures(encoder, pictures, whole)
        return whole

    async def _embed_pictures(self, encoder: str, pictures: list[tuple[Path, bytes]], whole: EmbeddedBatch) -> None:
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
                path, _ = pictures.pop(rejected_index(error, len(pictures)))
                whole.skipped.append(Skipped(path, error.message))
                continue
            whole.rows.extend((path, vector) for (path, _), vector in zip(pictures, vectors, strict=True))
            return
