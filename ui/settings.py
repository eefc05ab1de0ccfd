"""Where the page listens. Read from ``LCL_UI_*`` environment variables."""

from __future__ import annotations

import re

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "LCL_UI_"


def told(error: ValidationError) -> str:
    """The first of what is wrong with the settings, in one line: the variable and what it must be. Shows no value."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]).upper()
    variable = name if name.startswith("LCL_") else PREFIX + name
    return f"{variable}: {first['msg'].removeprefix('Value error, ')}"


class UiSettings(BaseSettings):
    """``root_path`` is the page's path behind a gateway that serves it below another one; empty: at ``/``.

    With ``team`` (``LCL_TEAM``) visitors sign in with API keys of their own; else the page acts with the one key that
    the client finds in its environment.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", populate_by_name=True)

    team: bool = Field(False, validation_alias="LCL_TEAM")
    session_hours: float = Field(12.0, gt=0, le=720, description="after which a visitor signs in again")
    host: str = "127.0.0.1"
    port: int = Field(7865, ge=0, le=65535)
    socket: int | None = Field(None, ge=3, description="inherited socket that listens already, in place of a port")
    root_path: str = ""
    max_upload: str = "32mb"
    forwarded_allow_ips: str = "127.0.0.1"

    @field_validator("max_upload")
    @classmethod
    def _is_a_size(cls, given: str) -> str:
        if not re.fullmatch(r"[1-9]\d* ?[kmgt]?b", given, re.IGNORECASE | re.ASCII):
            raise ValueError("must be a size such as 32mb")
        return given
