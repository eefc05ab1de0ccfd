"""Settings that all processes share (``LCL_*``), and the list of all ``LCL_*`` names.

A process knows only its own settings but shares its environment with others, so a misspelt name is found by comparing
with one list. A test compares that list with the settings classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lcl_core.common.errors import UserError
from lcl_core.common.paths import ROOTS_SETTING, Root, overlaps, parse_root, parse_roots, url_problem

ENV_PREFIX = "LCL_"
SHARED_NAMES = """
    ARTIFACTS ARTIFACTS_CACHE_BYTES BROKER_URL CANCEL_GRACE_SECONDS DATABASE_URL DATA_CACHE
    DATA_CACHE_BYTES DATA_ROOTS GC_GRACE_SECONDS HEARTBEAT_SECONDS HOME LEASE_SECONDS LOG_FORMAT
    QDRANT_API_KEY QDRANT_URL TEAM WEBHOOK_HOSTS WEBHOOK_SECRET WELCOME
"""
API_NAMES = """
    ADMIN_KEY API_HOST API_PORT API_SOCKET DOCS_DIR ENCODER_MEMORY_BYTES IMPORT INFERENCE_DEVICE INFERENCE_PRECISION
    MAX_UPLOAD_BYTES QUEUED_RUNS_PER_OWNER REQUESTS_PER_MINUTE WARM_ENCODERS
"""
WORKER_NAMES = """
    CHECKPOINTS ENGINE_WAIT_SECONDS EXECUTOR HUNG_SECONDS KUBERNETES_CA_FILE
    KUBERNETES_CLAIM KUBERNETES_DATA_CLAIMS KUBERNETES_GPU_RESOURCE KUBERNETES_IMAGE KUBERNETES_NAMESPACE
    KUBERNETES_POD KUBERNETES_QUEUE KUBERNETES_SECRET KUBERNETES_SERVICE_ACCOUNT KUBERNETES_TOKEN_FILE
    KUBERNETES_URL NODE_RESOURCES RAY_ADDRESS RAY_DETACH RAY_NAMESPACE REAP_SECONDS
    RENDEZVOUS_SECONDS SLURM_QUEUE WATCH_SECONDS WORKER_OFFERS WORKER_SLOTS
"""
UI_NAMES = """
    UI_ALL_UPLOADS UI_FORWARDED_ALLOW_IPS UI_HOST UI_HOSTS UI_MAX_UPLOAD UI_MAX_UPLOAD_REQUEST UI_PORT UI_ROOT_PATH
    UI_SESSION_HOURS UI_SESSION_UPLOADS UI_SOCKET UI_TOKEN
"""
CLIENT_NAMES = "API_KEY API_URL"
COMPOSE_NAMES = """
    API_CPUS API_MEMORY DATA EXTRAS GPUS GRAFANA_PORT IMAGE METRICS_RETENTION PORT POSTGRES_CONNECTIONS POSTGRES_CPUS
    POSTGRES_MEMORY S3_ROOT SHM_SIZE UI_MEMORY WORKERS WORKER_CPUS WORKER_MEMORY WORKER_STOP_SECONDS
"""
JOB_NAMES = "MEETING MEETING_SECONDS NODE NODES POD_GPUS SUPERVISED"
TEST_NAMES = "CHROMIUM SCREENSHOTS SCREENSHOTS_URL TEST_COMPILE"
KNOWN_NAMES = frozenset(
    ENV_PREFIX + word
    for group in (SHARED_NAMES, API_NAMES, WORKER_NAMES, UI_NAMES, CLIENT_NAMES, COMPOSE_NAMES, JOB_NAMES, TEST_NAMES)
    for word in group.split()
)
# ratio of SequenceMatcher: one letter added, lost or changed in a name of ten gives at least .9
_SIMILARITY_CUTOFF = 0.87


def check_setting_names(environment: Mapping[str, str]) -> list[str]:
    """Find ``LCL_*`` variables that are no setting.

    Returns: a warning for each that resembles no setting.
    """
    warnings = []
    for name in sorted(name for name in environment if name.upper().startswith(ENV_PREFIX)):
        if name.upper() in KNOWN_NAMES:
            continue
        meant = difflib.get_close_matches(name.upper(), sorted(KNOWN_NAMES), n=1, cutoff=_SIMILARITY_CUTOFF)
        if meant:
            raise UserError(f"{name} is not a setting; did you mean {meant[0]}?", code="bad_setting")
        warnings.append(f"{name} is not a setting and has no effect; docs/operations.md lists the settings")
    return warnings


OPEN_FOLDERS = ("data", "datasets", "encoders")  # of home: a request may name what lies in them
CLOSED_FOLDERS = ("cache", "collections", "logs", "runs")  # and never what lies in these

SHORTEST_SECRET = 24
DATABASES = ("sqlite", "postgresql+psycopg")


def settings_error_message(error: ValidationError) -> str:
    """First error of the settings in one line: the variable and what it must be. Shows no value."""
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    return (
        f"LCL_{str(first['loc'][0]).upper()}: {message}" if first["loc"] else message
    )  # an error of several settings names them


class Settings(BaseSettings):
    """Read from ``LCL_*`` environment variables.

    ``home`` holds everything that the service writes. Paths and URLs of specs are confined to ``data_roots`` and to
    the folders of ``home`` without secrets and runs. ``welcome``: register the bundled encoders, index the sample.
    """

    model_config = SettingsConfigDict(env_prefix="LCL_", extra="ignore", hide_input_in_errors=True)

    home: Path = Field(
        default_factory=lambda: Path.home() / ".lcl", description="folder of everything that the service writes"
    )
    database_url: str = Field("", description="of PostgreSQL or SQLite; empty: a SQLite file in home")
    broker_url: str = Field("", description="of Redis or Valkey; empty: the launcher's own, else no wake-ups")
    team: bool = Field(False, description="several people use it: secrets are required, and each has a key")
    data_roots: Annotated[list[Root], NoDecode] = Field(
        [], description="folders and URLs in which corpora and encoders of specs may lie, separated by colons"
    )
    lease_seconds: float = Field(
        # a fail-over of PostgreSQL takes a minute or two, during which no run shall have to stop
        default_factory=lambda data: 240.0 if data.get("database_url", "").startswith("postgresql") else 60.0,
        gt=0,
        le=86_400,
        description="after which a silent worker counts as lost",
    )
    heartbeat_seconds: float = Field(10.0, gt=0, le=86_400, description="between two signs of life of a run's worker")
    cancel_grace_seconds: float = Field(30.0, ge=0, le=86_400, description="in which a stopped run may save its state")
    gc_grace_seconds: float = Field(
        86_400.0, ge=0, le=10**9, description="for which a folder that nothing names is kept"
    )
    welcome: bool = Field(True, description="register the bundled encoders, and index the sample in a new home")
    log_format: str = Field("auto", pattern="^(auto|json|text)$", description="auto: text on a terminal, else json")

    artifacts: str = Field("", description="URL of the store that all machines share; empty: home alone")
    artifacts_cache_bytes: int = Field(
        10 << 30, ge=0, description="of the local cache of artifacts that are not in use"
    )

    qdrant_url: str = Field("", description="of the Qdrant server that collections of index qdrant are in; empty: none")
    qdrant_api_key: SecretStr = Field(SecretStr(""), description="of that server; empty: it asks for none")

    webhook_hosts: Annotated[list[str], NoDecode] = Field(
        [], description="HOST or HOST:PORT, with http:// before it where a team lets it be http; parted by commas"
    )
    webhook_secret: SecretStr = Field(SecretStr(""), description="empty: a key file in home")

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        """Only the two databases whose drivers are installed and whose SQL dialects are supported."""
        scheme, separator, _ = value.partition("://")
        if value and (not separator or scheme not in DATABASES):
            raise ValueError(f"only {' and '.join(DATABASES)} are supported, as in postgresql+psycopg://USER@HOST/NAME")
        if value:
            from sqlalchemy import make_url
            from sqlalchemy.exc import ArgumentError

            try:
                make_url(value)
            except (ArgumentError, ValueError):  # the error may quote the password
                raise ValueError("is no address such as postgresql+psycopg://USER:PASSWORD@HOST:5432/NAME") from None
        return value

    @field_validator("qdrant_url")
    @classmethod
    def _check_qdrant(cls, value: str) -> str:
        scheme, _, rest = value.partition("://")
        if value and (scheme not in ("http", "https") or not rest or "@" in rest):
            raise ValueError("is no address such as http://HOST:6333; its key belongs into LCL_QDRANT_API_KEY")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _lease_outlives_missed_heartbeats(self) -> Self:
        if self.heartbeat_seconds > self.lease_seconds / 4:
            raise ValueError(
                f"LCL_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}) must be at most a quarter of LCL_LEASE_SECONDS "
                f"({self.lease_seconds:g}): a run is stopped after half of it without a sign of life"
            )
        return self

    @field_validator("webhook_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return [host.strip() for host in value.split(",") if host.strip()] if isinstance(value, str) else value

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"is shorter than {SHORTEST_SECRET} characters; make one with `openssl rand -hex 32`")
        return value

    @field_validator("data_roots", mode="before")
    @classmethod
    def _check_roots(cls, value: object) -> object:
        """Folders and URLs as in PATH (``/data:s3://bucket/prefix``), or a JSON list."""
        listed = parse_roots(value) if isinstance(value, str) else value
        if not isinstance(listed, list):
            return listed
        return [parse_root(root) if isinstance(root, str) else root for root in listed]

    @field_validator("artifacts")
    @classmethod
    def _check_artifacts(cls, value: str) -> str:
        """A URL in canonical form, or ``file://`` and an absolute path."""
        problem = None if not value or value.startswith("file:///") else url_problem(value)
        if problem is not None:
            raise ValueError(f"the URL {problem}")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _roots_open_no_home_and_no_artifacts(self) -> Self:
        """A root that contains them would open keys, database and runs to every submitter, for writing too."""
        home = self.home.expanduser().resolve()
        for root in self.data_roots:
            if self.artifacts and overlaps(root, self.artifacts):
                raise ValueError(f"{ROOTS_SETTING}: {root} and LCL_ARTIFACTS overlap; give each a folder of its own")
            real = root.expanduser().resolve() if isinstance(root, Path) else None
            if real and (home.is_relative_to(real) or any(real.is_relative_to(home / name) for name in CLOSED_FOLDERS)):
                raise ValueError(f"{ROOTS_SETTING}: {root} opens LCL_HOME ({home}) to requests; name folders beside it")
        return self

    @cached_property
    def resolved_database_url(self) -> str:
        """The configured URL, or SQLite inside ``home``."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'lcl.db'}"

    @property
    def worker_stop_seconds(self) -> float:
        """That a worker may need to stop: a job's grace, half of it to copy the last checkpoint, and time to spare."""
        return 1.5 * self.cancel_grace_seconds + 15

    @cached_property
    def resolved_broker_url(self) -> str:
        """The configured URL, or the embedded broker's private socket inside ``home``."""
        return self.broker_url or f"redis+socket://{self.home.resolve() / 'broker.sock'}"

    @property
    def roots(self) -> list[Root]:
        """Folders and URL prefixes that requests and specs may use."""
        return [*(self.home / name for name in OPEN_FOLDERS), *self.data_roots]

    @property
    def folders(self) -> list[Path]:
        """Roots that are folders."""
        return [root for root in self.roots if isinstance(root, Path)]

    @property
    def protocols(self) -> set[str]:
        """Protocols of the roots that are URLs."""
        return {root.partition("://")[0] for root in self.roots if isinstance(root, str)}

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    @property
    def encoders_dir(self) -> Path:
        return self.home / "encoders"

    @property
    def key_file(self) -> Path:
        return self.home / "key"
