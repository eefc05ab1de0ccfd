"""Calls about encoders: import and export, embeddings, attention maps, captions and continuations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx

from api.client.errors import ApiError
from api.client.payloads import (
    EmbeddedBatch,
    Json,
    Progress,
    Skipped,
    TextDelta,
    data_url,
    document_body,
    image_batches,
    list_images,
    of_longer_list,
    rejected_index,
    without_none,
)
from api.client.transport import MAX_RECONNECTS, Transport, parse_events

if TYPE_CHECKING:
    from api.client.zero_shot import ZeroShotResult

Input = TypeVar("Input")
Output = TypeVar("Output")

MAX_REQUEST_BYTES = 24 << 20  # of image files; base64 adds a third, and the service accepts 64 MiB
INPUTS_PER_REQUEST = 256  # that the service accepts
SMALLER_PARTS = ("too_many_pixels", "bad_count")  # codes of errors that a request of fewer inputs does not have
# The service converts an encoder for up to 300 s and examines one for three minutes and a second per
# 20 MiB, beside hashing and copying its files.
ENCODER_SECONDS = 900.0
ENCODER_TIMEOUT = httpx.Timeout(ENCODER_SECONDS, connect=10.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s


def _encoder_path(id_or_name: str) -> str:
    return f"/v1/encoders/{quote(id_or_name, safe='')}"


class EncoderCalls(Transport):
    def encoders(self) -> list[Json]:
        return self.get("/v1/encoders")["items"]

    def encoder(self, id_or_name: str) -> Json:
        return self.get(_encoder_path(id_or_name))

    def encoder_figures(self, id_or_name: str) -> list[Json]:
        """Result rows of every evaluation of the encoder."""
        return self.get(f"{_encoder_path(id_or_name)}/figures")["items"]

    def compare_encoders(self, left: str, right: str, *, paired: bool = True) -> Json:
        return self.get("/v1/encoders/compare", left=left, right=right, paired=paired)

    def import_encoder(self, name: str, path: str) -> Json:
        """``path``: a directory on the server, as ``save_pretrained`` wrote it."""
        return self.post("/v1/encoders", {"name": name, "path": path}, timeout=ENCODER_TIMEOUT)

    def change_encoder(self, id_or_name: str, *, name: str | None = None, pinned: bool | None = None) -> Json:
        """Rename or pin an encoder; None leaves name or pin as it is."""
        return self.patch(_encoder_path(id_or_name), without_none(name=name, pinned=pinned))

    def delete_encoder(self, id_or_name: str) -> None:
        """With its files, unless something uses the encoder; for its owner and admins."""
        self.send("DELETE", _encoder_path(id_or_name))

    def export_encoder(
        self, id_or_name: str, path: str | Path, format: str = "lcl", on_progress: Progress | None = None
    ) -> Path:
        """Write the directory of the encoder as a tar file to ``path``.

        Args:
            format: ``lcl`` for the files as they are, else converted: ``huggingface``, ``timm``, ``onnx``. ApiError 422
                says why a conversion is impossible.
            on_progress: receives the bytes so far and the expected total.
        """
        query = {} if format == "lcl" else {"format": format}
        export = f"{_encoder_path(id_or_name)}/export"
        return self.download(export, path, on_progress, params=query, timeout=ENCODER_TIMEOUT)

    @contextmanager
    def encoder_archive(self, id_or_name: str, format: str = "lcl") -> Generator[httpx.Response]:
        """The tar file of ``export_encoder`` as a response to stream. ApiError 503 ``busy`` while one is converted."""
        query = {} if format == "lcl" else {"format": format}
        path = f"{_encoder_path(id_or_name)}/export"
        with self.stream(path, params=query, timeout=ENCODER_TIMEOUT) as response:
            yield response

    def embed_texts(self, encoder: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, in order. More than 256 are sent in several requests."""
        inputs, vectors = list(texts), list[list[float]]()
        for start in range(0, len(inputs), INPUTS_PER_REQUEST):
            vectors += self._embed(encoder, inputs[start : start + INPUTS_PER_REQUEST], start)
        return vectors

    def embed_images(self, encoder: str, images: Sequence[bytes]) -> list[list[float]]:
        """The vector of each image file, in order. Many, or large ones, are sent in several requests."""
        vectors: list[list[float]] = []
        for part in image_batches(enumerate(images), INPUTS_PER_REQUEST, MAX_REQUEST_BYTES):
            vectors += self._embed(encoder, [data_url(image) for _, image in part], part[0][0])
        return vectors

    def embed_folder(
        self,
        encoder: str,
        folder: str | Path,
        *,
        batch: int = 32,
        at_once: int = 4,
        on_skip: Callable[[Skipped], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Generator[tuple[Path, list[float]]]:
        """Every image below ``folder`` with its vector, sorted by path. Unreadable files are skipped.

        Images are files with a suffix of ``payloads.IMAGE_SUFFIXES``. A restart of the service is waited for.

        Args:
            batch: images in a request; fewer if they are large.
            at_once: concurrent requests.
            on_skip: receives each skipped image with the reason.
            on_progress: receives the number of images processed, skipped ones included, and the total.

        Raises: ApiError if the service refuses for a reason other than an image; NotADirectoryError.
        """
        return self.embed_files(
            encoder, list_images(Path(folder)), batch=batch, at_once=at_once, on_skip=on_skip, on_progress=on_progress
        )

    def embed_files(
        self,
        encoder: str,
        files: Sequence[Path],
        *,
        batch: int = 32,
        at_once: int = 4,
        on_skip: Callable[[Skipped], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Generator[tuple[Path, list[float]]]:
        """Every image file with its vector, in the order of ``files``; otherwise as ``embed_folder``."""
        batches = [files[start : start + batch] for start in range(0, len(files), batch)]
        done = 0
        for result in parallel_map(partial(self._embed_files, encoder), batches, at_once):
            done += len(result.rows) + len(result.skipped)
            if on_skip is not None:
                for skipped in result.skipped:
                    on_skip(skipped)
            if on_progress is not None:
                on_progress(done, len(files))
            yield from result.rows

    def zero_shot(
        self,
        encoder: str,
        images: Iterable[tuple[Path, bytes]],
        classes: Sequence[str],
        templates: Sequence[str] = (),
        *,
        batch: int = 32,
        on_progress: Progress | None = None,
    ) -> ZeroShotResult:
        """Classify images by the names of the classes, without training. Unreadable images are skipped.

        Args:
            images: names and bytes; read as they are sent.
            templates: texts with ``{}`` for the name of the class, averaged; none: those of the evaluation.
            batch: texts or images in a request; fewer images if they are large.
            on_progress: receives the number of images processed, skipped ones included, and the total if it is known.

        Raises: ApiError if the service refuses for a reason other than an image; UserError for classes or templates.
        """
        from api.client.zero_shot import ZeroShotClassifier, ZeroShotResult  # numpy, which other calls do without

        classifier = ZeroShotClassifier(classes, templates)
        prompts, vectors = classifier.prompts(), []
        for start in range(0, len(prompts), batch):
            vectors += self.embed_texts(encoder, prompts[start : start + batch])
        classifier.fit(vectors)
        result = ZeroShotResult(classifier.classes, classifier.templates)
        total = len(images) if isinstance(images, Sized) else None
        for part in image_batches(images, batch, MAX_REQUEST_BYTES):
            embedded = EmbeddedBatch([], result.skipped)
            self._embed_into(embedded, encoder, part)
            if embedded.rows:
                result.names.extend(name for name, _ in embedded.rows)
                result.probabilities.extend(classifier.probabilities([vector for _, vector in embedded.rows]))
            if on_progress is not None:
                on_progress(len(result.names) + len(result.skipped), total)
        return result

    def attention(self, encoder: str, images: Sequence[bytes], *, heads: bool = True) -> list[Json]:
        """{"grid", "box", "mean", "heads"} of each image: the weight of each patch in the image's vector."""
        body = {"model": encoder, "images": [data_url(image) for image in images], "heads": heads}
        return self.post("/v1/attention", body, repeatable=True)["data"]

    def caption(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> list[str]:
        """``decoding``: prompt, context, max_new_tokens, num_beams, top_p, temperature, seed."""
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        response = self.post("/v1/captions", body, repeatable=True)
        return [item["caption"] for item in response["data"]]

    def stream_captions(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> Generator[TextDelta]:
        """Captions as they are generated; ``decoding`` as in ``caption``. Closing the generator ends the generation.

        Raises: ApiError, also between two deltas.
        """
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        return self._text_deltas("/v1/captions", body, len(images))

    def continue_document(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> str:
        """The text that continues a document of texts and (bytes) images.

        ``decoding``: max_new_tokens, num_beams, top_p, temperature, seed.
        """
        body = document_body(encoder, document, decoding)
        return self.post("/v1/continuations", body, repeatable=True)["text"]

    def _embed(self, encoder: str, inputs: list[str], start: int = 0, attempts: int = 1) -> list[list[float]]:
        """Vectors of the inputs from number ``start`` of a list on; in smaller requests where they are too many or too
        large together.

        Raises: ApiError, whose field has the number in the list.
        """
        try:
            body = {"model": encoder, "input": inputs}
            response = self.post("/v1/embeddings", body, repeatable=True, attempts=attempts)
            return [item["embedding"] for item in response["data"]]
        except ApiError as error:
            half = len(inputs) // 2
            if not half or (error.code not in SMALLER_PARTS and error.status != 413):
                raise of_longer_list(error, start) from None
        vectors = self._embed(encoder, inputs[:half], start, attempts)
        return vectors + self._embed(encoder, inputs[half:], start + half, attempts)

    def _embed_files(self, encoder: str, paths: Sequence[Path]) -> EmbeddedBatch:
        result = EmbeddedBatch([], [])

        def contents() -> Iterator[tuple[Path, bytes]]:
            for path in paths:
                try:
                    yield path, path.read_bytes()
                except OSError as error:
                    result.skipped.append(Skipped(path, error.strerror or str(error)))

        for part in image_batches(contents(), len(paths), MAX_REQUEST_BYTES):
            self._embed_into(result, encoder, part)
        return result

    def _embed_into(self, result: EmbeddedBatch, encoder: str, images: list[tuple[Path, bytes]]) -> None:
        """Add the vectors of ``images`` to ``result``. A rejected image is skipped and the others are sent again."""
        while images:
            try:
                vectors = self._embed(encoder, [data_url(data) for _, data in images], attempts=MAX_RECONNECTS + 1)
            except ApiError as error:
                path, _ = images.pop(rejected_index(error, len(images)))
                result.skipped.append(Skipped(path, error.message))
            else:
                result.rows.extend((path, vector) for (path, _), vector in zip(images, vectors, strict=True))
                return

    def _text_deltas(self, path: str, body: Json, texts: int) -> Generator[TextDelta]:
        missing = texts
        sent: Json = {"json": {**body, "stream": True}, "timeout": STREAM_TIMEOUT, "repeatable": True}
        with self.stream(path, "POST", **sent) as response:
            for event in parse_events(response.iter_lines()):
                delta = TextDelta.from_event(event, response.status_code)
                missing -= delta.whole
                yield delta
        if missing:
            raise ApiError(0, "unreachable", "the stream broke off before the text was complete; ask again")


def parallel_map(call: Callable[[Input], Output], items: Iterable[Input], limit: int) -> Generator[Output]:
    """``call`` of each item in order, ``limit`` at a time, with the caller's context: an ``httpx.Auth`` may read it."""
    pool = ThreadPoolExecutor(limit)
    pending: deque[Future[Output]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(copy_context().run, call, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
