"""Where things are. The same code runs embedded and in a team; only these values differ."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lcl_core.roots import SETTING, Root, checked_root, overlaps, parse_roots, url_problem

OPEN_FOLDERS = ("data", "datasets", "encoders")  # of home: a request may name what lies in them
CLOSED_FOLDERS = ("cache", "collections", "logs", "runs")  # and never what lies in these

SHORTEST_SECRET = 24
DATABASES = ("sqlite", "postgresql+psycopg")


def misconfiguration(error: ValidationError) -> str:
    """The first of what is wrong with settings, in one line: the variable and what it must be. Shows no value."""
    first = error.errors(include_url=False, include_input=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    return f"LCL_{str(first['loc'][0]).upper()}: {said}" if first["loc"] else said  # what lies in none names its own


class Settings(BaseSettings):
    """Read from ``LCL_*`` environment variables.

    ``home`` holds everything that the service writes. Every path and URL in a spec is confined to ``data_roots``,
    folders and prefixes of URLs, and to the few folders of ``home`` that hold no secret and nobody's runs.
    ``welcome``: register the encoders that come with the product, and index the sample corpus with one of them.
    """

    model_config = SettingsConfigDict(env_prefix="LCL_", extra="ignore", hide_input_in_errors=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".lcl")
    database_url: str = ""
    broker_url: str = ""
    team: bool = Field(False, description="several people use it: secrets are required, and each has a key")
    data_roots: Annotated[list[Root], NoDecode] = []
    lease_seconds: float = Field(30.0, gt=0, le=86_400, description="after which a silent worker counts as lost")
    heartbeat_seconds: float = Field(10.0, gt=0, le=86_400, description="between two signs of life of a run's worker")
    cancel_grace_seconds: float = Field(30.0, ge=0, le=86_400, description="in which a stopped run may save its state")
    gc_grace_seconds: float = Field(
        86_400.0, ge=0, le=10**9, description="for which a folder that nothing names is kept"
    )
    welcome: bool = True
    log_format: str = Field("auto", pattern="^(auto|json|text)$", description="auto: text on a terminal, else json")

    artifacts: str = Field("", description="URL of the store that all machines share; empty: home alone")
    artifacts_cache_bytes: int = Field(10 << 30, ge=0, description="of what was fetched from there and is not in use")

    webhook_hosts: Annotated[list[str], NoDecode] = Field(
        [], description="HOST or HOST:PORT, with http:// before it where a team lets it be http; parted by commas"
    )
    webhook_secret: SecretStr = Field(SecretStr(""), description="empty: a key file in home")

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, given: str) -> str:
        """SQLAlchemy knows more, but their drivers are not installed, and our statements are not meant for them."""
        scheme, separator, _ = given.partition("://")
        if given and (not separator or scheme not in DATABASES):
            raise ValueError(f"only {' and '.join(DATABASES)} are supported, as in postgresql+psycopg://USER@HOST/NAME")
        if given:
            from sqlalchemy import make_url
            from sqlalchemy.exc import ArgumentError

            try:
                make_url(given)
            except (ArgumentError, ValueError):  # their words may hold the password
                raise ValueError("is no address such as postgresql+psycopg://USER:PASSWORD@HOST:5432/NAME") from None
        return given

    @model_validator(mode="after")
    def _lease_outlives_missed_heartbeats(self) -> Self:
        if self.heartbeat_seconds >= self.lease_seconds / 2:
            raise ValueError(
                f"LCL_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}) must be below half of LCL_LEASE_SECONDS "
                f"({self.lease_seconds:g}): one sign of life that is late must not cost a run its worker"
            )
        return self

    @field_validator("webhook_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, given: object) -> object:
        return [host.strip() for host in given.split(",") if host.strip()] if isinstance(given, str) else given

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, given: SecretStr) -> SecretStr:
        if 0 < len(given.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"is shorter than {SHORTEST_SECRET} characters; make one with `openssl rand -hex 32`")
        return given

    @field_validator("data_roots", mode="before")
    @classmethod
    def _check_roots(cls, given: object) -> object:
        """Folders and URLs as in PATH (``/data:s3://bucket/prefix``), or a JSON list."""
        listed = parse_roots(given) if isinstance(given, str) else given
        if not isinstance(listed, list):
            return listed
        return [checked_root(root) if isinstance(root, str) else root for root in listed]

    @field_validator("artifacts")
    @classmethod
    def _check_artifacts(cls, given: str) -> str:
        """The one form of a URL, or ``file://`` and an absolute path."""
        problem = None if not given or given.startswith("file:///") else url_problem(given)
        if problem is not None:
            raise ValueError(f"the URL {problem}")
        return given.rstrip("/")

    @model_validator(mode="after")
    def _roots_leave_artifacts_alone(self) -> Self:
        """A root that held them would open everybody's runs to every submitter, and let conversions write there."""
        for root in self.data_roots:
            if self.artifacts and overlaps(root, self.artifacts):
                raise ValueError(f"{SETTING}: {root} and LCL_ARTIFACTS overlap; give each a place of its own")
        return self

    @model_validator(mode="after")
    def _roots_leave_home_alone(self) -> Self:
        """A root that held ``home`` would open its key, its database and everybody's runs to every submitter."""
        home = self.home.expanduser().resolve()
        closed = [home / name for name in CLOSED_FOLDERS]
        for root in self.data_roots:
            real = root.expanduser().resolve() if isinstance(root, Path) else None
            if real and (home.is_relative_to(real) or any(real.is_relative_to(folder) for folder in closed)):
                raise ValueError(f"{SETTING}: {root} opens LCL_HOME ({home}) to requests; name folders beside it")
        return self

    @cached_property
    def resolved_database_url(self) -> str:
        """The configured URL, or SQLite inside ``home``."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'lcl.db'}"

    @cached_property
    def resolved_broker_url(self) -> str:
        """The configured URL, or the embedded broker's private socket inside ``home``."""
        return self.broker_url or f"redis+socket://{self.home.resolve() / 'broker.sock'}"

    @property
    def roots(self) -> list[Root]:
        """What a path in a request or a spec may lie in, or a URL below."""
        return [*(self.home / name for name in OPEN_FOLDERS), *self.data_roots]

    @property
    def folders(self) -> list[Path]:
        """Those of the roots that are folders."""
        return [root for root in self.roots if isinstance(root, Path)]

    @property
    def protocols(self) -> set[str]:
        """Of the URLs that corpora may lie at."""
        return {root.partition("://")[0] for root in self.roots if isinstance(root, str)}

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
