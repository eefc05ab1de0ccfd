"""HTTP transport: authorisation, retries of calls that may be repeated, streams, errors as ``ApiError``."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from api.client.errors import ApiError, read_json
from api.client.local_service import LocalService, local_service, stored_key
from api.client.payloads import Json, Progress, without_none

KEEPALIVE_SECONDS = 2.0  # less than the 5 after which servers close an idle connection, which breaks a call on it
RETRY_STATUSES = (429, 502, 503, 504)
FINAL_CODES = ("export_failed",)  # of a 503 that takes minutes and would be the same again
MAX_RECONNECTS = 8  # about twenty seconds without the service: longer than a restart
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_KEY = (
    "this call has no key: set LCL_API_KEY, or --key of lcl; the file key in LCL_HOME is sent to this machine's own "
    "service alone, and unless LCL_API_URL names it, while the launcher of that home runs"
)


class Transport:
    """Base of the calls of every resource.

    Args:
        base_url: of the service; default ``LCL_API_URL``, else that of the launcher on ``$LCL_HOME``, else
            http://127.0.0.1:8765.
        key: API key; default ``LCL_API_KEY``, else, for a service on this machine alone, the content of
            ``$LCL_HOME/key``. An ``httpx.Auth`` chooses a key for each request.
        timeout: seconds for one response (the first inference of an encoder loads it).
        attempts: of a call that may be repeated.
    """

    def __init__(
        self,
        base_url: str | None = None,
        key: str | httpx.Auth | None = None,
        *,
        timeout: float = 120.0,
        attempts: int = 4,
    ) -> None:
        named = base_url or os.environ.get("LCL_API_URL")
        local = LocalService(named) if named else local_service()
        self.base_url = local.url.rstrip("/")
        self.attempts = attempts
        try:
            is_local = httpx.URL(self.base_url).host in LOOPBACK
            # the stored key may be an admin's, which another host must not get
            key = key or os.environ.get("LCL_API_KEY") or (stored_key() if is_local and local.gets_key else None)
            self._has_key = key is not None
            self._http = httpx.Client(
                base_url=self.base_url,
                auth=key if isinstance(key, httpx.Auth) else None,
                headers={"authorization": f"Bearer {key}"} if isinstance(key, str) else {},
                timeout=httpx.Timeout(timeout, connect=10.0),
                limits=httpx.Limits(
                    max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE_SECONDS
                ),
                trust_env=not is_local,
            )
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: a key with characters that no header can hold
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
        streamed: bool = False,
        attempts: int = 1,
        **options: Any,
    ) -> httpx.Response:
        """One call. A refused connection is always retried, a broken one only if ``repeatable`` (default: GET).

        Args:
            streamed: return once the headers of a success are there; the caller reads the body and closes it.
            attempts: at least so many, but for an answer that does not come in time.

        Raises: ApiError for a status >= 300 that is not in ``expected``: redirects are not followed, which could take
            the key to another host.
        """
        repeatable = method == "GET" if repeatable is None else repeatable
        most = max(attempts, self.attempts)
        for attempt in range(1, most + 1):
            last = attempt == most
            try:
                response = self._http.send(self._http.build_request(method, path, **options), stream=streamed)
                if streamed and not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                unsent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                if isinstance(error, httpx.TimeoutException) and not unsent:
                    last = attempt >= self.attempts
                if last or not (repeatable or unsent):
                    raise self._unreachable(error) from error
                backoff(attempt)
                continue
            except (httpx.InvalidURL, ValueError) as error:  # lone surrogates, NaN
                raise ApiError(0, "unsendable", f"this cannot be sent: {error}") from error
            if response.is_success or response.status_code in expected:
                return response
            refusal = ApiError.from_response(response)
            may_change = response.status_code in RETRY_STATUSES and refusal.code not in FINAL_CODES
            if last or not repeatable or not may_change:
                raise self._explained(refusal)
            backoff(attempt, response.headers.get("retry-after"))
        raise AssertionError("the last attempt returns or raises")

    def get(self, path: str, **query: Any) -> Any:
        """Parsed response of a GET. Query parameters that are None are left out."""
        return read_json(self.send("GET", path, params=without_none(**query)))

    def post(self, path: str, body: Any = None, *, repeatable: bool = False, **options: Any) -> Any:
        """Parsed response of a POST; ``options`` as of ``send``."""
        return read_json(self.send("POST", path, json=body, repeatable=repeatable, **options))

    def patch(self, path: str, body: Any) -> Any:
        """Parsed response of a PATCH, which may be sent twice: it replaces values."""
        return read_json(self.send("PATCH", path, json=body, repeatable=True))

    @contextmanager
    def stream(self, path: str, method: str = "GET", **options: Any) -> Generator[httpx.Response]:
        """A call whose body is read as it arrives; if ``repeatable`` it is retried until the body begins.

        ``options``: as of ``send``. Raises: ApiError.
        """
        response = self.send(method, path, streamed=True, **options)
        try:
            yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def download(self, path: str, file: str | Path, on_progress: Progress | None = None, **options: Any) -> Path:
        """GET into ``file``, which is created only when the body is complete. A body that breaks off is asked for anew.

        Args:
            on_progress: receives the bytes so far and the expected total (None: unknown), repeatedly.
        """
        target = Path(file)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        for attempt in range(1, self.attempts + 1):
            try:
                with partial.open("wb") as out, self.stream(path, **options) as response:
                    length = response.headers.get("content-length", "")
                    total = int(length) if length.isdigit() else None
                    for chunk in response.iter_bytes(1 << 20):
                        out.write(chunk)
                        if on_progress is not None:
                            on_progress(out.tell(), total)
                partial.replace(target)
                break
            except ApiError as error:
                if error.code != "unreachable" or attempt == self.attempts:
                    raise
                backoff(attempt)
            finally:
                partial.unlink(missing_ok=True)
        return target

    def _explained(self, refusal: ApiError) -> ApiError:
        """With what the service cannot know: that the client was given no key."""
        if refusal.status != 401 or self._has_key:
            return refusal
        return ApiError(refusal.status, refusal.code, f"{refusal.message}; {NO_KEY}", refusal.field)

    def _unreachable(self, error: httpx.TransportError) -> ApiError:
        reason = str(error) or type(error).__name__
        return ApiError(0, "unreachable", f"no answer from {self.base_url} ({reason}); is the service up?")


def backoff(attempt: int, retry_after: str | None = None) -> None:
    """Wait ``retry_after`` seconds, by default 0.1 × 2^attempt; at most five, with 20 % jitter."""
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.1 * 2**attempt
    time.sleep(min(seconds, 5.0) * random.uniform(0.8, 1.2))  # noqa: S311


def parse_events(lines: Iterator[str]) -> Generator[Json]:
    """Server-sent events as {"id", "event", "data"} with data parsed as JSON. Comments (pings) are skipped.

    Raises: ApiError for lines that are no events.
    """
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            key, _, value = line.partition(": ")
            fields[key] = value
        elif fields:
            try:
                data = json.loads(fields["data"])
            except (KeyError, ValueError) as error:
                message = "the answer is no stream of events; LCL_API_URL may name another server than the service"
                raise ApiError(0, "http_error", message) from error
            yield {"id": fields.get("id", ""), "event": fields.get("event", "message"), "data": data}
            fields = {}
