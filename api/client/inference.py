"""Calls about encoders: import and export, embeddings, zero-shot classification, generated texts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from api.client.payloads import Json, Progress, Skipped, data_url, without_none
from api.client.transport import MAX_RECONNECTS, ApiError, Transport, parse_events, v1

if TYPE_CHECKING:
    from api.client.zero_shot import ZeroShotResult

MAX_REQUEST_BYTES = 24 << 20  # of image files; base64 adds a third, and the service accepts 64 MiB
INPUTS_PER_REQUEST = 256  # that the service accepts
TOO_MANY = "too_many_items"  # code of errors that a request of fewer inputs does not have
# The service converts an encoder for up to 300 s and examines one for three minutes and a second per
# 20 MiB, beside hashing and copying its files.
ENCODER_TIMEOUT = httpx.Timeout(900.0, connect=10.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A part of a generated text.

    Attributes:
        index: of the image in the request.
        text: the next characters; in the last delta of a text, which is ``whole``, the complete text.
    """

    index: int
    text: str
    whole: bool = False


class InferenceCalls(Transport):
    def encoders(self) -> list[Json]:
        return self.get(v1("encoders"))["items"]

    def encoder(self, id_or_name: str) -> Json:
        return self.get(v1("encoders", id_or_name))

    def encoder_figures(self, id_or_name: str) -> list[Json]:
        """Result rows of every evaluation of the encoder."""
        return self.get(v1("encoders", id_or_name, "figures"))["items"]

    def compare_encoders(self, left: str, right: str, *, paired: bool = True) -> Json:
        return self.get(v1("encoders", "compare"), left=left, right=right, paired=paired)

    def import_encoder(self, name: str, path: str) -> Json:
        """``path``: a directory on the server, as ``save_pretrained`` wrote it."""
        return self.post(v1("encoders"), {"name": name, "path": path}, timeout=ENCODER_TIMEOUT)

    def change_encoder(self, id_or_name: str, *, name: str | None = None, pinned: bool | None = None) -> Json:
        """Rename or pin an encoder; None leaves name or pin as it is."""
        return self.patch(v1("encoders", id_or_name), without_none(name=name, pinned=pinned))

    def delete_encoder(self, id_or_name: str) -> None:
        """With its files, unless something uses the encoder; for its owner and admins."""
        self.remove(v1("encoders", id_or_name))

    def export_encoder(
        self, id_or_name: str, path: str | Path, format: str = "lcl", on_progress: Progress | None = None
    ) -> Path:
        """Write the directory of the encoder as a tar file to ``path``.

        Args:
            format: ``lcl`` for the files as they are, else converted: ``huggingface``, ``openclip``, ``timm``,
                ``onnx``. ApiError 422 says why a conversion is impossible.
            on_progress: receives the bytes so far and the expected total.
        """
        export = v1("encoders", id_or_name, "export")
        return self.download(export, path, on_progress, params=_format(format), timeout=ENCODER_TIMEOUT)

    def encoder_archive(self, id_or_name: str, format: str = "lcl") -> AbstractContextManager[httpx.Response]:
        """The tar file of ``export_encoder`` as a response to stream. ApiError 503 ``busy`` while one is converted."""
        return self.stream(v1("encoders", id_or_name, "export"), params=_format(format), timeout=ENCODER_TIMEOUT)

    def embed_texts(self, encoder: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, in order. More than 256 are sent in several requests."""
        inputs = list(enumerate(texts))
        parts = (inputs[start : start + INPUTS_PER_REQUEST] for start in range(0, len(inputs), INPUTS_PER_REQUEST))
        return [vector for part in parts for _, vector in self._embed(encoder, part)]

    def embed_images(self, encoder: str, images: Sequence[bytes]) -> list[list[float]]:
        """The vector of each image file, in order. Many, or large ones, are sent in several requests."""
        parts = _image_batches(enumerate(images), INPUTS_PER_REQUEST)
        return [vector for part in parts for _, vector in self._embed(encoder, part)]

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
        """Every image file with its vector, in order. Unreadable files are skipped, a restart is waited for.

        Args:
            batch: images in a request; fewer if they are large.
            at_once: concurrent requests.
            on_skip: receives each skipped image with the reason.
            on_progress: receives the number of images processed, skipped ones included, and the total.

        Raises: ApiError if the service refuses for a reason other than an image.
        """
        parts = [files[start : start + batch] for start in range(0, len(files), batch)]
        done = 0
        pool = ThreadPoolExecutor(at_once)
        try:
            for rows, skipped in pool.map(partial(self._embed_batch, encoder), parts):
                done += len(rows) + len(skipped)
                if on_skip is not None:
                    for each in skipped:
                        on_skip(each)
                if on_progress is not None:
                    on_progress(done, len(files))
                yield from rows
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

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
        prompts = classifier.prompts()
        starts = range(0, len(prompts), batch)
        classifier.fit(
            [vector for start in starts for vector in self.embed_texts(encoder, prompts[start : start + batch])]
        )
        result = ZeroShotResult(classifier.classes, classifier.templates)
        total = len(images) if isinstance(images, Sized) else None
        for part in _image_batches(images, batch):
            rows = self._embed(encoder, part, result.skipped)
            if rows:
                result.names.extend(name for name, _ in rows)
                result.probabilities.extend(classifier.probabilities([vector for _, vector in rows]))
            if on_progress is not None:
                on_progress(len(result.names) + len(result.skipped), total)
        return result

    def caption(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> list[str]:
        """``decoding``: prompt, context, max_new_tokens, num_beams, top_p, temperature, seed."""
        body = {"model": encoder, "images": list(map(data_url, images)), **decoding}
        return [item["caption"] for item in self.post(v1("captions"), body, repeatable=True)["data"]]

    def stream_captions(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> Generator[TextDelta]:
        """Captions as they are generated; ``decoding`` as in ``caption``. Closing the generator ends the generation.

        Raises: ApiError, also between two deltas.
        """
        body = {"model": encoder, "images": list(map(data_url, images)), **decoding, "stream": True}
        missing = len(images)
        with self.stream(v1("captions"), "POST", json=body, timeout=STREAM_TIMEOUT, repeatable=True) as response:
            for event in parse_events(response.iter_lines()):
                data = event["data"]
                if event["event"] == "error":
                    raise ApiError.from_body(response.status_code, data)
                if event["event"] == "piece":
                    yield TextDelta(data["index"], data["piece"])
                else:
                    missing -= 1
                    yield TextDelta(data["index"], data["caption"], whole=True)
        if missing:
            raise ApiError(0, "unreachable", "the stream broke off before the text was complete; ask again")

    def continue_document(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> str:
        """The text that continues a document of texts and (bytes) images, in reading order.

        ``decoding``: max_new_tokens, num_beams, top_p, temperature, seed.
        """
        parts = [part if isinstance(part, str) else {"image": data_url(part)} for part in document]
        return self.post(v1("continuations"), {"model": encoder, "document": parts, **decoding}, repeatable=True)[
            "text"
        ]

    def _embed_batch(self, encoder: str, paths: Sequence[Path]) -> tuple[list[tuple[Path, list[float]]], list[Skipped]]:
        """Vectors of the readable images among some files, in order, and the files without one."""
        skipped: list[Skipped] = []

        def contents() -> Iterator[tuple[Path, bytes]]:
            for path in paths:
                try:
                    yield path, path.read_bytes()
                except OSError as error:
                    skipped.append(Skipped(path, error.strerror or str(error)))

        parts = _image_batches(contents(), len(paths))
        return [row for part in parts for row in self._embed(encoder, part, skipped, MAX_RECONNECTS + 1)], skipped

    def _embed(
        self,
        encoder: str,
        inputs: list[tuple[Any, str]],
        skipped: list[Skipped] | None = None,
        attempts: int | None = None,
    ) -> list[tuple[Any, list[float]]]:
        """Vectors of texts or data URLs, in halves where they are too many or too large for one request.

        Args:
            skipped: receives each image that the service refuses, which is found by halves, too; None: an error.
        """
        body = {"model": encoder, "input": [content for _, content in inputs]}
        try:
            answer = self.post(v1("embeddings"), body, repeatable=True, attempts=attempts)
            return [(name, item["embedding"]) for (name, _), item in zip(inputs, answer["data"], strict=True)]
        except ApiError as error:
            too_much = error.status == 413 or error.code == TOO_MANY
            of_image = error.status == 422 and error.code.startswith("image_")
            if len(inputs) == 1 and skipped is not None and (too_much or of_image):
                skipped.append(Skipped(inputs[0][0], error.message))
                return []
            if len(inputs) == 1 or not (too_much or (of_image and skipped is not None)):
                raise
        half = len(inputs) // 2
        parts = (inputs[:half], inputs[half:])
        return [row for part in parts for row in self._embed(encoder, part, skipped, attempts)]


def _image_batches(images: Iterable[tuple[Any, bytes]], count: int) -> Iterator[list[tuple[Any, str]]]:
    """Named images as data URLs, at most ``count`` together, and of as many bytes as a request may have."""
    batch: list[tuple[Any, str]] = []
    size = 0
    for name, data in images:
        if batch and (len(batch) == count or size + len(data) > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((name, data_url(data)))
        size += len(data)
    if batch:
        yield batch


def _format(name: str) -> dict[str, str]:
    return {} if name == "lcl" else {"format": name}
