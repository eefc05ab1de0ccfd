"""The settings that the containers are tried with are settings, and say what the trial takes them to say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from api.core.settings import ApiSettings
from deploy.process import PROJECT
from tests.chaos.compose_faults import CONTAINERS, LEASE_SECONDS
from workers.settings import WorkerSettings

pytestmark = pytest.mark.extended

SERVICES = yaml.safe_load((Path(__file__).parent / "hurry.yml").read_text(encoding="utf-8"))["services"]
TEAM = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


def test_every_setting_is_one() -> None:
    known = {f"LCL_{name.upper()}" for model in (ApiSettings, WorkerSettings) for name in model.model_fields}
    given = {name for service in SERVICES.values() for name in service["environment"]}
    assert given - known == {"OMP_NUM_THREADS"}


def test_leases_are_as_long_as_the_trial_believes() -> None:
    assert float(SERVICES["worker"]["environment"]["LCL_LEASE_SECONDS"]) == LEASE_SECONDS


def test_what_is_hit_is_a_service_of_the_deployment() -> None:
    assert {kind.partition(" ")[0] for kind in CONTAINERS} <= set(TEAM)
