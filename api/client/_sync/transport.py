"""HTTP transport: authorisation, retries of calls that may be repeated, errors as ``ApiError``."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

from api.client._sync.blocking import sleep, write
from api.client.errors import ApiError

DEFAULT_URL = "http://127.0.0.1:8765"
RETRY_STATUSES = (429, 502, 503, 504)
Progress = Callable[[int, int | None], None]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Transport:
    """What the calls of every resource stand on.

    Args:
        base_url: of the service; default ``LCL_API_URL``, else http://127.0.0.1:8765.
        key: API key; default ``LCL_API_KEY``, else what is in ``$LCL_HOME/key``. Or what finds one for each request.
        timeout: seconds for one answer (the first inference of an encoder loads it).
        attempts: tries of a call that may be repeated.
    """

    def __init__(
        self,
        base_url: str | None = None,
        key: str | httpx.Auth | None = None,
        *,
        timeout: float = 120.0,
        attempts: int = 4,
    ) -> None:
        self.base_url = (base_url or os.environ.get("LCL_API_URL") or DEFAULT_URL).rstrip("/")
        self.attempts = attempts
        key = key or os.environ.get("LCL_API_KEY") or stored_key()
        try:
            self._http = httpx.Client(
                base_url=self.base_url,
                auth=key if isinstance(key, httpx.Auth) else None,
                headers={"authorization": f"Bearer {key}"} if isinstance(key, str) else {},
                timeout=httpx.Timeout(timeout, connect=10.0),
                trust_env=httpx.URL(self.base_url).host not in LOOPBACK,
            )
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: a key that no header can hold
            raise ApiError(0, "unsendable", f"the service's address or the key is malformed: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool | None = None,
        expected: tuple[int, ...] = (),
        **options: Any,
    ) -> httpx.Response:
        """One call. A refused connection is tried again always, a broken one only when ``repeatable`` (default: GET).

        Raises: ApiError for a status >= 400 that is not among ``expected``.
        """
        repeatable = method == "GET" if repeatable is None else repeatable
        for attempt in range(1, self.attempts + 1):
            last = attempt == self.attempts
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                harmless = repeatable or isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                if last or not harmless:
                    raise self._unreachable(error) from error
                backoff(attempt)
                continue
            except (httpx.InvalidURL, ValueError) as error:  # broken Unicode, a number that is none
                raise ApiError(0, "unsendable", f"this cannot be sent: {error}") from error
            if response.status_code in expected:
                return response
            if response.status_code in RETRY_STATUSES and repeatable and not last:
                backoff(attempt, response.headers.get("retry-after"))
                continue
            if response.is_error:
                raise ApiError.of(response)
            return response
        raise AssertionError("the last attempt returns or raises")

    def get(self, path: str, **query: Any) -> Any:
        """GET and parse; None values are left out of the query."""
        given = {key: value for key, value in query.items() if value is not None}
        return self.send("GET", path, params=given).json()

    def post(self, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        return self.send("POST", path, json=body, repeatable=repeatable).json()

    @contextmanager
    def stream(self, path: str, method: str = "GET", **options: Any) -> Iterator[httpx.Response]:
        """A call whose answer is read as it comes. Raises: ApiError."""
        try:
            with self._http.stream(method, path, **options) as response:
                if response.is_error:
                    response.read()
                    raise ApiError.of(response)
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def download(self, path: str, file: str | Path, on_progress: Progress | None = None, **options: Any) -> Path:
        """GET into ``file``, which appears only when it is whole.

        Args:
            on_progress: gets the bytes so far, and how many there will be (None: nobody knows), again and again.
        """
        target = Path(file)
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as out:
                self._pour(path, out, on_progress, options)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        return target

    def _pour(self, path: str, out: IO[bytes], on_progress: Progress | None, options: dict[str, Any]) -> None:
        with self.stream(path, **options) as response:
            for chunk in response.iter_bytes(1 << 20):
                write(out, chunk)
                if on_progress is not None:
                    on_progress(out.tell(), content_length(response))

    def _unreachable(self, error: httpx.TransportError) -> ApiError:
        reason = str(error) or type(error).__name__
        return ApiError(0, "unreachable", f"no answer from {self.base_url} ({reason}); is the service up?")


def content_length(response: httpx.Response) -> int | None:
    """Bytes of the body, where the service says how many."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def stored_key() -> str | None:
    """The embedded default's key, when this user may read it."""
    file = Path(os.environ.get("LCL_HOME") or Path.home() / ".lcl") / "key"
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def backoff(attempt: int, retry_after: str | None = None) -> None:
    """Doubling waits with jitter, at most five seconds; the service's own wish goes first."""
    wished = float(retry_after) if retry_after and retry_after.isdigit() else 0.1 * 2**attempt
    sleep(min(wished, 5.0) * random.uniform(0.8, 1.2))  # noqa: S311
