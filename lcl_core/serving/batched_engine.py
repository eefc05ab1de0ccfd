"""An engine shared by many clients: their requests are batched in one owner thread.

Failures to allocate memory of Python, Pillow and PyTorch become one error, ``OutOfMemory``.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.encoders.captioning import GenerationConfig, PreparedImage, StreamListener
from lcl_core.serving.dynamic_batcher import BatchObserver, DynamicBatcher, failed_future, gather_results, wait_all
from lcl_core.serving.text_process import TextEncoderProcess

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.serving.engine import EncoderEngine


_TORCH_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")  # PyTorch's RuntimeErrors
_END = object()
Result = TypeVar("Result")


class OutOfMemory(UserError):
    """The process could not get the memory that a request needs. ``retry_after``: seconds."""

    retry_after = 5.0

    def __init__(self) -> None:
        message = "the service has not enough memory for this request now; send fewer or smaller images, or try later"
        super().__init__(message, code="out_of_memory")


def within_memory(call: Callable[[], Result]) -> Result:
    """What ``call`` returns. Raises: OutOfMemory in place of the errors of Python, Pillow and PyTorch.

    It is raised when theirs is over: as its context that would keep alive, by its traceback, what filled the memory.
    """
    try:
        return call()
    except MemoryError:
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _TORCH_MESSAGES):
            raise
    raise OutOfMemory


def steps_within_memory(steps: Iterable[Any]) -> Iterator[Any]:
    """The same for work in steps."""
    remaining = iter(steps)
    while (step := within_memory(lambda: next(remaining, _END))) is not _END:
        yield step


_GENERATION = ("captions", "continuations")


@dataclass(frozen=True, slots=True)
class _BatchKey:
    """Requests with equal jobs may share a batch."""

    kind: str
    options: GenerationConfig | None = None
    alone: object = None  # documents differ in length: each keeps to itself


class BatchedEngine:
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
        session: EncoderEngine,
        *,
        max_batch: int = 64,
        max_wait: float = 0.005,
        max_queue: int = 512,
        observe: BatchObserver | None = None,
        texts_apart: bool = False,
    ) -> None:
        self.directory = session.directory
        self.hash, self.dim = session.hash, session.dim
        self._session = session
        self._batcher = DynamicBatcher(
            _runner(session, texts_apart),
            in_steps=lambda job: job.kind in _GENERATION,
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

    def prepare(self, image: Image) -> PreparedImage:
        """What the encoder reads of an image. Raises: MemoryError; any other failure is the image's own."""
        try:
            return PreparedImage(self._session.preprocess([image])[0])
        except MemoryError:
            raise
        except Exception as error:
            return PreparedImage(None, error)

    def submit_images(self, images: Sequence[Image | PreparedImage]) -> list[Future[Any]]:
        """Futures of f32 [E]. Raises: Overloaded, Unloaded, UserError ``too_many_items``."""
        return self._submit_pixels(_BatchKey("images"), images)

    def submit_texts(self, texts: Sequence[str]) -> list[Future[Any]]:
        """Futures of f32 [E]. Raises: as ``submit_images``."""
        return self._batcher.submit(_BatchKey("texts"), texts)

    def submit_captions(
        self,
        images: Sequence[Image | PreparedImage],
        options: GenerationConfig,
        readers: Sequence[StreamListener] | None = None,
    ) -> list[Future[Any]]:
        """Futures of str. ``readers``: one an image, told of its caption's pieces. Raises: as ``submit_images``."""
        job = _BatchKey("captions", replace(options, seed=0))  # each item has its own
        readers = readers or [StreamListener() for _ in images]
        orders = [(options.seed + place, reader) for place, reader in enumerate(readers)]
        return self._submit_pixels(job, images, orders)

    def submit_continuation(
        self,
        parts: Sequence[str | Image | PreparedImage],
        options: GenerationConfig,
        reader: StreamListener | None = None,
    ) -> Future[Any]:
        """A future of the str that comes after texts and pictures.

        Raises: as ``submit_images``; UserError ``document_too_long``, or what is wrong with a picture.
        """
        self._batcher.check_room()
        page = self._session.encode_document(parts)
        return self._batcher.submit(
            _BatchKey("continuations", options, object()), [(page, reader or StreamListener())]
        )[0]

    def crop_box(self, image: Image) -> tuple[float, float, float, float]:
        """As EncoderSession's."""
        return self._session.crop_box(image)

    def submit_attention(self, images: Sequence[Image | PreparedImage]) -> list[Future[Any]]:
        """Futures of f32 [heads, rows, columns]. Raises: as ``submit_images``."""
        return self._submit_pixels(_BatchKey("attention"), images)

    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as ``submit_images``, or the first bad item's error."""
        return self._stack(wait_all(self.submit_images(images)))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as ``embed_images``."""
        return self._stack(wait_all(self.submit_texts(texts)))

    def caption(self, images: Sequence[Image], **decoding: Any) -> list[str]:
        """One caption a picture; ``decoding``: CaptionOptions' fields. Raises: also as ``embed_images``."""
        return wait_all(self.submit_captions(images, GenerationConfig(**decoding)))

    async def embed_images_async(self, images: Sequence[Image]) -> np.ndarray:
        return self._stack(await gather_results(await asyncio.to_thread(self.submit_images, images)))

    async def embed_texts_async(self, texts: Sequence[str]) -> np.ndarray:
        return self._stack(await gather_results(self.submit_texts(texts)))

    async def caption_async(self, images: Sequence[Image], **decoding: Any) -> list[str]:
        options = GenerationConfig(**decoding)
        return await gather_results(await asyncio.to_thread(self.submit_captions, images, options))

    def health(self) -> dict[str, Any]:
        """Run the model through the queue: proves the owner thread too. Raises: as EncoderSession.health."""
        return wait_all(self._batcher.submit(_BatchKey("health"), [None]))[0]

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests, finish those that wait (or fail them with Unloaded), stop the thread."""
        self._batcher.close(drain=drain)

    def _submit_pixels(
        self, job: _BatchKey, images: Sequence[Image | PreparedImage], orders: Sequence[Any] | None = None
    ) -> list[Future[Any]]:
        """``orders``: what goes with each picture."""
        self._batcher.check_room(len(images))
        prepared: dict[int, Any] = {}
        bad: dict[int, Future[Any]] = {}
        for at, image in enumerate(images):
            ready = image if isinstance(image, PreparedImage) else self.prepare(image)
            if ready.error is not None:
                bad[at] = failed_future(ready.error)
            else:
                prepared[at] = ready.pixels if orders is None else (ready.pixels, *orders[at])
        good = dict(zip(prepared, self._batcher.submit(job, list(prepared.values())), strict=True))
        return [good[at] if at in good else bad[at] for at in range(len(images))]

    def _stack(self, vectors: list[np.ndarray]) -> np.ndarray:
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)


def _by_kind(observe: BatchObserver) -> Callable[[_BatchKey, list[float]], None]:
    return lambda job, waited: observe(job.kind, waited)


def _runner(session: EncoderEngine, texts_apart: bool) -> Callable[[_BatchKey, list[Any]], Iterable[Any]]:
    """What the owner thread calls. It holds the encoder but not the BatchingSession, which may be dropped."""
    import torch

    reader = TextEncoderProcess(session) if texts_apart and session.device.type == "cpu" else session

    def captions(job: _BatchKey, orders: list[Any]) -> Iterator[Any]:
        pixels, seeds, readers = zip(*orders, strict=True)
        assert job.options is not None
        return session.write_captions(torch.stack(pixels), job.options, seeds, readers)

    def continuations(job: _BatchKey, orders: list[Any]) -> Iterator[Any]:
        ((page, reader),) = orders
        assert job.options is not None
        return session.continue_generation(page, job.options, reader)

    runs: dict[str, Callable[[_BatchKey, list[Any]], Iterable[Any]]] = {
        "images": lambda job, pixels: session.embed_pixels(torch.stack(pixels)),
        "texts": lambda job, texts: reader.embed_texts(texts),
        "attention": lambda job, pixels: session.attention_maps(torch.stack(pixels)),
        "captions": captions,
        "continuations": continuations,
        "health": lambda job, probes: [session.health() for _ in probes],
    }

    def run(job: _BatchKey, items: list[Any]) -> Iterable[Any]:
        found = within_memory(lambda: runs[job.kind](job, items))
        return steps_within_memory(found) if job.kind in _GENERATION else found

    return run
