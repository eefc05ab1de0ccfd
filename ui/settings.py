"""Where the page listens. Read from ``LCL_UI_*`` environment variables."""

from __future__ import annotations

import re

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class UiSettings(BaseSettings):
    """``root_path`` is the page's path behind a gateway that serves it below another one; empty: at ``/``.

    With ``team`` (``LCL_TEAM``) visitors sign in with API keys of their own; else the page acts with the one key that
    the client finds in its environment.
    """

    model_config = SettingsConfigDict(env_prefix="LCL_UI_", extra="ignore", populate_by_name=True)

    team: bool = Field(False, validation_alias="LCL_TEAM")
    session_hours: float = Field(12.0, gt=0, le=720, description="after which a visitor signs in again")
    host: str = "127.0.0.1"
    port: int = Field(7865, ge=0, le=65535)
    root_path: str = ""
    max_upload: str = "32mb"
    forwarded_allow_ips: str = "127.0.0.1"

    @field_validator("max_upload")
    @classmethod
    def _is_a_size(cls, given: str) -> str:
        if not re.fullmatch(r"[1-9]\d* ?[kmgt]?b", given, re.IGNORECASE | re.ASCII):
            raise ValueError("must be a size such as 32mb")
        return given
