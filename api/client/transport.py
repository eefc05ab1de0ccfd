"""HTTP of the client: address and key, repeats of calls that may be repeated, streams, downloads, errors."""

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
from urllib.parse import quote

import httpx

from api.client.payloads import Json, Progress, without_none

DEFAULT_URL = "http://127.0.0.1:8765"
API_FILE = "api-address"  # in the home: where its launcher's api listens; empty while it does not run
KEEPALIVE_SECONDS = 2.0  # less than the 5 after which servers close an idle connection, which breaks a call on it
RETRY_STATUSES = (429, 502, 503, 504)
MAX_RECONNECTS = 8  # about twenty seconds without the service: longer than a restart
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_KEY = "this call has no key: set LCL_API_KEY, or --key of lcl; the key in LCL_HOME is for its own running service"
WRONG_SERVER = "LCL_API_URL may name another server than the service"


class ApiError(Exception):
    """The service refused a call, or (``status`` 0) no service answered or nothing could be sent."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    @classmethod
    def from_response(cls, response: httpx.Response) -> ApiError:
        """From a response >= 300. The body of a gateway's error is not the service's: its status is reported."""
        answered = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
        if response.has_redirect_location:
            target = response.request.url.join(response.headers["location"])
            answered = f"{response.request.url} redirects to {target}, and redirects are not followed; "
            answered += "set LCL_API_URL to the service's address there"
        try:
            return cls.from_body(response.status_code, json.loads(response.content))
        except (ValueError, KeyError, TypeError):
            return cls(response.status_code, "http_error", answered)

    @classmethod
    def from_body(cls, status: int, body: Any) -> ApiError:
        """From ``{"error": {"code", "message", "field"?}}``. Raises: KeyError, TypeError for another shape."""
        error = body["error"]
        return cls(status, error["code"], error["message"], error.get("field"))


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
        listening = _home_text(API_FILE)
        self.base_url = (named or listening or DEFAULT_URL).rstrip("/")
        self.attempts = attempts
        try:
            is_local = httpx.URL(self.base_url).host in LOOPBACK
            key = key or os.environ.get("LCL_API_KEY")
            # The stored key may be an admin's: another host must not get it, nor another user's service on the usual
            # port while the launcher of this home does not run.
            if key is None and is_local and (named or listening != ""):
                key = _home_text("key") or None
            self.has_key = key is not None
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
        attempts: int | None = None,
        **options: Any,
    ) -> httpx.Response:
        """One call. A refused connection is always retried, a broken one only if ``repeatable`` (default: GET).

        An answer that does not come in time is not asked for again. Redirects are not followed, which could take the
        key to another host. ``streamed``: return with the headers of a success; the caller reads and closes the body.
        """
        repeatable = method == "GET" if repeatable is None else repeatable
        attempts = attempts or self.attempts
        for attempt in range(1, attempts + 1):
            try:
                response = self._http.send(self._http.build_request(method, path, **options), stream=streamed)
                if streamed and not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                unsent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                broken = repeatable and not isinstance(error, httpx.TimeoutException)
                if attempt == attempts or not (unsent or broken):
                    raise self._unreachable(error) from error
                backoff(attempt)
                continue
            except (httpx.InvalidURL, ValueError) as error:  # lone surrogates, NaN
                raise ApiError(0, "unsendable", f"this cannot be sent: {error}") from error
            if response.is_success or response.status_code in expected:
                return response
            refusal = ApiError.from_response(response)
            if refusal.status == 401 and not self.has_key:
                raise ApiError(401, refusal.code, f"{refusal.message}; {NO_KEY}")
            # export_failed is a 503 that takes minutes and would be the same again
            may_change = response.status_code in RETRY_STATUSES and refusal.code != "export_failed"
            if attempt == attempts or not repeatable or not may_change:
                raise refusal
            backoff(attempt, response.headers.get("retry-after"))
        raise AssertionError("the last attempt returns or raises")

    def get(self, path: str, **query: Any) -> Any:
        """Parsed response of a GET. Query parameters that are None are left out."""
        return read_json(self.send("GET", path, params=without_none(**query)))

    def post(self, path: str, body: Any = None, *, repeatable: bool = False, **options: Any) -> Any:
        return read_json(self.send("POST", path, json=body, repeatable=repeatable, **options))

    def post_once(self, path: str, body: Any, idempotency_key: str) -> Any:
        """As ``post``; the service does once what it receives several times under one key."""
        return self.post(path, body, repeatable=True, headers={"idempotency-key": idempotency_key})

    def patch(self, path: str, body: Any) -> Any:
        """Parsed response of a PATCH, which may be sent twice: it replaces values."""
        return read_json(self.send("PATCH", path, json=body, repeatable=True))

    def remove(self, path: str) -> None:
        self.send("DELETE", path)

    def read(self, path: str, **query: Any) -> bytes:
        """The body of a GET."""
        return self.send("GET", path, params=without_none(**query)).content

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
        """GET into ``file``, which is created only when the body is complete."""
        target = Path(file)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as out, self.stream(path, **options) as response:
                total = int(response.headers.get("content-length", 0)) or None
                for chunk in response.iter_bytes(1 << 20):
                    out.write(chunk)
                    if on_progress is not None:
                        on_progress(out.tell(), total)
            return partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _unreachable(self, error: httpx.TransportError) -> ApiError:
        reason = str(error) or type(error).__name__
        return ApiError(0, "unreachable", f"no answer from {self.base_url} ({reason}); is the service up?")


def v1(*parts: str) -> str:
    """Address below ``/v1``. A name cannot leave its place in it."""
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


def read_json(response: httpx.Response) -> Any:
    """The parsed body. Raises: ApiError for another body, such as the page of a proxy that asks for a login."""
    try:
        return response.json()
    except ValueError as error:
        answered = f"{response.request.url} answered {response.status_code} with something else than JSON"
        raise ApiError(response.status_code, "http_error", f"{answered}; {WRONG_SERVER}") from error


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
                raise ApiError(0, "http_error", f"the answer is no stream of events; {WRONG_SERVER}") from error
            yield {"id": fields.get("id", ""), "event": fields.get("event", "message"), "data": data}
            fields = {}


def _home_text(name: str) -> str | None:
    """Content of a file in ``LCL_HOME`` (default ``~/.lcl``); None where this user can read no such file."""
    try:
        home = Path(os.environ.get("LCL_HOME") or Path.home() / ".lcl")
        return (home / name).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
