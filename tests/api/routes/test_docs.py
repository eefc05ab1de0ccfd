"""The description of the API has examples that are accepted."""

from collections import defaultdict
from typing import Any

import pytest

Json = dict[str, Any]


@pytest.fixture(scope="module")
def described(live_service):
    with live_service.http(None) as anonymous:
        return anonymous.get("/openapi.json").json()


def operations(described):
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def request_schema(described, operation):
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return None
    reference = schema.get("$ref") or schema["anyOf"][0]["$ref"]
    return described["components"]["schemas"][reference.rpartition("/")[2]]


def test_every_body_has_an_example_that_is_accepted(described, live_service, encoder):
    bodies = {(method, path): request_schema(described, operation) for method, path, operation in operations(described)}
    accepted = 0
    with live_service.http() as http:
        study = http.post("/v1/studies", json={"spec": {"preset": "loss_ablation", "seeds": [0]}}).json()["id"]
        for (method, path), schema in bodies.items():
            if schema is None:
                continue
            (example,) = schema["examples"]
            known = {"kind": "pretrain", "study_id": study}
            address = path.format_map(defaultdict(lambda: "absent", known))
            answer = http.request(method, address, json=example)
            code = "" if answer.is_success else answer.json()["error"]["code"]
            assert code in (
                "",
                "not_found",
                "not_found",
                "not_found",
                "not_found",
                "not_found",
                "not_found",
                "invalid_value",
            ), (path, answer.text)
            accepted += not code
    assert accepted >= 6
