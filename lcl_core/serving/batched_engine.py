"""An engine shared by many clients: their requests are batched in one owner thread.

Failures to allocate memory of Python, Pillow and PyTorch become one error, ``OutOfMemory``.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lcl_core.common.errors import Busy, UserError, tokenizer_errors
from lcl_core.common.processes import threads_per_process
from lcl_core.encoders.captioning import DocumentPrompt, GenerationConfig, PreparedImage, StreamListener
from lcl_core.serving.dynamic_batcher import BatchObserver, DynamicBatcher, failed_future, wait_all

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.encoders.engine import EncoderEngine


_TORCH_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")  # PyTorch's RuntimeErrors
_END = object()
Result = TypeVar("Result")


class OutOfMemory(Busy):
    """The process could not get the memory that a request needs. ``retry_after``: seconds."""

    retry_after = 5.0

    def __init__(self) -> None:
        message = "the service has not enough memory for this request now; send fewer or smaller images, or try later"
        super().__init__(message, code="out_of_memory")


def within_memory(call: Callable[[], Result]) -> Result:
    """What ``call`` returns. Raises: OutOfMemory in place of the errors of Python, Pillow and PyTorch.

    It is raised outside their handlers: as its context their tracebacks would keep alive what filled the memory.
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
    """As ``within_memory``, for an iterator."""
    remaining = iter(steps)
    while (step := within_memory(lambda: next(remaining, _END))) is not _END:
        yield step


MAX_QUEUE_BYTES = 512 << 20  # of prepared images that wait for one encoder
GENERATION_BYTES = 1 << 30  # of keys, values and scores of all texts that one encoder generates at a time
_GENERATION = ("captions", "continuations")


@dataclass(frozen=True, slots=True)
class _BatchKey:
    """Requests with equal keys may share a batch."""

    kind: str
    config: GenerationConfig | None = None
    unique: object = None  # documents differ in length: each is a batch of its own


class BatchedEngine:
    """An EncoderEngine for many clients.

    ``embed_texts`` blocks; ``submit_…`` returns one future an item, so that a bad item fails alone. Images are
    preprocessed in the caller's thread (``prepare``), so that the owner thread runs the model alone. Texts are
    generated a token at a time, several batches side by side, and batches of vectors run in between. All raise
    Overloaded when the queue is full and EncoderUnloaded after ``close``. When the last reference is gone, the thread
    finishes what waits and ends.

    Args:
        generation_bytes: memory of all texts that are generated at a time; a text that alone needs more is refused.
    """

    def __init__(
        self,
        engine: EncoderEngine,
        *,
        max_batch: int = 64,
        max_queue: int = 512,
        generation_bytes: int = GENERATION_BYTES,
        observe: BatchObserver | None = None,
    ) -> None:
        self.directory = engine.directory
        self.hash, self.dim = engine.hash, engine.dim
        self.image_tokens = engine.encoder.tokens  # patch tokens of an image
        self.prepared_bytes = engine.encoder.prepared_bytes  # memory of a prepared image
        self._engine = engine
        self._generation_bytes = generation_bytes
        self._batcher = DynamicBatcher(
            _runner(engine),
            in_steps=lambda key: key.kind in _GENERATION,
            name=engine.directory.name,
            max_batch=max_batch,
            max_cost=generation_bytes,
            max_queue=min(max_queue, max(max_batch, MAX_QUEUE_BYTES // self.prepared_bytes)),
            observe=None if observe is None else lambda key, waited: observe(key.kind, waited),
        )
        weakref.finalize(self, self._batcher.close, wait=False)

    @property
    def waiting(self) -> int:
        """Items in the queue now."""
        return self._batcher.waiting

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens read of each text, start and end included."""
        return self._engine.count_tokens(texts)

    @property
    def text_limit(self) -> int | None:
        """As ``EncoderEngine.text_limit``."""
        return self._engine.text_limit

    def filled_context(self, text: str) -> int | None:
        """As ``EncoderEngine.filled_context``."""
        return self._engine.filled_context(text)

    def check_room(self, count: int) -> None:
        """Check the queue before images are decoded. Raises: as ``submit_images`` of so many images."""
        self._batcher.check_room(count)

    def prepare(self, image: Image) -> PreparedImage:
        """Preprocess an image. Raises: MemoryError; any other failure is kept in the result."""
        try:
            return PreparedImage(self._engine.preprocess([image])[0])
        except MemoryError:
            raise
        except Exception as error:
            return PreparedImage(None, error)

    def submit_images(self, images: Sequence[Image | PreparedImage]) -> list[Future[Any]]:
        """Futures of f32 [E]. Raises: Overloaded, EncoderUnloaded, UserError ``too_many_items``."""
        return self._submit_pixels(_BatchKey("images"), images)

    def submit_texts(self, texts: Sequence[str]) -> list[Future[Any]]:
        """Futures of f32 [E]. Raises: as ``submit_images``."""
        return self._batcher.submit(_BatchKey("texts"), texts)

    def submit_captions(
        self,
        images: Sequence[Image | PreparedImage],
        config: GenerationConfig,
        listeners: Sequence[StreamListener] | None = None,
    ) -> list[Future[Any]]:
        """Futures of str. ``listeners``: one an image, for the pieces of its caption.

        Raises: as ``submit_images``; UserError ``too_large``, ``unsupported``.
        """
        self.check_room(len(images))
        cost = self._generation_cost(config, "context" if config.context else "prompt")
        key = _BatchKey("captions", replace(config, seed=0))  # each item has its own seed
        listeners = listeners or [StreamListener() for _ in images]
        extras = [(config.seed + number, listener) for number, listener in enumerate(listeners)]
        return self._submit_pixels(key, images, extras, cost)

    def submit_continuation(
        self,
        parts: Sequence[str | Image | PreparedImage],
        config: GenerationConfig,
        listener: StreamListener | None = None,
    ) -> Future[Any]:
        """A future of the str that continues texts and images.

        Raises: as ``submit_images``; UserError ``too_large``, ``image_unreadable``, ``unsupported``.
        """
        self._batcher.check_room()
        prompt = self._engine.lcl_encoder.encode_document(parts)
        cost = self._generation_cost(config, "document", prompt)
        key = _BatchKey("continuations", config, object())
        return self._batcher.submit(key, [(prompt, listener or StreamListener())], cost)[0]

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as ``submit_texts``, or the first bad item's error."""
        vectors = wait_all(self.submit_texts(texts))
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)

    def close(self, *, drain: bool = True) -> None:
        """Accept no more requests, finish those that wait (or fail them with EncoderUnloaded), stop the thread."""
        self._batcher.close(drain=drain)

    def _submit_pixels(
        self,
        key: _BatchKey,
        images: Sequence[Image | PreparedImage],
        extras: Sequence[Any] | None = None,
        cost: int = 0,
    ) -> list[Future[Any]]:
        """``extras``: further fields of each item. ``cost``: as ``DynamicBatcher.submit``'s."""
        self.check_room(len(images))
        prepared: dict[int, Any] = {}
        futures: dict[int, Future[Any]] = {}
        for at, image in enumerate(images):
            ready = image if isinstance(image, PreparedImage) else self.prepare(image)
            if ready.error is not None:
                futures[at] = failed_future(ready.error)
            else:
                prepared[at] = ready.pixels if extras is None else (ready.pixels, *extras[at])
        futures |= dict(zip(prepared, self._batcher.submit(key, list(prepared.values()), cost), strict=True))
        return [futures[at] for at in range(len(images))]

    def _generation_cost(self, config: GenerationConfig, field: str, prompt: DocumentPrompt | None = None) -> int:
        """Bytes that one text takes while it is generated.

        Args:
            field: of the request, that says how long the text's prompt is.

        Raises: UserError ``too_large``.
        """
        with tokenizer_errors():
            cost = self._engine.lcl_encoder.generation_bytes(config, prompt)
        if cost > self._generation_bytes:
            beams = config.num_beams > 1
            message = (
                f"this text would take {cost:,} bytes of memory while it is written, and {self._generation_bytes:,} "
                f"are allowed; {'take fewer beams' if beams else 'shorten what it continues'}"
            )
            raise UserError(message, code="too_large", field="num_beams" if beams else field)
        return cost


def _runner(engine: EncoderEngine) -> Callable[[_BatchKey, list[Any]], Iterable[Any]]:
    """The function that the owner thread calls. It refers to the engine, not to the BatchedEngine, which may go."""
    import torch

    def captions(key: _BatchKey, items: list[Any]) -> Iterator[Any]:
        pixels, seeds, listeners = zip(*items, strict=True)
        assert key.config is not None
        return engine.lcl_encoder.generate_captions(torch.stack(pixels), key.config, seeds, listeners)

    def continuations(key: _BatchKey, items: list[Any]) -> Iterator[Any]:
        ((prompt, listener),) = items
        assert key.config is not None
        return engine.lcl_encoder.continue_document(prompt, key.config, listener)

    runs: dict[str, Callable[[_BatchKey, list[Any]], Iterable[Any]]] = {
        "images": lambda key, pixels: engine.embed_pixels(torch.stack(pixels)),
        "texts": lambda key, items: engine.embed_texts(items),
        "captions": captions,
        "continuations": continuations,
    }

    threads = threads_per_process(os.environ, 1)

    def run(key: _BatchKey, items: list[Any]) -> Iterable[Any]:
        torch.set_num_threads(1 if key.kind == "texts" else threads)  # small products gain nothing from threads
        results = within_memory(lambda: runs[key.kind](key, items))
        return steps_within_memory(results) if key.kind in _GENERATION else results

    return run
