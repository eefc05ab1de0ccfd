"""Where things are. The same code runs embedded and in a team; only these values differ."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from ``LCL_*`` environment variables.

    ``home`` holds everything that the service writes; every path in a spec is confined to ``home`` and
    ``data_roots``.
    """

    model_config = SettingsConfigDict(env_prefix="LCL_", extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".lcl")
    database_url: str = ""
    broker_url: str = ""
    data_roots: list[Path] = []
    lease_seconds: float = 30.0
    heartbeat_seconds: float = 10.0
    cancel_grace_seconds: float = 30.0

    @cached_property
    def resolved_database_url(self) -> str:
        """The configured URL, or SQLite inside ``home``."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'lcl.db'}"

    @cached_property
    def resolved_broker_url(self) -> str:
        """The configured URL, or the embedded broker's private socket inside ``home``."""
        return self.broker_url or f"redis+socket://{self.home.resolve() / 'broker.sock'}"

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
