"""Calls about encoders: import and export, embeddings, zero-shot classification, generated texts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from api.client.payloads import Json, Progress, Skipped, data_url, without_none
from api.client.transport import MAX_RECONNECTS, ApiError, Transport, parse_events, v1

if TYPE_CHECKING:
    from api.client.zero_shot import ZeroShotResult

MAX_REQUEST_BYTES = 24 << 20  # of image files; base64 adds a third, and the service accepts 64 MiB
INPUTS_PER_REQUEST = 256  # that the service accepts
IMAGE_ERRORS = ("image_unreadable", "too_large")  # codes of a request with an image that is refused
TOO_MANY = "too_many_items"  # code of errors that a request of fewer inputs does not have
# The service converts an encoder for up to 300 s and examines one for three minutes and a second per
# 20 MiB, beside hashing and copying its files.
ENCODER_TIMEOUT = httpx.Timeout(900.0, connect=10.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next characters of the text of an image, by its index; the last delta, ``whole``, has the complete text."""

    index: int
    text: str
    whole: bool = False


class InferenceCalls(Transport):
    def encoders(self, order: str = "newest") -> list[Json]:
        """``order``: ``newest``, or ``quality`` for the best first, each with its main ``figures`` and ``badge``."""
        return self.get(v1("encoders"), order=order)["items"]

    def encoder(self, id_or_name: str) -> Json:
        return self.get(v1("encoders", id_or_name))

    def encoder_figures(self, id_or_name: str) -> list[Json]:
        """Result rows of every evaluation of the encoder."""
        return self.get(v1("encoders", id_or_name, "figures"))["items"]

    def encoder_card(self, id_or_name: str) -> Json:
        """Its README, licence, figures, spec of its training and collections."""
        return self.get(v1("encoders", id_or_name, "card"))

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
        """Write the encoder as a tar file: as it is, or as ``huggingface``, ``timm`` or ``onnx``.

        ApiError 422 says why a conversion is impossible.
        """
        export = v1("encoders", id_or_name, "export")
        return self.download(export, path, on_progress, params=_format(format), timeout=ENCODER_TIMEOUT)

    def encoder_archive(self, id_or_name: str, format: str = "lcl") -> AbstractContextManager[httpx.Response]:
        """The tar file of ``export_encoder`` as a response to stream. ApiError 503 ``busy`` while one is converted."""
        return self.stream(v1("encoders", id_or_name, "export"), params=_format(format), timeout=ENCODER_TIMEOUT)

    def embed_texts(self, encoder: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, in order. More than 256 are sent in several requests."""
        return [vector for rows in self._embed(encoder, enumerate(texts)) for _, vector in rows]

    def embed_images(self, encoder: str, images: Sequence[bytes]) -> list[list[float]]:
        """The vector of each image file, in order. Many, or large ones, are sent in several requests."""
        return [vector for rows in self._embed(encoder, enumerate(images)) for _, vector in rows]

    def embed_files(
        self,
        encoder: str,
        files: Sequence[Path],
        *,
        batch: int = 32,
        at_once: int = 4,
        on_skip: Callable[[Skipped], None] = lambda _: None,
        on_progress: Progress = lambda done, total: None,
    ) -> Generator[tuple[Path, list[float]]]:
        """Every image file with its vector, in order; ``on_skip`` receives those without one. A restart is waited for.

        ``batch``: images in a request, fewer if they are large; ``at_once``: concurrent requests.
        Raises: ApiError if the service refuses for a reason other than an image.
        """

        def embed_part(paths: Sequence[Path]) -> tuple[list[tuple[Path, list[float]]], list[Skipped]]:
            skipped: list[Skipped] = []
            parts = self._embed(encoder, zip(paths, paths, strict=True), batch, skipped, MAX_RECONNECTS + 1)
            return list(chain.from_iterable(parts)), skipped

        done = 0
        pool = ThreadPoolExecutor(at_once)
        try:
            for rows, skipped in pool.map(embed_part, [files[at : at + batch] for at in range(0, len(files), batch)]):
                for each in skipped:
                    on_skip(each)
                done += len(rows) + len(skipped)
                on_progress(done, len(files))
                yield from rows
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def zero_shot(
        self,
        encoder: str,
        images: Iterable[tuple[Path, bytes | Path]],
        classes: Sequence[str],
        templates: Sequence[str] = (),
        *,
        batch: int = 32,
        on_progress: Progress = lambda done, total: None,
    ) -> ZeroShotResult:
        """Classify images by the names of the classes, without training. Unreadable images are skipped.

        Args:
            images: names, and bytes or files, which are read as they are sent.
            templates: texts with ``{}`` for the name of the class, averaged; none: those of the evaluation.
            batch: images in a request; fewer if they are large.

        Raises: ApiError if the service refuses for a reason other than an image; UserError for classes or templates.
        """
        from api.client.zero_shot import ZeroShotClassifier, ZeroShotResult  # numpy, which other calls do without

        classifier = ZeroShotClassifier(classes, templates)
        classifier.fit(self.embed_texts(encoder, classifier.prompts()))
        result = ZeroShotResult(classifier.classes, classifier.templates)
        total = len(images) if isinstance(images, Sized) else None
        for rows in self._embed(encoder, images, batch, result.skipped):
            result.names.extend(name for name, _ in rows)
            if rows:
                result.probabilities.extend(classifier.probabilities([vector for _, vector in rows]))
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
        body = {"model": encoder, "document": parts, **decoding}
        return self.post(v1("continuations"), body, repeatable=True)["text"]

    def _embed(
        self,
        encoder: str,
        inputs: Iterable[tuple[Any, str | bytes | Path]],
        count: int | None = None,
        skipped: list[Skipped] | None = None,
        attempts: int | None = None,
    ) -> Generator[list[tuple[Any, list[float]]]]:
        """Vectors of named texts, images or image files, of one request after the other.

        Args:
            count: inputs in a request; default: as many as the service accepts.
            skipped: receives each image that cannot be read; None: an error.
        """
        batch: list[tuple[Any, str]] = []
        size = 0
        for name, content in inputs:
            try:
                data = content.read_bytes() if isinstance(content, Path) else content
            except OSError as error:
                if skipped is None:
                    raise
                skipped.append(Skipped(name, error.strerror or str(error)))
                continue
            if batch and (len(batch) == (count or INPUTS_PER_REQUEST) or size + len(data) > MAX_REQUEST_BYTES):
                yield self._embed_batch(encoder, batch, skipped, attempts)
                batch, size = [], 0
            batch.append((name, data if isinstance(data, str) else data_url(data)))
            size += len(data)
        if batch:
            yield self._embed_batch(encoder, batch, skipped, attempts)

    def _embed_batch(
        self, encoder: str, inputs: list[tuple[Any, str]], skipped: list[Skipped] | None, attempts: int | None
    ) -> list[tuple[Any, list[float]]]:
        """In halves where they are too many or too large for one request, or to find the image that is refused."""
        body = {"model": encoder, "input": [content for _, content in inputs]}
        try:
            answer = self.post(v1("embeddings"), body, repeatable=True, attempts=attempts)
            return [(name, item["embedding"]) for (name, _), item in zip(inputs, answer["data"], strict=True)]
        except ApiError as error:
            too_much = error.status == 413 or error.code == TOO_MANY
            of_image = error.status == 422 and error.code in IMAGE_ERRORS
            if len(inputs) == 1 and skipped is not None and (too_much or of_image):
                skipped.append(Skipped(inputs[0][0], error.message))
                return []
            if len(inputs) == 1 or not (too_much or (of_image and skipped is not None)):
                raise
        half = len(inputs) // 2
        parts = (inputs[:half], inputs[half:])
        return [row for part in parts for row in self._embed_batch(encoder, part, skipped, attempts)]


def _format(name: str) -> dict[str, str]:
    return {} if name == "lcl" else {"format": name}
