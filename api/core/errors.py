"""Errors as responses ``{"error": {"code", "message", "field"?, "type", "param"}}``; disk faults behind them.

``type`` and ``param`` are those of OpenAI's API, so that its clients and the tools that are built on them read them.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from lcl_core.common.errors import FailureCode, UserError, failure_code
from lcl_core.specs.parsing import describe_error, main_error

log = structlog.get_logger(__name__)
MAX_EXAMINED_ERRORS = 1000  # of a body, among which the one to report is chosen
FAULT_MESSAGES = {
    FailureCode.DISK_FULL: "there is no space left in {folder}; free some there, then try again",
    FailureCode.READ_ONLY: "nothing can be written in {folder}; make it writable, then try again",
}
CODE_OF_STATUS = {
    400: "invalid_value",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    429: "too_many_requests",
}
# OpenAI's names for classes of errors; others are invalid_request_error, from 500 on server_error
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# pydantic's error types for a body that was not parsed
UNPARSED_BODY_ERRORS = ("model_attributes_type", "dict_type", "model_type", "list_type", "missing")


class Problem(UserError):
    """A UserError with an HTTP status, and headers of the response, such as ``Retry-After``."""

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


@contextmanager
def problem_of_field(field: str | None = None) -> Iterator[None]:
    """A UserError of the block as Problem 422 of ``field``; None: of the error's own."""
    try:
        yield
    except UserError as error:
        raise Problem(422, error.code, error.message, field=field or error.field) from error


class ErrorDetail(BaseModel):
    code: str = Field(description="stable identifier for programs")
    message: str = Field(description="what is wrong and how to correct it")
    field: str | None = Field(None, description="place in the request, if one is at fault")
    type: str = Field(description="class of the error, as OpenAI's API names it")
    param: str | None = Field(description="the same as field; null: no place is at fault")


class ErrorBody(BaseModel):
    """Body of every error response."""

    error: ErrorDetail


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused; `message` says how to correct it"},
    "5XX": {"model": ErrorBody, "description": "The service failed, or cannot answer now"},
}


def documented_responses(
    *media_types: str, status: int = 200, description: str = "Successful Response"
) -> dict[int | str, dict[str, Any]]:
    """A route's ``responses`` for a body of one of these media types. Several are joined with ``|``."""
    return {status: {"description": description, "content": {name: {} for name in media_types}}}


def error_object(status: int, code: str, message: str, field: str | None = None) -> dict[str, str | None]:
    """The object ``error`` of a response. Lone surrogates of the request, which cannot be encoded, are replaced."""
    message = message.encode("utf-8", "replace").decode("utf-8")
    field = field.encode("utf-8", "replace").decode("utf-8") if field else None
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"code": code, "message": message, **({"field": field} if field else {}), "type": kind, "param": field}


def error_detail(error: BaseException) -> dict[str, str | None]:
    """Error object for a response that has begun, whose status can no longer report the error."""
    if isinstance(error, UserError):
        return error_object(error.status, error.code, str(error), error.field)
    log.error("answer broke off", exc_info=error)
    return error_object(500, "internal_error", "internal error; the service's log has details")


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": error_object(status, code, message, field)}, status_code=status, headers=headers)


def user_error_response(error: UserError) -> JSONResponse:
    headers = getattr(error, "headers", None)
    if headers is None and error.status == 503:
        headers = {"retry-after": str(max(1, math.ceil(getattr(error, "retry_after", 1.0))))}
    return error_response(error.status, error.code, str(error), error.field, headers)


def fault_response(error: BaseException, request_id: str, home: Path) -> JSONResponse:
    """Log any other error, and report it: 503 or 507 where database, memory or disk fail, else 500."""
    fault = failure_code(error, home)
    if isinstance(error, OperationalError | PoolTimeoutError):
        log.error("database_away", error=str(getattr(error, "orig", error)))  # without the statement's values
        if fault in FAULT_MESSAGES:
            folder = f"{home} (or in the folder that LCL_DATABASE_URL names)"
            return error_response(507, fault.value, FAULT_MESSAGES[fault].format(folder=folder))
        message = "the database does not answer; try again in a few seconds"
        return error_response(503, "database_unavailable", message, headers={"retry-after": "2"})
    log.error("request failed", exc_info=error)
    if fault is FailureCode.OUT_OF_MEMORY:
        message = f"the service ran out of memory; send less at once, or try again (request id {request_id})"
        return error_response(503, fault.value, message, headers={"retry-after": "5"})
    if fault in FAULT_MESSAGES:
        message = FAULT_MESSAGES[fault].format(folder=getattr(error, "filename", None) or home)
        return error_response(507, fault.value, f"{message} (request id {request_id})")
    message = f"internal error; the service's log has details under request id {request_id}"
    return error_response(500, "internal_error", message)


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UserError)
    return user_error_response(error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = "there is nothing at this address; /docs names all there are, each without a slash at its end"
    elif error.status_code == 405:
        message = f"{request.method} is not supported at this URL; /docs names what is"
    elif error.status_code == 400 and "parsing the body" in message:  # FastAPI's words for any failure of the parser
        message = "the body cannot be read as JSON, or as the form that its Content-Type names"
    code = CODE_OF_STATUS.get(error.status_code, "http_error")
    return error_response(error.status_code, code, message, headers=error.headers)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()[:MAX_EXAMINED_ERRORS]
    first: Mapping[str, Any] = errors[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return error_response(400, "invalid_value", f"the body is not JSON: {first['ctx']['error']} at {location[-1]}")
    content_type = request.headers.get("content-type", "no Content-Type")[:100]
    if location == ["body"] and first["type"] in UNPARSED_BODY_ERRORS and "json" not in content_type:
        message = f"send JSON with the header Content-Type: application/json (this request says {content_type})"
        return error_response(422, "invalid_value", message)
    model = None
    if location[0] == "body":
        annotation = getattr(request.scope["route"].body_field.field_info, "annotation", None)
        kinds = [annotation, *typing.get_args(annotation)]  # of a body that may be left out
        model = next((each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)), None)
        first, path = main_error([{**each, "loc": each["loc"][1:]} for each in errors], error.body)
        location = ["body", *map(str, path)]
    field = ".".join(location[1:]) or None
    return error_response(422, "invalid_value", f"{field or location[0]}: {describe_error(first, model)}", field)


async def _conflict(_: Request, error: Exception) -> JSONResponse:
    """A concurrent request created the same object first."""
    log.warning("conflict", error=str(getattr(error, "orig", error)))
    return error_response(
        409, "conflict", "another request created the same object at this moment; check it, then try again"
    )


def install_error_handlers(app: FastAPI) -> None:
    """Of refused requests; ``api.core.middleware`` answers for all other exceptions."""
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(IntegrityError, _conflict)
