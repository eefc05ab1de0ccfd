"""Calls about encoders and what they compute."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client.transport import Progress, Transport

Json = dict[str, Any]
SIGNATURES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))


def data_url(image: bytes) -> str:
    """An encoded picture as a data URL; the server looks at the bytes themselves."""
    kind = next((kind for start, kind in SIGNATURES if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


class EncoderCalls(Transport):
    def encoders(self) -> list[Json]:
        return self.get("/v1/encoders")["items"]

    def encoder(self, id_or_name: str) -> Json:
        return self.get(f"/v1/encoders/{quote(id_or_name, safe='')}")

    def encoder_figures(self, id_or_name: str) -> list[Json]:
        """Rows of every evaluation of this encoder."""
        return self.get(f"/v1/encoders/{quote(id_or_name, safe='')}/figures")["items"]

    def compare_encoders(self, left: str, right: str, *, paired: bool = True) -> Json:
        return self.get("/v1/encoders/compare", left=left, right=right, paired=paired)

    def import_encoder(self, name: str, path: str, allow_twin: bool = False) -> Json:
        """``path`` is a directory on the server, as ``save_pretrained`` wrote it.

        ``allow_twin``: also if its weights are known and other files of it differ; for who owns the known encoder.
        """
        twin = {"allow_twin": True} if allow_twin else {}
        return self.post("/v1/encoders", {"name": name, "path": path, **twin})

    def delete_encoder(self, id_or_name: str) -> None:
        """With its files, unless something needs it; for its owner and admins."""
        self.send("DELETE", f"/v1/encoders/{quote(id_or_name, safe='')}")

    def export_encoder(
        self, id_or_name: str, path: str | Path, format: str = "lcl", on_progress: Progress | None = None
    ) -> Path:
        """Write the encoder's directory as a tar file to ``path``.

        Args:
            format: ``lcl`` as it is, else rewritten: ``huggingface``, ``timm``, ``onnx``; ApiError 422 says why not.
            on_progress: gets the bytes so far, and of how many.
        """
        query = {} if format == "lcl" else {"format": format}
        return self.download(f"/v1/encoders/{quote(id_or_name, safe='')}/export", path, on_progress, params=query)

    @contextmanager
    def encoder_archive(self, id_or_name: str, format: str = "lcl") -> Iterator[httpx.Response]:
        """The same tar as it comes, kept nowhere."""
        query = {} if format == "lcl" else {"format": format}
        with self.stream(f"/v1/encoders/{quote(id_or_name, safe='')}/export", params=query) as response:
            yield response

    def embed_texts(self, encoder: str, texts: Sequence[str]) -> list[list[float]]:
        return self._embed(encoder, list(texts))

    def embed_images(self, encoder: str, images: Sequence[bytes]) -> list[list[float]]:
        return self._embed(encoder, [data_url(image) for image in images])

    def attention(self, encoder: str, images: Sequence[bytes], *, heads: bool = True) -> list[Json]:
        """{"grid", "box", "mean", "heads"} of each picture: how much each patch weighs in its vector."""
        body = {"model": encoder, "images": [data_url(image) for image in images], "heads": heads}
        return self.post("/v1/attention", body, repeatable=True)["data"]

    def caption(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> list[str]:
        """``decoding``: prompt, context, max_new_tokens, num_beams, top_p, temperature, seed."""
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        answer = self.post("/v1/captions", body, repeatable=True)
        return [item["caption"] for item in answer["data"]]

    def _embed(self, encoder: str, inputs: list[str]) -> list[list[float]]:
        answer = self.post("/v1/embeddings", {"model": encoder, "input": inputs}, repeatable=True)
        return [item["embedding"] for item in answer["data"]]
