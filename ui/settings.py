"""Where the page listens. Read from ``LCL_UI_*`` environment variables."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class UiSettings(BaseSettings):
    """``root_path`` is the page's path behind a gateway that serves it below another one; empty: at ``/``."""

    model_config = SettingsConfigDict(env_prefix="LCL_UI_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(7865, ge=0, le=65535)
    root_path: str = ""
    max_upload: str = "32mb"
    forwarded_allow_ips: str = "127.0.0.1"
