"""How much one key may ask, and how much one owner may queue and keep."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.core.auth import RateLimiter
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import runs
from tests.api.service_fixture import ServiceFixture, serve_app


def refusals(limiter, *keys):
    """Those of the requests that were one too many."""

    async def ask():
        answers = await asyncio.gather(*(limiter.hit(key) for key in keys), return_exceptions=True)
        return [(key, error) for key, error in zip(keys, answers, strict=True) if error is not None]

    return asyncio.run(ask())


def test_requests_of_a_key_in_a_minute():
    [(key, error)] = refusals(RateLimiter(2), "a", "a", "b", "a", "b")
    assert (key, error.status, error.code) == ("a", 429, "too_many_requests")
    assert 1 <= int(error.headers["retry-after"]) <= 61


def test_without_an_answer_of_redis_each_process_counts(free_port):
    limiter = RateLimiter(2, f"redis://127.0.0.1:{free_port}")
    assert refusals(limiter, "a") == [], "the one that finds out is not counted"
    assert len(refusals(limiter, "a", "a", "a")) == 1


def test_a_key_that_asks_too_much_is_told_when_to_come_back(tmp_path, serve, house_of, refused):
    settings = ApiSettings(home=tmp_path, requests_per_minute=5)
    context = AppState(settings)
    with serve(settings) as url:
        narrow = house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
        with narrow.http("viewer") as viewer, narrow.http("submitter") as other:
            answers = [viewer.get("/v1/workers") for _ in range(11)]  # at most one minute ends meanwhile
            answer = refused(next(each for each in answers if each.status_code != 200), 429, "too_many_requests")
            assert "LCL_REQUESTS_PER_MINUTE" in answer["message"]
            assert other.get("/v1/workers").status_code == 200, "another key has its own minute"
            assert viewer.get("/healthz").status_code == 200
    context.close()


RUNS = 4
RUN = {"kind": "pretrain", "spec": {"preset": "sample"}}
STUDY = {"spec": {"pretrain": {"preset": "sample"}, "seeds": [5, 6, 7], "metrics": [{"name": "m", "metric": "IR@5"}]}}


@pytest.fixture
def small(tmp_path):
    """A service in which an owner may have four unfinished runs."""
    data = tmp_path / "data"
    data.mkdir()
    settings = ApiSettings(
        home=tmp_path / "home",
        data_roots=[data],
        welcome=False,
        queued_runs_per_owner=RUNS,
        _env_file=None,
    )
    with serve_app(settings) as url:
        context = AppState(settings)
        live_service = ServiceFixture(url, settings.home, context, (settings.home / "key").read_text().strip())
        yield live_service
        live_service.admin.close()
        context.close()


@pytest.fixture
def caller(small):
    with small.http("submitter") as client:
        yield client


def submitted(caller, **headers):
    return caller.post("/v1/runs", json=RUN, headers=headers)


def fill(caller, count=RUNS):
    answers = [submitted(caller) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json()["id"] for answer in answers]


def unfinished(live_service, owner="someone"):
    with live_service.context.database.reading() as session:
        return runs.unfinished_runs_by_owner(session, owner).get(owner, 0)


def test_one_more_run_is_refused_with_the_way_out(small, caller, refused):
    first, *_ = fill(caller)
    facts = refused(submitted(caller), 403, "forbidden")
    assert "LCL_QUEUED_RUNS_PER_OWNER" in facts["message"]
    assert "someone would have 5 unfinished runs, of 4" in facts["message"]
    assert unfinished(small) == RUNS
    assert caller.post(f"/v1/runs/{first}/cancel").is_success
    assert submitted(caller).status_code == 202


def test_another_owner_is_not_held_back(small, caller):
    fill(caller)
    other = small.admin.create_key("ada", "submitter")["key"]
    assert httpx.post(
        f"{small.url}/v1/runs", json=RUN, headers={"authorization": f"Bearer {other}"}, timeout=60, trust_env=False
    ).is_success


def test_a_repeated_request_counts_once(small, caller, refused):
    fill(caller, RUNS - 1)
    last = [submitted(caller, **{"Idempotency-Key": "last"}).json()["id"] for _ in range(3)]
    assert len(set(last)) == 1
    refused(submitted(caller, **{"Idempotency-Key": "next"}), 403, "forbidden")
    assert submitted(caller, **{"Idempotency-Key": "last"}).json()["id"] == last[0], "also when the quota is used up"
    assert unfinished(small) == RUNS


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_a_run_that_is_queued_again_counts(small, caller, refused, verb):
    first, *_ = fill(caller)
    assert caller.post(f"/v1/runs/{first}/cancel").is_success
    fill(caller, 1)
    refused(caller.post(f"/v1/runs/{first}/{verb}"), 403, "forbidden")
    assert caller.get(f"/v1/runs/{first}").json()["state"] == "cancelled"


def test_every_run_of_a_study_counts(small, caller, refused):
    fill(caller, 2)
    refused(caller.post("/v1/studies", json=STUDY), 403, "forbidden")
    assert caller.get("/v1/studies").json()["items"] == []
    assert unfinished(small) == 2


def test_a_study_that_fits_grows_and_resumes_within_the_quota(small, caller, refused):
    study = caller.post("/v1/studies", json=STUDY).json()["id"]
    refused(caller.post(f"/v1/studies/{study}/extend", json={"seeds": [8, 9]}), 403, "forbidden")
    assert caller.get(f"/v1/studies/{study}").json()["spec"]["seeds"] == [5, 6, 7]
    assert caller.post(f"/v1/studies/{study}/cancel").is_success
    fill(caller, 2)
    refused(caller.post(f"/v1/studies/{study}/resume"), 403, "forbidden")
    assert unfinished(small) == 2


def test_many_at_once_do_not_overrun_it(small, caller):
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: submitted(caller).status_code, range(24)))
    assert sorted(answers) == [202] * RUNS + [403] * (24 - RUNS)
    assert unfinished(small) == RUNS
