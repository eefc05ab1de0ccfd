"""The description of the API: a title for every operation, examples that are accepted, words for every field."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lcl_core.specs.validation_messages import OTHER_REQUIREMENT
from tests.lcl_core.specs.test_validation_messages import LIBRARY_WORDS

Json = dict[str, Any]
JUNK: tuple[Any, ...] = (None, -1, "?", [[1]], {"?": 1})


@pytest.fixture(scope="module")
def described(live_service: Any) -> Json:
    with live_service.http(None) as anonymous:
        return anonymous.get("/openapi.json").json()


def operations(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def request_schema(described: Json, operation: Json) -> Json | None:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return None
    reference = schema.get("$ref") or schema["anyOf"][0]["$ref"]
    return described["components"]["schemas"][reference.rpartition("/")[2]]


def test_every_operation_has_a_title_of_its_own(described: Json) -> None:
    for name in ("summary", "operationId"):
        counts = Counter(operation[name] for _, _, operation in operations(described))
        assert {found: number for found, number in counts.items() if number > 1} == {}
    titles = {operation["summary"] for _, _, operation in operations(described)}
    assert {"List runs", "Get run", "List encoders", "Create embeddings", "List models"} <= titles
    assert all(len(title.split()) > 1 for title in titles)


def test_every_parameter_and_field_is_described(described: Json) -> None:
    missing = [
        f"{method} {path}: {parameter['name']}"
        for method, path, operation in operations(described)
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ]
    missing += [
        f"{name}.{field}"
        for name, schema in described["components"]["schemas"].items()
        for field, value in schema.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]
    assert missing == []


def test_every_body_has_an_example_that_is_accepted(described: Json, live_service: Any, encoder: Json) -> None:
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
                "unknown_encoder",
                "unknown_collection",
                "unknown_dataset",
                "unknown_key",
                "unknown_upload",
                "unknown_run",
                "path_forbidden",
            ), (
                path,
                answer.text,
            )
            accepted += not code
    assert accepted >= 6


def test_no_refusal_speaks_as_a_library_does(described: Json, live_service: Any, refused: Any) -> None:
    """Junk in every field of every body and in every parameter of a GET."""
    answers = 0
    with live_service.http() as http:
        for method, path, operation in operations(described):
            address = path.format_map(defaultdict(lambda: "absent"))
            schema = request_schema(described, operation)
            for field in schema["properties"] if schema else ():
                for junk in JUNK:
                    answer = http.request(method, address, json={**schema["examples"][0], field: junk})
                    answers += check_words(answer, refused)
            for parameter in operation.get("parameters", []) if method == "GET" else ():
                if parameter["in"] == "query":
                    answers += check_words(http.get(address, params={parameter["name"]: "?" * 300}), refused)
    assert answers > 100


def check_words(answer: httpx.Response, refused: Any) -> int:
    """1 for a refusal of the request's form. Its message is in plain words, and its field is one of the request."""
    if answer.status_code != 422:
        return 0
    facts = refused(answer, 422)
    message = facts["message"].partition(" (got ")[0]
    assert not LIBRARY_WORDS.search(message), message
    assert OTHER_REQUIREMENT not in message, message
    assert not re.search(r"[A-Z]|constrained|function|\[\w+\[", facts.get("field", "")), facts
    return 1
