# Made from api/client/inference.py by `python -m api.client.derivation`: change that one.
"""Calls about encoders and what they compute."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client.aio.transport import AsyncTransport
from api.client.inference import Json, data_url
from api.client.transport import Progress


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
