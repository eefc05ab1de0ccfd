"""Where things are. The same code runs embedded and in a team; only these values differ."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Read from ``LCL_*`` environment variables.

    ``home`` holds everything that the service writes; every path in a spec is confined to ``home`` and
    ``data_roots``.
    """

    model_config = SettingsConfigDict(env_prefix="LCL_", extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".lcl")
    database_url: str = ""
    broker_url: str = ""
    data_roots: Annotated[list[Path], NoDecode] = []
    lease_seconds: float = 30.0
    heartbeat_seconds: float = 10.0
    cancel_grace_seconds: float = 30.0

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split_roots(cls, given: object) -> object:
        """Folders as in PATH (``/data:/more``), or a JSON list."""
        if not isinstance(given, str):
            return given
        return json.loads(given) if given.startswith("[") else [part for part in given.split(os.pathsep) if part]

    @cached_property
    def resolved_database_url(self) -> str:
        """The configured URL, or SQLite inside ``home``."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'lcl.db'}"

    @cached_property
    def resolved_broker_url(self) -> str:
        """The configured URL, or the embedded broker's private socket inside ``home``."""
        return self.broker_url or f"redis+socket://{self.home.resolve() / 'broker.sock'}"

    @property
    def roots(self) -> list[Path]:
        """The folders that a path in a request or a spec may lie in."""
        return [self.home, *self.data_roots]

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    @property
    def encoders_dir(self) -> Path:
        return self.home / "encoders"

    @property
    def datasets_dir(self) -> Path:
        return self.home / "datasets"

    @property
    def collections_dir(self) -> Path:
        return self.home / "collections"

    @property
    def key_file(self) -> Path:
        return self.home / "key"
