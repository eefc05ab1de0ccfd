"""Requests generated from the description: no server error, and no answer that the description does not allow."""

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.extended

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
QUICK = hypothesis.settings(
    max_examples=8,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
UPLOADS = "/v1/uploads"  # its body is a zip
STREAMS = ("/events", "/readyz")  # does not end; says 503 where no worker is


@pytest.fixture(scope="module")
def operations(live_service):
    config = schemathesis.Config()
    config.projects.default.generation.update(with_security_parameters=False)
    document = requests.get(f"{live_service.url}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(document, config=config)
    found = [each.ok() for each in schema.get_all_operations()]
    return [each for each in found if not each.path.endswith(STREAMS) and each.path != UPLOADS]


@pytest.mark.parametrize("role", [None, "viewer", "submitter", "admin"])
def test_generated_requests_are_answered_as_described(live_service, encoder, collection, operations, role):
    headers = {"authorization": f"Bearer {live_service.keys[role]}"} if role else {}
    for number, operation in enumerate(operations):

        def ask(case):
            answer = case.call(base_url=live_service.url, headers=headers, timeout=60)
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, checks=CHECKS)

        hypothesis.seed(number)(QUICK(hypothesis.given(operation.as_strategy())(ask)))()
