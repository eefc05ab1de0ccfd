"""The team deployment's files keep their promises: secrets, privileges, doors, health, data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "LCL_ADMIN_KEY")
OWN = ("api", "worker", "ui")
EVERYBODY = (*OWN, "gateway", "postgres", "redis")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


COMPOSE = read("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_these_are_the_services() -> None:
    assert set(SERVICES) == set(EVERYBODY)


@pytest.mark.parametrize("secret", SECRETS)
def test_no_start_without_secrets(secret: str) -> None:
    """Every mention refuses an empty value, directly or because one in the same file does; none has a default."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"${{{secret}:?" in text
    assert not re.search(rf"\$\{{{secret}:?-[^}}]", text)


def test_the_example_names_every_secret_and_fills_none() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {name: given.get(name) for name in (*SECRETS, "LCL_UI_KEY")} == dict.fromkeys((*SECRETS, "LCL_UI_KEY"), "")
    files = [(ROOT / name).read_text(encoding="utf-8") for name in ("docker-compose.yml", "docker-compose.gpu.yml")]
    used = set(re.findall(r"\$\{(\w+)", "".join(files)))
    assert set(given) == used - {"LCL_IMAGE"}


def test_only_the_gateway_is_open_and_only_to_this_machine() -> None:
    open_to = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert open_to == {"gateway": ["127.0.0.1:${LCL_PORT:-8080}:8080"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if "edge" in service["networks"]] == ["gateway"]
    assert all("network_mode" not in service for service in SERVICES.values())


@pytest.mark.parametrize("name", EVERYBODY)
def test_nobody_has_privileges(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), "a numeric user that is not root"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"cap_add", "privileged", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", EVERYBODY)
def test_everybody_tells_its_health(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}, needed


def test_data_lives_in_named_volumes() -> None:
    for volume in (volume for name in ("api", "worker", "postgres", "redis") for volume in SERVICES[name]["volumes"]):
        assert volume.split(":")[0] in COMPOSE["volumes"] or volume.startswith("${LCL_DATA:-corpora}:"), volume
    assert "volumes" not in SERVICES["ui"], "the page reaches data through the api alone"
    assert all("home:/var/lib/lcl" in SERVICES[name]["volumes"] for name in ("api", "worker"))


def test_the_broker_forgets_nothing_and_shows_no_password() -> None:
    command = SERVICES["redis"]["command"][-1]
    for line in ("appendonly yes", "maxmemory-policy noeviction", 'requirepass "$$REDISCLI_AUTH"'):
        assert line in command
    assert "redis-server -" in command, "options come by standard input"


def test_one_image_is_built_once() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["api"]
    assert len({SERVICES[name]["image"] for name in OWN}) == 1


def test_gpus_are_an_override() -> None:
    assert "devices" not in str(COMPOSE)
    for name, service in read("docker-compose.gpu.yml")["services"].items():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"]), name


def test_the_image_has_no_root_and_no_fixed_digest() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert not lines[0].startswith("# syntax=")
    assert "@sha256" not in text
    last_user = [line for line in lines if line.startswith("USER")][-1]
    assert last_user == "USER lcl"
    libraries = next(i for i, line in enumerate(lines) if "pip install --quiet '/build[service]'" in line)
    source = next(i for i, line in enumerate(lines) if "target=/source" in line)
    assert libraries < source, "the libraries' layer does not depend on the source"


def test_the_builder_sees_only_what_the_image_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "pyproject.toml", "README.md", "LICENSE", "NOTICE", "api", "workers", "lcl_core", "ui",
    }  # fmt: skip


def test_the_gateway_hides_the_measurements() -> None:
    text = (ROOT / "deploy" / "gateway" / "nginx.conf").read_text(encoding="utf-8")
    assert re.search(r"location = /metrics \{\s*return 404;", text)
    for door in ("/v1/", "healthz|readyz"):
        assert re.search(rf"location [^{{]*{re.escape(door)}[^}}]*\$api;", text), door
