"""Settings of the page, from environment variables ``LCL_UI_*`` and ``LCL_TEAM``, and the token that opens it.

The token is a file beside the service's key in the home folder. Imports no gradio: the launcher prints the address with
the token first.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ui.security import parse_hosts

TOKEN_FILE = "page-token"  # noqa: S105
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{16,256}", re.ASCII)
TOKEN_RULE = "must be 16 to 256 letters, digits, - or _ (or empty: whoever reaches the page may use it)"  # noqa: S105


def default_home() -> Path:
    """``LCL_HOME``, else ``~/.lcl``, as for the client's key."""
    return Path(os.environ.get("LCL_HOME") or Path.home() / ".lcl")


def load_or_create_token(home: Path) -> str:
    """The token in ``home``; a missing or malformed one is created, for its owner alone. Raises: OSError."""
    file = home / TOKEN_FILE
    try:
        token = file.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        token = ""
    if TOKEN_PATTERN.fullmatch(token):
        file.chmod(0o600)
        return token
    token = secrets.token_urlsafe(32)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f"{TOKEN_FILE}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
        out.write(token + "\n")
    partial.replace(file)
    return token


def url_with_token(address: str, token: str) -> str:
    """The address that opens the page; unchanged for an empty token."""
    return f"{address}/?token={token}" if token else address


ENV_PREFIX = "LCL_UI_"
MIB = 2**20


def format_validation_error(error: ValidationError) -> str:
    """First error in the settings, in one line: the variable and what it must be. Contains no value."""
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:  # of several settings, which the message names
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0]).upper()
    variable = name if name.startswith("LCL_") else ENV_PREFIX + name
    return f"{variable}: {first['msg'].removeprefix('Value error, ')}"


class UiSettings(BaseSettings):
    """With ``team`` users sign in with their API keys; else the page uses the key in the client's environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", populate_by_name=True)

    team: bool = Field(False, validation_alias="LCL_TEAM", description="users sign in with their API keys")
    session_hours: float = Field(12.0, gt=0, le=720, description="until a user signs in again")
    host: str = Field("127.0.0.1", description="address on which it listens")
    port: int = Field(7865, ge=0, le=65535, description="port on which it listens; 0: a free one")
    socket: int | None = Field(None, ge=3, description="inherited listening socket, in place of a port")
    root_path: str = Field("", description="path of the page behind a gateway")
    hosts: str = Field("", description="host names of the page, besides those of the loopback")
    token: str | None = Field(None, description="opens the page on one machine; None: from the home folder")
    max_upload: ByteSize = Field(ByteSize(32 * MIB), description="of one file")
    max_upload_request: ByteSize = Field(ByteSize(256 * MIB), description="of all files of one request")
    session_uploads: ByteSize = Field(ByteSize(512 * MIB), description="of one key; older files are deleted")
    all_uploads: ByteSize = Field(ByteSize(1024 * MIB), description="of all keys")
    forwarded_allow_ips: str = Field("127.0.0.1", description="proxies whose X-Forwarded headers count")

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        parse_hosts(value)
        return value

    @field_validator("token")
    @classmethod
    def _check_token(cls, value: str | None) -> str | None:
        if value and not TOKEN_PATTERN.fullmatch(value):
            raise ValueError(TOKEN_RULE)
        return value

    @model_validator(mode="after")
    def _check_order(self) -> UiSettings:
        if not self.max_upload <= self.max_upload_request <= self.session_uploads <= self.all_uploads:
            raise ValueError(
                "LCL_UI_MAX_UPLOAD, LCL_UI_MAX_UPLOAD_REQUEST, LCL_UI_SESSION_UPLOADS and LCL_UI_ALL_UPLOADS: "
                "each must be at least the one before it"
            )
        return self
