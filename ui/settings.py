"""Where the page listens. Read from ``LCL_UI_*`` environment variables."""

from __future__ import annotations

import re

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ui.security import parse_hosts
from ui.session_files import UploadLimits
from ui.token_file import TOKEN_PATTERN, TOKEN_RULE

ENV_PREFIX = "LCL_UI_"
SIZE_PATTERN = re.compile(r"([1-9][0-9]*) ?([kmgt]?)b", re.IGNORECASE | re.ASCII)


def format_validation_error(error: ValidationError) -> str:
    """The first of what is wrong with the settings, in one line: the variable and what it must be. Shows no value."""
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:  # several settings together, which the words name
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0]).upper()
    variable = name if name.startswith("LCL_") else ENV_PREFIX + name
    return f"{variable}: {first['msg'].removeprefix('Value error, ')}"


class UiSettings(BaseSettings):
    """``root_path`` is the page's path behind a gateway that serves it below another one; empty: at ``/``.

    With ``team`` (``LCL_TEAM``) visitors sign in with API keys of their own; else the page acts with the one key that
    the client finds in its environment.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", populate_by_name=True)

    team: bool = Field(False, validation_alias="LCL_TEAM")
    session_hours: float = Field(12.0, gt=0, le=720, description="after which a visitor signs in again")
    host: str = "127.0.0.1"
    port: int = Field(7865, ge=0, le=65535)
    socket: int | None = Field(None, ge=3, description="inherited socket that listens already, in place of a port")
    root_path: str = ""
    hosts: str = Field("", description="names that the page is reached by, besides those of the loopback")
    token: str | None = Field(None, description="opens the page on one machine; None: the one in the home folder")
    max_upload: str = Field("32mb", description="of one file")
    max_upload_request: str = Field("256mb", description="of all files of one request")
    session_uploads: str = Field("512mb", description="kept of one key; older ones give way")
    all_uploads: str = Field("1gb", description="kept of everybody")
    forwarded_allow_ips: str = "127.0.0.1"

    @field_validator("max_upload", "max_upload_request", "session_uploads", "all_uploads")
    @classmethod
    def _is_a_size(cls, given: str) -> str:
        if not SIZE_PATTERN.fullmatch(given):
            raise ValueError("must be a size such as 32mb")
        return given

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, given: str) -> str:
        parse_hosts(given)
        return given

    @field_validator("token")
    @classmethod
    def _is_a_token(cls, given: str | None) -> str | None:
        if given and not TOKEN_PATTERN.fullmatch(given):
            raise ValueError(TOKEN_RULE)
        return given

    @model_validator(mode="after")
    def _fit_into_each_other(self) -> UiSettings:
        bounds = self.upload_bounds
        if not bounds.file <= bounds.request <= bounds.session <= bounds.total:
            raise ValueError(
                "LCL_UI_MAX_UPLOAD, LCL_UI_MAX_UPLOAD_REQUEST, LCL_UI_SESSION_UPLOADS and LCL_UI_ALL_UPLOADS: "
                "each must be at least the one before it"
            )
        return self

    @property
    def upload_bounds(self) -> UploadLimits:
        sizes = (self.max_upload, self.max_upload_request, self.session_uploads, self.all_uploads)
        return UploadLimits(*map(_parse_size, sizes))


def _parse_size(size: str) -> int:
    """``32mb`` -> 33554432."""
    found = SIZE_PATTERN.fullmatch(size)
    if found is None:
        raise ValueError(f"{size!r} is no size")
    return int(found[1]) * 1024 ** " kmgt".index((found[2] or " ").lower())
