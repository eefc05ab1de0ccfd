"""Calls about encoders: import and export, embeddings, attention maps, captions and continuations."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from api.client._sync.blocking import in_parallel, read_bytes
from api.client._sync.runs import parse_events
from api.client._sync.transport import Progress, Transport
from api.client.errors import ApiError

Json = dict[str, Any]
IMAGE_SIGNATURES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))


def data_url(image: bytes) -> str:
    """An encoded picture as a data URL; the server looks at the bytes themselves."""
    kind = next((kind for start, kind in IMAGE_SIGNATURES if image.startswith(start)), "png")
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


TextDeltas = Generator["TextDelta", None, None]  # closing it ends the writing
STREAM_IDLE_SECONDS = 60.0  # the service pings every 15 s


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A part of a text while it is written.

    Attributes:
        index: of the picture in the request.
        text: what comes next; of the last piece of a text, which is ``whole``, all of it once more.
    """

    index: int
    text: str
    whole: bool = False


class GenerationCalls(Transport):
    def stream_captions(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> TextDeltas:
        """Captions as they are written; ``decoding`` as ``caption``'s.

        Raises: ApiError, also on the way.
        """
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        return self._pieces("/v1/captions", body, len(images))

    def continue_document(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> str:
        """The text that comes after texts and (bytes) pictures.

        ``decoding``: max_new_tokens, num_beams, top_p, temperature, seed.
        """
        return self.post("/v1/continuations", _document_body(encoder, document, decoding), repeatable=True)["text"]

    def stream_continuation(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> TextDeltas:
        """``continue_document`` as it is written. Raises: ApiError."""
        return self._pieces("/v1/continuations", _document_body(encoder, document, decoding), 1)

    def _pieces(self, path: str, body: Json, missing: int) -> TextDeltas:
        timeout = httpx.Timeout(STREAM_IDLE_SECONDS, connect=10.0)
        with self.stream(path, "POST", json={**body, "stream": True}, timeout=timeout) as response:
            for event in parse_events(response.iter_lines()):
                piece = _text_delta(event, response.status_code)
                missing -= piece.whole
                yield piece
        if missing:
            raise ApiError(0, "unreachable", "the stream broke off before the text was complete; ask again")


def _document_body(encoder: str, document: Sequence[str | bytes], decoding: Json) -> Json:
    parts = [part if isinstance(part, str) else {"image": data_url(part)} for part in document]
    return {"model": encoder, "document": parts, **decoding}


def _text_delta(event: Json, status: int) -> TextDelta:
    """Raises: ApiError for an error on the way, with the status that the answer had begun with."""
    data = event["data"]
    if event["event"] == "error":
        facts = data["error"]
        raise ApiError(status, facts["code"], facts["message"], facts.get("field"))
    if event["event"] == "piece":
        return TextDelta(data["index"], data["piece"])
    return TextDelta(data["index"], data["caption"] if "caption" in data else data["text"], whole=True)


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MAX_REQUEST_BYTES = 24 << 20  # bytes of pictures; a third more as text, and the service takes 64 MiB
_INPUT_FIELD = re.compile(r"input\.(\d+)")


class Skipped(NamedTuple):
    """A picture that has no vector, and why."""

    path: Path
    reason: str


class EmbeddedBatch(NamedTuple):
    """What came of some files: vectors of those that are pictures, in order."""

    rows: list[tuple[Path, list[float]]]
    skipped: list[Skipped]


class FolderCalls(EncoderCalls):
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
        paths = list_images(Path(folder))
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

    def _embed_files(self, encoder: str, paths: Sequence[Path]) -> EmbeddedBatch:
        whole = EmbeddedBatch([], [])
        pictures: list[tuple[Path, bytes]] = []
        for path in paths:
            try:
                data = read_bytes(path)
            except OSError as error:
                whole.skipped.append(Skipped(path, error.strerror or str(error)))
                continue
            if pictures and sum(len(each) for _, each in pictures) + len(data) > MAX_REQUEST_BYTES:
                self._embed_pictures(encoder, pictures, whole)
                pictures = []
            pictures.append((path, data))
        self._embed_pictures(encoder, pictures, whole)
        return whole

    def _embed_pictures(self, encoder: str, pictures: list[tuple[Path, bytes]], whole: EmbeddedBatch) -> None:
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
                path, _ = pictures.pop(rejected_index(error, len(pictures)))
                whole.skipped.append(Skipped(path, error.message))
                continue
            whole.rows.extend((path, vector) for (path, _), vector in zip(pictures, vectors, strict=True))
            return


def list_images(folder: Path) -> list[Path]:
    """Files below ``folder`` that are called like pictures, sorted. Raises: NotADirectoryError."""
    if not folder.is_dir():
        raise NotADirectoryError(20, "there is no such folder", str(folder))
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())


def rejected_index(error: ApiError, count: int) -> int:
    """Which of ``count`` pictures the service refused. Raises: the error itself, when it is not about one of them."""
    match = _INPUT_FIELD.fullmatch(error.field or "")
    if match and error.status == 422 and error.code.startswith("image_") and int(match[1]) < count:
        return int(match[1])
    if error.status == 413 and count == 1:
        return 0
    raise error
