"""What a call raises when the service refuses or cannot be reached."""

from __future__ import annotations

import json
from typing import Any

import httpx


class ApiError(Exception):
    """The service's own words.

    Args:
        status: HTTP status; 0 when no service answered.
        code: a stable word for programs, such as ``bad_spec``.
        message: for people: what is wrong and the way out.
        field: the offending field, when there is one.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    @classmethod
    def of(cls, response: httpx.Response) -> ApiError:
        """From an answer >= 400; one that is not the service's own (a gateway's) is told by its status."""
        try:
            facts: Any = json.loads(response.content)["error"]
            return cls(response.status_code, facts["code"], facts["message"], facts.get("field"))
        except (ValueError, KeyError, TypeError):
            message = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
            return cls(response.status_code, "http_error", message)
