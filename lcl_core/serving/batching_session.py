"""An encoder that many clients share: their requests meet in one owner thread's batches."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lcl_core.serving.batcher import Batcher, Observe
from lcl_core.serving.futures import failed, gather, wait_for
from lcl_core.serving.options import CaptionOptions
from lcl_core.serving.out_of_memory import steps_within_memory, within_memory
from lcl_core.serving.prepared import Prepared
from lcl_core.serving.readers import Reader
from lcl_core.serving.texts_apart import TextsApart

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.serving.session import EncoderSession

_WRITING = ("captions", "continuations")


@dataclass(frozen=True, slots=True)
class _Job:
    """Requests with equal jobs may share a batch."""

    kind: str
    options: CaptionOptions | None = None
    alone: object = None  # documents differ in length: each keeps to itself


class BatchingSession:
    """Three ways to ask, each for images, texts and captions.

    ``embed_images`` blocks, ``embed_images_async`` is awaited, ``submit_images`` gives one future an item, so
    that a bad item fails alone. Images are prepared in the caller's thread, so that the owner thread has only the
    model to run; whoever decodes one after the other prepares each at once (``prepare``) and drops it. Texts are
    written a token at a time, side by side, and batches of vectors are made in between. All raise Overloaded when the
    queue is full and Unloaded after ``close``. When nobody holds it any longer, its thread finishes what waits and
    leaves.

    Args:
        texts_apart: read texts in a process of their own while many are asked for; on the CPU alone.
    """

    def __init__(
        self,
        session: EncoderSession,
        *,
        max_batch: int = 64,
        max_wait: float = 0.005,
        max_queue: int = 512,
        observe: Observe | None = None,
        texts_apart: bool = False,
    ) -> None:
        self.directory = session.directory
        self.hash, self.dim = session.hash, session.dim
        self._session = session
        self._batcher = Batcher(
            _runner(session, texts_apart),
            in_steps=lambda job: job.kind in _WRITING,
            name=session.directory.name,
            max_batch=max_batch,
            max_wait=max_wait,
            max_queue=max_queue,
            observe=None if observe is None else _by_kind(observe),
        )
        weakref.finalize(self, self._batcher.close, wait=False)

    @property
    def image_tokens(self) -> int:
        """Patch tokens that a picture is cut into."""
        return self._session.image_tokens

    @property
    def waiting(self) -> int:
        """Items in the queue now."""
        return self._batcher.waiting

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads, start and end included."""
        return self._session.count_tokens(texts)

    @property
    def preparing_bytes(self) -> int:
        """Bytes that ``prepare`` takes for each pixel of an image, beside the image itself."""
        return self._session.preparing_bytes

    def check_room(self, count: int) -> None:
        """Say before images are decoded what ``submit_images`` would say of so many. Raises: as it does."""
        self._batcher.check_room(count)

    def prepare(self, image: Image) -> Prepared:
        """What the encoder reads of an image. Raises: MemoryError; any other failure is the image's own."""
        try:
            return Prepared(self._session.preprocess([image])[0])
        except MemoryError:
            raise
        except Exception as error:
            return Prepared(None, error)

    def submit_images(self, images: Sequence[Image | Prepared]) -> list[Future[Any]]:
        """Futures of f32 [E]. Raises: Overloaded, Unloaded, UserError ``too_many_items``."""
        return self._submit_pixels(_Job("images"), images)

    def submit_texts(self, texts: Sequence[str]) -> list[Future[Any]]:
        """Futures of f32 [E]. Raises: as ``submit_images``."""
        return self._batcher.submit(_Job("texts"), texts)

    def submit_captions(
        self, images: Sequence[Image | Prepared], options: CaptionOptions, readers: Sequence[Reader] | None = None
    ) -> list[Future[Any]]:
        """Futures of str. ``readers``: one an image, told of its caption's pieces. Raises: as ``submit_images``."""
        job = _Job("captions", replace(options, seed=0))  # each item has its own
        readers = readers or [Reader() for _ in images]
        orders = [(options.seed + place, reader) for place, reader in enumerate(readers)]
        return self._submit_pixels(job, images, orders)

    def submit_continuation(
        self, parts: Sequence[str | Image | Prepared], options: CaptionOptions, reader: Reader | None = None
    ) -> Future[Any]:
        """A future of the str that comes after texts and pictures.

        Raises: as ``submit_images``; UserError ``document_too_long``, or what is wrong with a picture.
        """
        self._batcher.check_room()
        page = self._session.lay(parts)
        return self._batcher.submit(_Job("continuations", options, object()), [(page, reader or Reader())])[0]

    def box(self, image: Image) -> tuple[float, float, float, float]:
        """As EncoderSession's."""
        return self._session.box(image)

    def submit_attention(self, images: Sequence[Image | Prepared]) -> list[Future[Any]]:
        """Futures of f32 [heads, rows, columns]. Raises: as ``submit_images``."""
        return self._submit_pixels(_Job("attention"), images)

    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as ``submit_images``, or the first bad item's error."""
        return self._stack(wait_for(self.submit_images(images)))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as ``embed_images``."""
        return self._stack(wait_for(self.submit_texts(texts)))

    def caption(self, images: Sequence[Image], **decoding: Any) -> list[str]:
        """One caption a picture; ``decoding``: CaptionOptions' fields. Raises: also as ``embed_images``."""
        return wait_for(self.submit_captions(images, CaptionOptions(**decoding)))

    async def embed_images_async(self, images: Sequence[Image]) -> np.ndarray:
        return self._stack(await gather(await asyncio.to_thread(self.submit_images, images)))

    async def embed_texts_async(self, texts: Sequence[str]) -> np.ndarray:
        return self._stack(await gather(self.submit_texts(texts)))

    async def caption_async(self, images: Sequence[Image], **decoding: Any) -> list[str]:
        options = CaptionOptions(**decoding)
        return await gather(await asyncio.to_thread(self.submit_captions, images, options))

    def health(self) -> dict[str, Any]:
        """Run the model through the queue: proves the owner thread too. Raises: as EncoderSession.health."""
        return wait_for(self._batcher.submit(_Job("health"), [None]))[0]

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests, finish those that wait (or fail them with Unloaded), stop the thread."""
        self._batcher.close(drain=drain)

    def _submit_pixels(
        self, job: _Job, images: Sequence[Image | Prepared], orders: Sequence[Any] | None = None
    ) -> list[Future[Any]]:
        """``orders``: what goes with each picture."""
        self._batcher.check_room(len(images))
        prepared: dict[int, Any] = {}
        bad: dict[int, Future[Any]] = {}
        for at, image in enumerate(images):
            ready = image if isinstance(image, Prepared) else self.prepare(image)
            if ready.error is not None:
                bad[at] = failed(ready.error)
            else:
                prepared[at] = ready.pixels if orders is None else (ready.pixels, *orders[at])
        good = dict(zip(prepared, self._batcher.submit(job, list(prepared.values())), strict=True))
        return [good[at] if at in good else bad[at] for at in range(len(images))]

    def _stack(self, vectors: list[np.ndarray]) -> np.ndarray:
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)


def _by_kind(observe: Observe) -> Callable[[_Job, list[float]], None]:
    return lambda job, waited: observe(job.kind, waited)


def _runner(session: EncoderSession, texts_apart: bool) -> Callable[[_Job, list[Any]], Iterable[Any]]:
    """What the owner thread calls. It holds the encoder but not the BatchingSession, which may be dropped."""
    import torch

    reader = TextsApart(session) if texts_apart and session.device.type == "cpu" else session

    def captions(job: _Job, orders: list[Any]) -> Iterator[Any]:
        pixels, seeds, readers = zip(*orders, strict=True)
        assert job.options is not None
        return session.write_captions(torch.stack(pixels), job.options, seeds, readers)

    def continuations(job: _Job, orders: list[Any]) -> Iterator[Any]:
        ((page, reader),) = orders
        assert job.options is not None
        return session.write_on(page, job.options, reader)

    runs: dict[str, Callable[[_Job, list[Any]], Iterable[Any]]] = {
        "images": lambda job, pixels: session.embed_pixels(torch.stack(pixels)),
        "texts": lambda job, texts: reader.embed_texts(texts),
        "attention": lambda job, pixels: session.attend(torch.stack(pixels)),
        "captions": captions,
        "continuations": continuations,
        "health": lambda job, probes: [session.health() for _ in probes],
    }

    def run(job: _Job, items: list[Any]) -> Iterable[Any]:
        found = within_memory(lambda: runs[job.kind](job, items))
        return steps_within_memory(found) if job.kind in _WRITING else found

    return run
