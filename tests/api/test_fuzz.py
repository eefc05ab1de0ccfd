"""A short campaign of generated requests: no server error, no undescribed answer, nothing for anonymous users."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests
import schemathesis

from tests.api.fuzzing.campaign import judge, run_campaign
from tests.api.fuzzing.multi_owner_fixture import MARK, MultiOwnerFixture, multi_owner_service
from tests.api.fuzzing.report import Report

pytestmark = pytest.mark.extended

CALLS = 480


@pytest.fixture(scope="module")
def multi_owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MultiOwnerFixture]:
    with multi_owner_service(tmp_path_factory.mktemp("fuzz"), serving=False) as multi_owner:
        yield multi_owner


def test_nothing_is_found(multi_owner: MultiOwnerFixture) -> None:
    report = run_campaign(multi_owner, CALLS, seed=0, deep=False)
    facts = report.facts(0.0)
    assert report.clean, json.dumps(facts["examples"], indent=1)
    assert facts["calls"] >= CALLS
    assert set(facts["by_role"]) == {caller.role for caller in multi_owner.callers}
    assert facts["operations"] >= 75
    assert facts["operations_answered"] >= 35, "most routes should be got through"
    assert report.seen >= 5, "an owner sees what a leak would show"


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (500, b'{"error": {"code": "internal_error", "message": "x"}}', "server_errors"),
        (200, b'{"items": 3}', "violations"),
        (302, b"", "violations"),
        (418, b'{"error": {"code": "teapot", "message": "x"}}', "violations"),
        (401, f'{{"error": {{"code": "unauthorized", "message": "{MARK}"}}}}'.encode(), "leaks"),
    ],
)
def test_what_must_not_be_is_noted(multi_owner: MultiOwnerFixture, status: int, content: bytes, kind: str) -> None:
    schema = schemathesis.openapi.from_url(f"{multi_owner.live_service.url}/openapi.json")
    case, anonymous = schema["/v1/workers"]["GET"].Case(), multi_owner.callers[0]
    answer = case.call(base_url=multi_owner.live_service.url, headers=anonymous.headers)
    honest, report = Report(), Report()
    judge(honest, anonymous, case, answer)
    assert honest.clean
    answer.status_code, answer.content = status, content
    judge(report, anonymous, case, answer)
    assert [name for name, found in report.found.items() if found] == [kind]
    assert report.facts(0.0)[kind] == 1


def test_an_owner_may_see_what_an_anonymous_user_may_not(multi_owner: MultiOwnerFixture) -> None:
    reader = next(caller for caller in multi_owner.callers if caller.role == "reader")
    answer = requests.get(f"{multi_owner.live_service.url}/v1/runs", headers=reader.headers, timeout=180)
    assert MARK in answer.text
    other = next(caller for caller in multi_owner.callers if caller.role == "other reader")
    assert MARK not in requests.get(f"{multi_owner.live_service.url}/v1/runs", headers=other.headers, timeout=180).text
