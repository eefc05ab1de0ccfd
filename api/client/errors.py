"""The exception that every call of the client raises."""

from __future__ import annotations

import json
from typing import Any

import httpx


class ApiError(Exception):
    """The service refused a call, or no service answered.

    Args:
        status: HTTP status; 0 when no service answered or nothing could be sent.
        code: stable identifier for programs, such as ``bad_spec``.
        message: what is wrong and how to correct it.
        field: the offending field of the request, if there is one.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    @classmethod
    def from_response(cls, response: httpx.Response) -> ApiError:
        """From a response >= 300. The body of a gateway's error is not the service's: its status is reported."""
        if response.has_redirect_location:
            target = response.request.url.join(response.headers["location"])
            message = f"{response.request.url} redirects to {target}, and redirects are not followed; "
            return cls(response.status_code, "http_error", message + "set LCL_API_URL to the service's address there")
        try:
            return cls.from_body(response.status_code, json.loads(response.content))
        except (ValueError, KeyError, TypeError):
            message = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
            return cls(response.status_code, "http_error", message)

    @classmethod
    def from_body(cls, status: int, body: Any) -> ApiError:
        """From ``{"error": {"code", "message", "field"?}}``. Raises: KeyError, TypeError for another shape."""
        error = body["error"]
        return cls(status, error["code"], error["message"], error.get("field"))


def read_json(response: httpx.Response) -> Any:
    """The parsed body. Raises: ApiError for another body, such as the page of a proxy that asks for a login."""
    try:
        return response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "no Content-Type")[:100]
        message = f"{response.request.url} answered {response.status_code} with something else than JSON ({kind})"
        raise ApiError(
            response.status_code, "http_error", f"{message}; LCL_API_URL may name another server than the service"
        ) from error
