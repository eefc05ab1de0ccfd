"""The team deployment's files keep their promises: secrets, privileges, doors, health, data."""

import re
from pathlib import Path

import pytest
import yaml

from api.core.settings import ApiSettings
from lcl_core.common.gpus import VISIBLE_DEVICES
from lcl_core.common.processes import WAIT_VARIABLES
from ui.settings import UiSettings
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "LCL_ADMIN_KEY")
EMPTY = (*SECRETS, "GRAFANA_PASSWORD")
# What the image, or compose itself, decides; hosts of webhooks come with their overlay, which gives them a way out.
IMAGE = {"LCL_HOME", "LCL_DOCS_DIR", "LCL_TEAM", "LCL_API_HOST", "LCL_API_PORT", "LCL_UI_HOST", "LCL_UI_PORT"}
ONE_MACHINE = {"LCL_UI_TOKEN"}  # a team signs in
LAUNCHER = {"LCL_API_SOCKET", "LCL_UI_SOCKET"}  # it sets them for its children alone
READ_ELSEWHERE = {"LCL_DATA_CACHE", "LCL_DATA_CACHE_BYTES"}
# Libraries read these. What docs/operations.md says of them is about the worker.
LIBRARIES = {"OMP_NUM_THREADS", *WAIT_VARIABLES, VISIBLE_DEVICES}
SETTINGS = {"api": ApiSettings, "worker": WorkerSettings, "ui": UiSettings}
OVERLAYS = ("gpu", "s3", "monitoring", "webhooks")
OWN = ("api", "worker", "ui")
EVERYBODY = (*OWN, "gateway", "postgres", "redis")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


COMPOSE = read("docker-compose.yml")
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_start_without_secrets(secret):
    """Every mention refuses an empty value, directly or because one in the same file does; none has a default."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"${{{secret}:?" in text
    assert not re.search(rf"\$\{{{secret}:?-[^}}]", text)


def example():
    """What ``.env.example`` gives, comments left out."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose_files():
    """The text of all compose files."""
    names = ("docker-compose.yml", *(f"docker-compose.{overlay}.yml" for overlay in OVERLAYS))
    return "".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def test_the_example_names_every_secret_and_fills_none():
    given = example()
    assert {name: given.get(name) for name in EMPTY} == dict.fromkeys(EMPTY, "")
    used = set(re.findall(r"\$\{(\w+)", compose_files()))
    assert set(given) == used


def variables_of(name):
    """What the process of a service reads."""
    prefix = SETTINGS[name].model_config["env_prefix"]
    fields = SETTINGS[name].model_fields.items()
    read = {str(field.validation_alias or f"{prefix}{name.upper()}") for name, field in fields}
    read = {each for each in read if not each.startswith("LCL_KUBERNETES_")}  # its workers are pods, not of compose
    return (read - LAUNCHER) | ({"LCL_API_URL"} if name == "ui" else READ_ELSEWHERE)


@pytest.mark.parametrize("name", OWN)
def test_every_setting_reaches_its_process_and_nothing_else_does(name):
    libraries = LIBRARIES if name == "worker" else set()
    own = variables_of(name) - IMAGE - ONE_MACHINE - {"LCL_WEBHOOK_HOSTS"}
    assert set(SERVICES[name]["environment"]) == own | libraries


def test_the_page_has_no_key():
    assert not [variable for variable in SERVICES["ui"]["environment"] if "KEY" in variable]
    assert "LCL_TEAM=1" in (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def test_only_the_gateway_is_open_and_only_to_this_machine():
    open_to = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert open_to == {"gateway": ["127.0.0.1:${LCL_PORT:-8080}:8080"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if "edge" in service["networks"]] == ["gateway"]
    assert all("network_mode" not in service for service in SERVICES.values())


MONITORING = read("docker-compose.monitoring.yml")["services"]


@pytest.mark.parametrize("name", [*EVERYBODY, *MONITORING])
def test_nobody_has_privileges(name):
    service = {**SERVICES, **MONITORING}[name]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), "a numeric user that is not root"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"cap_add", "privileged", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))


def test_the_broker_writes_nothing_and_shows_no_password():
    """A full disk does not end it; what it has is lost with it, as that of the embedded broker."""
    command = SERVICES["redis"]["command"][-1]
    for line in ("appendonly no", 'save ""', "maxmemory-policy noeviction", 'requirepass "$$REDISCLI_AUTH"'):
        assert line in command
    assert "volumes" not in SERVICES["redis"]
    assert "redis-server -" in command, "options come by standard input"


def test_the_gateway_hides_the_measurements():
    text = (ROOT / "deploy" / "gateway" / "nginx.conf").read_text(encoding="utf-8")
    assert re.search(r"location = /metrics \{\s*return 404;", text)
    for door in ("/v1/", "healthz|readyz"):
        assert re.search(rf"location [^{{]*{re.escape(door)}[^}}]*\$api;", text), door


def test_every_image_has_a_version_and_a_digest():
    files = [*ROOT.glob("docker-compose*.yml"), ROOT / "deploy" / "Dockerfile"]
    named = {
        image
        for file in files
        for image in re.findall(
            r"(?:\$\{(?!LCL_)\w+_IMAGE:-|^ARG \w+_IMAGE=)([^\s}]+)", file.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert len(named) == 6
    for image in named:
        assert re.fullmatch(r"[a-z0-9./_-]+:v?\d[\w.-]*@sha256:[0-9a-f]{64}", image), image
