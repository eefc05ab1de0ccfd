"""Ask every operation of the description, as every caller, what the description allows and what it does not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.fuzzing.description import furnished
from tests.api.fuzzing.multi_owner_fixture import MARK, ApiUser, MultiOwnerFixture
from tests.api.fuzzing.report import SHOWN, Json, Report

CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
AT_ONCE = 40  # requests of one kind to one operation, after which the next is asked
READY = "/readyz"  # says 503 on purpose where no worker is
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@dataclass(frozen=True)
class _Kind:
    """Requests to one operation, such as its description allows or such as it does not."""

    operation: Any
    mode: GenerationMode


def run_campaign(multi_owner: MultiOwnerFixture, calls: int, seed: int, *, deep: bool = True) -> Report:
    """Make at least ``calls`` requests, in rounds in which every operation is asked by every caller.

    ``deep``: generate whole specs; otherwise a few that pass are used, which takes a tenth of the time.
    """
    report, rounds = Report(), itertools.count()
    document = requests.get(f"{multi_owner.live_service.url}/openapi.json", timeout=30).json()
    while report.calls < calls:
        number = next(rounds)
        for part, ends in enumerate((False, True)):
            missing = calls * (part + 1) / 2 if number == 0 else calls
            callers = [caller for caller in multi_owner.callers if caller.ends == ends]
            description = furnished(document, multi_owner.names(ends), deep=deep)
            _ask_everything(multi_owner, callers, description, report, missing - report.calls, seed + 1000 * number)
    return report


def _ask_everything(
    multi_owner: MultiOwnerFixture,
    callers: Sequence[ApiUser],
    description: Json,
    report: Report,
    calls: float,
    seed: int,
) -> None:
    """About so many requests by these callers, at least one of each kind."""
    kinds = _kinds_of(description)
    share = max(1, min(AT_ONCE, math.ceil(calls / len(kinds))))
    turns = itertools.cycle(callers)
    with requests.Session() as session:
        session.trust_env = False

        def ask(case: Case) -> None:
            caller = next(turns)
            answer = case.call(
                base_url=multi_owner.live_service.url, session=session, headers=caller.headers, timeout=60
            )
            judge(report, caller, case, answer)

        for number, kind in enumerate(kinds):
            _ask_one(kind, ask, share, seed + number)


def _kinds_of(description: Json) -> list[_Kind]:
    config = schemathesis.Config()
    config.projects.default.generation.update(with_security_parameters=False)
    config.projects.default.checks.negative_data_rejection.expected_statuses = refusals_of(description)
    schema = schemathesis.openapi.from_dict(description, config=config)
    operations = [found.ok() for found in schema.get_all_operations()]
    return [
        _Kind(operation, mode)
        for operation in operations
        for mode in MODES
        if mode == GenerationMode.POSITIVE or operation.body or operation.query or operation.headers
    ]


def refusals_of(description: Json) -> list[str]:
    """Every status by which the description says that a request may be refused."""
    answers = (operation["responses"] for path in description["paths"].values() for operation in path.values())
    return sorted({status for described in answers for status in described if status.startswith(("4", "5"))})


def _ask_one(kind: _Kind, ask: Callable[[Case], None], share: int, seed: int) -> None:
    quick = hypothesis.settings(
        max_examples=share,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    requested = hypothesis.given(kind.operation.as_strategy(generation_mode=kind.mode))(lambda case: ask(case))
    hypothesis.seed(seed)(quick(requested))()


def judge(report: Report, caller: ApiUser, case: Case, answer: Response) -> None:
    """Count an answer, and note whatever is wrong with it."""
    label, status = case.operation.label, answer.status_code
    report.calls += 1
    report.by_role[caller.role] += 1
    report.by_status[f"{status // 100}xx"] += 1
    report.by_operation[label] += 1
    if status < 300:
        report.answered[label] += 1
    example = {
        "operation": label,
        "role": caller.role,
        "request": case.as_curl_command(headers={"Authorization": "Bearer …"})[:SHOWN],
        "status": status,
        "answer": answer.content[:SHOWN].decode("utf-8", "replace"),
    }
    if status >= 500 and not (status == 503 and case.path == READY):
        report.note("server_errors", (label, str(status)), example)
    _check(report, case, answer, example)
    if MARK.encode() in answer.content or MARK in str(answer.headers):
        report.seen += caller.sees
        if not caller.sees:
            report.note("leaks", (label, caller.role), example)


def _check(report: Report, case: Case, answer: Response, example: Json) -> None:
    try:
        case.validate_response(answer, checks=CHECKS)
    except FailureGroup as group:
        for failure in group.exceptions:
            kind = (example["operation"], failure.title, str(example["status"]))
            report.note("violations", kind, {"title": failure.title, "message": failure.message[:SHOWN], **example})
