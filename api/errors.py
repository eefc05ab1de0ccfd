"""Every error leaves as ``{"error": {"code", "message", "field"?}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from lcl_core.errors import UserError

log = structlog.get_logger(__name__)

STATUS_OF_CODE = {
    "bad_cursor": 400,
    "item_not_found": 404,
    "unknown_collection": 404,
    "unknown_dataset": 404,
    "unknown_encoder": 404,
    "unknown_kind": 404,
    "unknown_plot": 404,
    "unknown_run": 404,
    "unknown_study": 404,
    "collection_full": 409,
    "dataset_exists": 409,
    "encoder_mismatch": 409,
    "forbidden_transition": 409,
    "idempotency_conflict": 409,
    "item_exists": 409,
    "not_extendable": 409,
    "run_in_study": 409,
    "run_is_awaited": 409,
    "overloaded": 429,
    "deadline_exceeded": 504,
    "artifacts_pending": 503,
    "encoder_unloaded": 503,
    "examination_busy": 503,
    "pool_closed": 503,
    "store_unreachable": 503,
}
CODE_OF_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


class Problem(UserError):
    """A UserError that knows its HTTP status.

    Args:
        status: the HTTP status, 4xx or 503.
        headers: sent along, such as ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, field=field)
        self.status = status
        self.headers = headers


class ErrorFacts(BaseModel):
    code: str
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """The one form of an error."""

    error: ErrorFacts


# What every route may answer, for its description.
REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The JSON form; what cannot be encoded (a lone surrogate that the caller sent) is replaced."""
    return JSONResponse({"error": _facts(code, message, field)}, status_code=status, headers=headers)


def facts_of(error: BaseException) -> dict[str, str]:
    """What is told of an error once the answer has begun, when no status can tell it any more."""
    if isinstance(error, UserError):
        return _facts(error.code, str(error), error.field)
    log.error("answer broke off", exc_info=error)
    return _facts("internal_error", "something broke inside the service; its log tells more", None)


def _facts(code: str, message: str, field: str | None) -> dict[str, str]:
    facts = {"code": code, "message": message, **({"field": field} if field else {})}
    return {key: value.encode("utf-8", "replace").decode("utf-8") for key, value in facts.items()}


def status_of(error: UserError) -> int:
    """HTTP status of a UserError: its own, else by its code, else 422."""
    if isinstance(error, Problem):
        return error.status
    return STATUS_OF_CODE.get(error.code, 422)


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UserError)
    return error_response(status_of(error), error.code, str(error), error.field, _headers_of(error))


def _headers_of(error: UserError) -> Mapping[str, str] | None:
    """Its own, and when to come back for one that says so."""
    if isinstance(error, Problem):
        return error.headers
    seconds = getattr(error, "retry_after", 1.0 if status_of(error) == 503 else None)
    return None if seconds is None else {"retry-after": str(max(1, math.ceil(seconds)))}


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = CODE_OF_STATUS.get(error.status_code, "http_error")
    return error_response(error.status_code, code, str(error.detail), headers=error.headers)


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    location = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return error_response(400, "bad_json", f"the body is not JSON: {first['ctx']['error']} at {location[-1]}")
    field = ".".join(location[1:]) or None
    message = first["msg"].removeprefix("Value error, ")
    return error_response(422, "bad_request", f"{field or location[0]}: {message}", field)


async def _conflict(_: Request, error: Exception) -> JSONResponse:
    """Two callers made the same thing at the same moment; the database let one of them pass."""
    log.warning("conflict", error=str(getattr(error, "orig", error)))
    return error_response(409, "conflict", "somebody made the same thing at this moment; look, then try again")


async def _database_away(_: Request, error: Exception) -> JSONResponse:
    log.error("database_away", error=str(getattr(error, "orig", error)))
    message = "the database does not answer; try again in a few seconds"
    return error_response(503, "database_unavailable", message, headers={"retry-after": "2"})


def install(app: FastAPI) -> None:
    """Make every known error leave in the one form; unknown ones are the envelope's (``api.middleware``)."""
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(IntegrityError, _conflict)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(PoolTimeoutError, _database_away)
