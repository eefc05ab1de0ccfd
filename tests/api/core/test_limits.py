"""How much one key may ask, and how much one owner may queue and keep."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api.core.limits import RateLimiter
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import complete_run, runs
from lcl_core.db import quotas as db_quotas
from tests.api.sample_assets import images_by_colour, make_collection, png, save_encoder
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


def test_without_an_answer_of_redis_a_process_counts_for_itself(free_port):
    limiter = RateLimiter(2, f"redis://127.0.0.1:{free_port}")
    assert refusals(limiter, "a") == []
    assert [key for key, _ in refusals(limiter, "a", "a", "a")] == ["a"]


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
    """A service in which an owner may have four unfinished runs and few bytes."""
    data = tmp_path / "data"
    weights = sum(file.stat().st_size for file in save_encoder(data / "tiny").iterdir())
    settings = ApiSettings(
        home=tmp_path / "home",
        data_roots=[data],
        welcome=False,
        queued_runs_per_owner=RUNS,
        bytes_per_owner=2 * weights + 100_000,
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
        return db_quotas.count_unfinished_runs(session, owner)


def test_one_more_run_is_refused_with_the_way_out(small, caller, refused):
    first, *_ = fill(caller)
    facts = refused(submitted(caller), 403, "quota_exceeded")
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
    refused(submitted(caller, **{"Idempotency-Key": "next"}), 403, "quota_exceeded")
    assert submitted(caller, **{"Idempotency-Key": "last"}).json()["id"] == last[0], "also when the quota is used up"
    assert unfinished(small) == RUNS


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_a_run_that_is_queued_again_counts(small, caller, refused, verb):
    first, *_ = fill(caller)
    assert caller.post(f"/v1/runs/{first}/cancel").is_success
    fill(caller, 1)
    refused(caller.post(f"/v1/runs/{first}/{verb}"), 403, "quota_exceeded")
    assert caller.get(f"/v1/runs/{first}").json()["state"] == "cancelled"


def test_every_run_of_a_study_counts(small, caller, refused):
    fill(caller, 2)
    refused(caller.post("/v1/studies", json=STUDY), 403, "quota_exceeded")
    assert caller.get("/v1/studies").json()["items"] == []
    assert unfinished(small) == 2


def test_a_study_that_fits_grows_and_resumes_within_the_quota(small, caller, refused):
    study = caller.post("/v1/studies", json=STUDY).json()["id"]
    refused(caller.post(f"/v1/studies/{study}/extend", json={"seeds": [8, 9]}), 403, "quota_exceeded")
    assert caller.get(f"/v1/studies/{study}").json()["spec"]["seeds"] == [5, 6, 7]
    assert caller.post(f"/v1/studies/{study}/cancel").is_success
    fill(caller, 2)
    refused(caller.post(f"/v1/studies/{study}/resume"), 403, "quota_exceeded")
    assert unfinished(small) == 2


def test_many_at_once_do_not_overrun_it(small, caller):
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: submitted(caller).status_code, range(24)))
    assert sorted(answers) == [202] * RUNS + [403] * (24 - RUNS)
    assert unfinished(small) == RUNS


def imported(caller, small, name):
    path = small.context.settings.data_roots[0]
    return caller.post("/v1/encoders", json={"name": name, "path": f"{path}/tiny"})


def test_imports_fill_the_bytes_and_leave_nothing_when_refused(small, caller, refused):
    assert [imported(caller, small, name).status_code for name in ("one", "two")] == [201, 201]
    folders = sorted(small.context.settings.encoders_dir.iterdir())
    facts = refused(imported(caller, small, "three"), 403, "quota_exceeded")
    assert "LCL_BYTES_PER_OWNER" in facts["message"]
    assert sorted(small.context.settings.encoders_dir.iterdir()) == folders
    with small.context.database.reading() as session:
        kept = db_quotas.owner_bytes(session, "someone")
    assert kept == sum(file.stat().st_size for folder in folders for file in folder.iterdir())


def test_additions_fill_the_bytes_until_the_collection_is_deleted(small, caller, refused):
    path = small.context.settings.data_roots[0]
    encoder = small.admin.import_encoder("tiny", f"{path}/tiny")
    make_collection(small, encoder, Path(path) / "tiny", images_by_colour())
    item = {"image": "data:image/png;base64," + base64.b64encode(png("red", (64, 64))).decode(), "name": "a"}
    add = {"items": [item], "replace": True}
    headers = {"Idempotency-Key": "once"}
    answers = [caller.post("/v1/collections/squares/items", json=add, headers=headers) for _ in range(2)]
    answers.append(caller.post("/v1/collections/squares/items", json=add))
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    with small.context.database.session() as session:
        once = db_quotas.owner_bytes(session, "someone")
        assert 0 < once < 1000, "a repetition counts once, and so does what replaces it"
        db_quotas.record_bytes(session, "encoders/enc_x", "someone", small.context.settings.bytes_per_owner - once)
    more = {"items": [{**item, "name": "b"}]}
    refused(caller.post("/v1/collections/squares/items", json=more), 403, "quota_exceeded")
    assert caller.post("/v1/collections/squares/items", json=add).status_code == 201, "it needs no more bytes"
    assert small.admin.collection("squares")["images"] == 5
    assert small.http("admin").delete("/v1/collections/squares").status_code == 204
    with small.context.database.session() as session:
        assert db_quotas.owner_bytes(session, "someone") == small.context.settings.bytes_per_owner - once


def test_who_keeps_too_much_submits_and_registers_nothing(small, caller, refused, sample_zip):
    with small.context.database.session() as session:
        db_quotas.record_bytes(session, "encoders/enc_x", "someone", small.context.settings.bytes_per_owner)
    corpus = Path(small.context.settings.data_roots[0]) / "corpus.zip"
    corpus.write_bytes(sample_zip.read_bytes())
    message = refused(submitted(caller), 403, "quota_exceeded")["message"]
    assert "delete runs, datasets, encoders, collections or uploads" in message, "all of them are charged"
    assert "LCL_BYTES_PER_OWNER" in message
    refused(caller.post("/v1/studies", json=STUDY), 403, "quota_exceeded")
    refused(caller.post("/v1/datasets", json={"name": "x", "path": str(corpus)}), 403, "quota_exceeded")


def test_a_run_counts_until_it_is_deleted_and_what_it_made_stays(small, tmp_path):
    run_id = small.submit()
    claim = small.claim(run_id)
    folder = save_encoder(small.run_dir(run_id).artifacts / "encoder")
    (small.run_dir(run_id).path / "log.txt").write_bytes(bytes(3_000))
    from lcl_core.common.files import sha256_file

    facts = {"path": "artifacts/encoder", "hash": sha256_file(folder / "model.safetensors")}
    small.settle(claim, complete_run.RunSucceeded({"encoder": facts}))
    made = sum(file.stat().st_size for file in folder.iterdir())
    with small.context.database.reading() as session:
        owner = runs.get_run(session, run_id).owner
        assert db_quotas.owner_bytes(session, owner) >= 2 * made + 3_000
    assert small.http("admin").delete(f"/v1/runs/{run_id}").status_code == 204
    with small.context.database.reading() as session:
        assert db_quotas.owner_bytes(session, owner) == made


def test_everybody_sees_what_is_theirs(small, caller):
    fill(caller, 2)
    [row] = caller.get("/v1/quotas").json()["items"]
    limits = {"runs_limit": RUNS, "bytes_limit": small.context.settings.bytes_per_owner}
    assert row == {"owner": "someone", "runs": 2, "bytes": 0, **limits}
    with small.context.database.session() as session:
        db_quotas.record_bytes(session, "encoders/enc_x", "ada", 7)
    assert {(row["owner"], row["runs"], row["bytes"]) for row in small.admin.quotas()} == {
        ("ada", 0, 7),
        ("someone", 2, 0),
    }
