"""Settings of the API process, and the secrets with which it refuses to start."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from sqlalchemy.engine import make_url

from lcl_core.common.errors import UserError
from lcl_core.common.paths import load_or_create_secret
from lcl_core.common.settings import Settings

BUILT_DOCS = Path(__file__).parents[2] / "build" / "site"  # of a checkout
KEY_MARK = "lcl_"  # begins every API key that the service makes
MIN_SECRET_LENGTH = 24
WELL_KNOWN_SECRETS = ("admin", "changeme", "default", "example", "lcl", "password", "postgres", "secret", "test")


class ApiSettings(Settings):
    """``LCL_API_HOST``, ``LCL_API_PORT``, ``LCL_TEAM``, ``LCL_ADMIN_KEY`` and the bounds of a caller."""

    api_host: str = Field("127.0.0.1", description="address on which it listens")
    api_port: int = Field(8765, ge=0, le=65_535, description="port on which it listens; 0: a free one")
    api_socket: int | None = Field(None, ge=3, description="inherited socket that listens already, in place of a port")
    docs_dir: Path = Field(
        BUILT_DOCS, description="folder with the documentation site that make docs builds, served at /docs/guide"
    )
    admin_key: SecretStr = Field(SecretStr(""), description="of the first admin, who makes all other keys")
    max_upload_bytes: int = Field(
        4 << 30, ge=0, description="of a corpus that a client sends: of the zip, and of its files unpacked; 0: none"
    )
    import_: Literal["admin", "submitter"] = Field(
        "admin",
        validation_alias="LCL_IMPORT",
        description="least role that may import encoders; on one machine its owner may",
    )
    encoder_memory_bytes: int = Field(4 << 30, ge=1, description="of all encoders that are kept in memory")
    inference_device: str = Field(
        "cpu", description="cpu, or one GPU, which no run gets then: its number in nvidia-smi or its UUID"
    )
    inference_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of vectors; auto: bf16 where the hardware multiplies it"
    )
    warm_encoders: bool = Field(True, description="load the encoders of the newest collections when the service starts")
    queued_runs_per_owner: int = Field(
        10_000, ge=0, description="runs of one owner that are not finished; 0: any number"
    )
    requests_per_minute: int = Field(
        30_000, ge=1, description="of one key, over the processes that share LCL_BROKER_URL"
    )

    def check_secrets(self) -> None:
        """Raises: UserError ``bad_setting`` for a weak admin key, and when a team's deployment has none."""
        configured = self.admin_key.get_secret_value()
        problem = secret_weakness(configured)
        if problem and (configured or self.team):
            raise UserError(f"LCL_ADMIN_KEY {problem}; make one with `openssl rand -hex 32`", code="bad_setting")
        password = make_url(self.resolved_database_url).password
        if self.team and password is not None and _is_well_known(str(password)):
            raise UserError("the password in LCL_DATABASE_URL is a well-known one; choose another", code="bad_setting")

    def read_admin_key(self) -> str:
        """``LCL_ADMIN_KEY``, else the key in the home folder's file, which the first process that reads it makes.

        Raises: UserError ``bad_setting`` for a file without a usable key.
        """
        key = self.admin_key.get_secret_value() or load_or_create_secret(self.key_file, new_key_text)
        if secret_weakness(key):
            message = f"{self.key_file} holds no usable key; remove it, and the next start makes a new one"
            raise UserError(message, code="bad_setting")
        return key


def new_key_text() -> str:
    """``PREFIX.SECRET`` with 256 random bits."""
    return f"{KEY_MARK}{secrets.token_hex(6)}.{secrets.token_urlsafe(32)}"


def secret_weakness(secret: str) -> str | None:
    """Why a secret is weak; None: it is not."""
    if not secret:
        return "is not set"
    if len(secret) < MIN_SECRET_LENGTH:
        return f"is shorter than {MIN_SECRET_LENGTH} characters"
    if _is_well_known(secret) or len(set(secret)) < 8:
        return "is a default or too simple"
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        return "may hold printable ASCII characters only, without blanks"
    return None


def _is_well_known(secret: str) -> bool:
    """True for a well-known word, also repeated or followed by digits."""
    bare = secret.lower().rstrip("0123456789!")
    return any(bare and not bare.replace(word, "") for word in WELL_KNOWN_SECRETS)
