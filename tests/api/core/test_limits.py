"""How much one key may ask: counted by the clock, and at a real service with streams that stay open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest

from api.core.auth import Principal
from api.core.errors import Problem
from api.core.limits import Quotas, RateLimiter, SharedCall
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import complete_run, runs
from lcl_core.db import quotas as db_quotas
from tests.api.sample_assets import images_by_colour, make_collection, png, save_encoder
from tests.api.service_fixture import ServiceFixture, serve_app
from tests.api.services.test_image_memory import url_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STREAMS = 100  # of an owner


@contextmanager
def slot(limiter: RateLimiter, key: str = "a", *, owner: str = "ada", stream: bool = False) -> Iterator[None]:
    with limiter.acquire(Principal(owner, "viewer", key)) as held:
        if stream:
            held.become_stream()
        yield


def ask(limiter: RateLimiter, key: str = "a") -> None:
    with slot(limiter, key):
        pass


def wait_of(limiter: RateLimiter, key: str = "a", **more: Any) -> str:
    with pytest.raises(Problem) as caught, slot(limiter, key, **more):
        pass
    assert (caught.value.status, caught.value.code) == (429, "too_many_requests")
    assert caught.value.headers is not None
    return caught.value.headers["retry-after"]


def test_a_minutes_requests_come_back_with_time() -> None:
    clock = Clock()
    limiter = RateLimiter(6, 10, STREAMS, clock)
    for _ in range(6):
        ask(limiter)
    assert wait_of(limiter) == "10"
    clock.now = 4.5
    assert wait_of(limiter) == "6", "and what was refused costs nothing"
    clock.now = 10.0
    ask(limiter)
    clock.now = 1000.0
    for _ in range(6):
        ask(limiter)
    assert wait_of(limiter) == "10", "never more than a minute's are saved up"


def test_keys_do_not_share() -> None:
    limiter = RateLimiter(1, 1, STREAMS, Clock())
    ask(limiter, "a")
    ask(limiter, "b")
    wait_of(limiter, "a")


def test_places_are_given_back_whatever_happens() -> None:
    limiter = RateLimiter(100, 2, STREAMS, Clock())
    with slot(limiter, "a"), slot(limiter, "a"):
        assert wait_of(limiter) == "1"
        assert limiter.in_use() == {"request": 2, "stream": 0}
    with pytest.raises(ZeroDivisionError), slot(limiter, "a"):
        raise ZeroDivisionError
    assert limiter.in_use() == {"request": 0, "stream": 0}


def test_streams_hold_half_of_the_places_at_most() -> None:
    limiter = RateLimiter(100, 4, STREAMS, Clock())
    with slot(limiter, "a", stream=True), slot(limiter, "a", stream=True):
        wait_of(limiter, stream=True)
        with slot(limiter, "a"), slot(limiter, "a"):
            wait_of(limiter)
        assert limiter.in_use() == {"request": 0, "stream": 2}
    with slot(RateLimiter(100, 1, STREAMS, Clock()), stream=True):
        pass  # one slot: a stream may have it


def test_streams_of_one_owner_are_bounded_over_all_keys() -> None:
    limiter = RateLimiter(100, 10, 3, Clock())
    with slot(limiter, "a", stream=True), slot(limiter, "b", stream=True), slot(limiter, "c", stream=True):
        wait_of(limiter, "d", stream=True)
        with slot(limiter, "e", owner="bob", stream=True), slot(limiter, "d"):
            assert limiter.in_use() == {"request": 1, "stream": 4}
    with slot(limiter, "d", stream=True):
        assert limiter.in_use() == {"request": 0, "stream": 1}


def test_a_call_is_shared_by_all_who_ask_until_its_result_expires() -> None:
    clock, made, asked = Clock(), list[int](), Barrier(2)
    shared = SharedCall[int](1.0, clock)

    def call() -> int:
        if not made:
            asked.wait(60)
        made.append(len(made))
        return made[-1]

    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(shared.get, call) for _ in range(4)]
        asked.wait(60)
        assert {each.result(60) for each in results} == {0}
    clock.now = 0.9
    assert shared.get(call) == 0
    clock.now = 1.0
    assert shared.get(call) == 1
    with pytest.raises(ZeroDivisionError):
        SharedCall[float](1.0, clock).get(lambda: 1 / 0)


@pytest.fixture
def narrow(tmp_path: Path, serve: Any, house_of: Callable[..., Any]) -> Iterator[Any]:
    """A service whose keys have 40 requests a minute, 4 at once."""
    settings = ApiSettings(
        home=tmp_path, requests_per_minute=40, requests_at_once=4, event_poll_seconds=0.02, event_stream_seconds=600
    )
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
    context.close()


def places(live_service: Any) -> str:
    with live_service.http(None) as anonymous:
        lines = anonymous.get("/metrics").text.splitlines()
    return " ".join(line.removeprefix("lcl_places") for line in lines if line.startswith("lcl_places"))


def test_a_key_that_asks_too_much_is_reported_when_to_come_back(narrow: Any, refused: Any) -> None:
    with narrow.http("viewer") as viewer, narrow.http("submitter") as other, narrow.http(None) as anonymous:
        answers = []
        while not answers or (answers[-1].status_code == 200 and len(answers) < 200):  # some come back meanwhile
            answers.append(viewer.get("/v1/workers"))
        assert len(answers) > 40
        refused(answers[-1], 429, "too_many_requests")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
        assert other.get("/v1/workers").status_code == 200, "another key has its own minute"
        assert [anonymous.get("/healthz").status_code for _ in range(60)] == [200] * 60
        assert viewer.get("/healthz").status_code == 200


def test_open_streams_leave_room_and_give_their_places_back(narrow: Any, refused: Any, eventually: Any) -> None:
    path = f"/v1/runs/{narrow.submit()}/events"
    with narrow.http("admin") as client:
        with ExitStack() as streams:
            for _ in range(2):
                streams.enter_context(client.stream("GET", path))
            eventually(lambda: places(narrow) == '{kind="request"} 0.0 {kind="stream"} 2.0', "both counted")
            assert "streams" in refused(client.get(path), 429, "too_many_requests")["message"]
            assert client.get("/v1/workers").status_code == 200
        eventually(lambda: 'kind="stream"} 0.0' in places(narrow), "places given back")
        with client.stream("GET", path) as opened:
            assert opened.status_code == 200


def test_a_stream_that_grew_old_ends_and_its_reader_goes_on(
    tmp_path: Path, serve: Any, house_of: Callable[..., Any]
) -> None:
    settings = ApiSettings(home=tmp_path, event_poll_seconds=0.01, event_stream_seconds=0.05)
    context = AppState(settings)
    with serve(settings) as url:
        live_service = house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
        run_id = live_service.submit()
        with live_service.http() as client:
            assert "event: state" in client.get(f"/v1/runs/{run_id}/events").text, "it ends though the run does not"
        events = live_service.admin.events(run_id)
        seen = [next(events) for _ in range(3)]
        assert {event["data"]["state"] for event in seen} == {"queued"}, "each time it comes back it is told the state"
        live_service.admin.cancel(run_id)
        assert [event["data"]["state"] for event in events][-1] == "cancelled"
    context.close()


RUNS = 4
RUN = {"kind": "pretrain", "spec": {"preset": "sample"}}
STUDY = {"spec": {"pretrain": {"preset": "sample"}, "seeds": [5, 6, 7], "metrics": [{"name": "m", "metric": "IR@5"}]}}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ServiceFixture]:
    """A service in which an owner may have four unfinished runs and few bytes."""
    data = tmp_path / "data"
    weights = sum(file.stat().st_size for file in save_encoder(data / "tiny").iterdir())
    settings = ApiSettings(
        home=tmp_path / "home",
        data_roots=[data],
        welcome=False,
        queued_runs_per_owner=RUNS,
        bytes_per_owner=2 * weights + 100_000,
        _env_file=None,  # type: ignore[call-arg]
    )
    with serve_app(settings) as url:
        context = AppState(settings)
        live_service = ServiceFixture(url, settings.home, context, (settings.home / "key").read_text().strip())
        yield live_service
        live_service.admin.close()
        context.close()


@pytest.fixture
def caller(small: ServiceFixture) -> Iterator[httpx.Client]:
    with small.http("submitter") as client:
        yield client


def submitted(caller: httpx.Client, **headers: str) -> httpx.Response:
    return caller.post("/v1/runs", json=RUN, headers=headers)


def fill(caller: httpx.Client, count: int = RUNS) -> list[str]:
    answers = [submitted(caller) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json()["id"] for answer in answers]


def unfinished(live_service: ServiceFixture, owner: str = "someone") -> int:
    with live_service.context.database.reading() as session:
        return db_quotas.count_unfinished_runs(session, owner)


def test_one_more_run_is_refused_with_the_way_out(small: ServiceFixture, caller: httpx.Client, refused: Any) -> None:
    first, *_ = fill(caller)
    facts = refused(submitted(caller), 403, "quota_exceeded")
    assert "LCL_QUEUED_RUNS_PER_OWNER" in facts["message"]
    assert "someone has 4 unfinished runs and would have 5, of 4" in facts["message"]
    assert unfinished(small) == RUNS
    assert caller.post(f"/v1/runs/{first}/cancel").is_success
    assert submitted(caller).status_code == 202


def test_another_owner_is_not_held_back(small: ServiceFixture, caller: httpx.Client) -> None:
    fill(caller)
    other = small.admin.create_key("ada", "submitter")["key"]
    assert httpx.post(
        f"{small.url}/v1/runs", json=RUN, headers={"authorization": f"Bearer {other}"}, timeout=60, trust_env=False
    ).is_success


def test_a_repeated_request_counts_once(small: ServiceFixture, caller: httpx.Client, refused: Any) -> None:
    fill(caller, RUNS - 1)
    last = [submitted(caller, **{"Idempotency-Key": "last"}).json()["id"] for _ in range(3)]
    assert len(set(last)) == 1
    refused(submitted(caller, **{"Idempotency-Key": "next"}), 403, "quota_exceeded")
    assert submitted(caller, **{"Idempotency-Key": "last"}).json()["id"] == last[0], "also when the quota is used up"
    assert unfinished(small) == RUNS


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_a_run_that_is_queued_again_counts(
    small: ServiceFixture, caller: httpx.Client, refused: Any, verb: str
) -> None:
    first, *_ = fill(caller)
    assert caller.post(f"/v1/runs/{first}/cancel").is_success
    fill(caller, 1)
    refused(caller.post(f"/v1/runs/{first}/{verb}"), 403, "quota_exceeded")
    assert caller.get(f"/v1/runs/{first}").json()["state"] == "cancelled"


def test_a_validation_counts(caller: httpx.Client, refused: Any) -> None:
    fill(caller)
    refused(caller.post("/v1/datasets/sample/validate"), 403, "quota_exceeded")


def test_every_run_of_a_study_counts(small: ServiceFixture, caller: httpx.Client, refused: Any) -> None:
    fill(caller, 2)
    refused(caller.post("/v1/studies", json=STUDY), 403, "quota_exceeded")
    assert caller.get("/v1/studies").json()["items"] == []
    assert unfinished(small) == 2


def test_a_study_that_fits_grows_and_resumes_within_the_quota(
    small: ServiceFixture, caller: httpx.Client, refused: Any
) -> None:
    study = caller.post("/v1/studies", json=STUDY).json()["id"]
    refused(caller.post(f"/v1/studies/{study}/extend", json={"seeds": [8, 9]}), 403, "quota_exceeded")
    assert caller.get(f"/v1/studies/{study}").json()["spec"]["seeds"] == [5, 6, 7]
    assert caller.post(f"/v1/studies/{study}/cancel").is_success
    fill(caller, 2)
    refused(caller.post(f"/v1/studies/{study}/resume"), 403, "quota_exceeded")
    assert unfinished(small) == 2


def test_many_at_once_do_not_overrun_it(small: ServiceFixture, caller: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: submitted(caller).status_code, range(24)))
    assert sorted(answers) == [202] * RUNS + [403] * (24 - RUNS)
    assert unfinished(small) == RUNS


def imported(caller: httpx.Client, small: ServiceFixture, name: str) -> httpx.Response:
    path = small.context.settings.data_roots[0]
    return caller.post("/v1/encoders", json={"name": name, "path": f"{path}/tiny"})


def test_imports_fill_the_bytes_and_leave_nothing_when_refused(
    small: ServiceFixture, caller: httpx.Client, refused: Any
) -> None:
    assert [imported(caller, small, name).status_code for name in ("one", "two")] == [201, 201]
    folders = sorted(small.context.settings.encoders_dir.iterdir())
    facts = refused(imported(caller, small, "three"), 403, "quota_exceeded")
    assert "LCL_BYTES_PER_OWNER" in facts["message"]
    assert sorted(small.context.settings.encoders_dir.iterdir()) == folders
    with small.context.database.reading() as session:
        kept = db_quotas.owner_bytes(session, "someone")
    assert kept == sum(file.stat().st_size for folder in folders for file in folder.iterdir())


def test_additions_fill_the_bytes_until_the_collection_is_deleted(
    small: ServiceFixture, caller: httpx.Client, refused: Any
) -> None:
    path = small.context.settings.data_roots[0]
    encoder = small.admin.import_encoder("tiny", f"{path}/tiny")
    make_collection(small, encoder, Path(path) / "tiny", images_by_colour())
    item = {"image": url_of(png("red", (64, 64))), "name": "a"}
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


def test_who_keeps_too_much_submits_and_registers_nothing(
    small: ServiceFixture, caller: httpx.Client, refused: Any, sample_zip: Path
) -> None:
    with small.context.database.session() as session:
        db_quotas.record_bytes(session, "encoders/enc_x", "someone", small.context.settings.bytes_per_owner)
    corpus = Path(small.context.settings.data_roots[0]) / "corpus.zip"
    corpus.write_bytes(sample_zip.read_bytes())
    message = refused(submitted(caller), 403, "quota_exceeded")["message"]
    assert "delete runs, datasets, encoders, collections or uploads" in message, "all of them are charged"
    assert "an admin raise LCL_BYTES_PER_OWNER (0: no limit)" in message
    refused(caller.post("/v1/studies", json=STUDY), 403, "quota_exceeded")
    refused(caller.post("/v1/datasets", json={"name": "x", "path": str(corpus)}), 403, "quota_exceeded")


def test_a_run_counts_until_it_is_deleted_and_what_it_made_stays(small: ServiceFixture, tmp_path: Path) -> None:
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


def test_everybody_sees_what_is_theirs(small: ServiceFixture, caller: httpx.Client, lcl_of: Any) -> None:
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
    out = lcl_of(small, "quota")
    assert "2 of 4" in out
    assert "ada" in out


@pytest.fixture
def lcl_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    from api.cli import main

    def run(live_service: ServiceFixture, *arguments: str) -> str:
        monkeypatch.setenv("LCL_API_URL", live_service.url)
        monkeypatch.setenv("LCL_API_KEY", live_service.keys["admin"])
        monkeypatch.setattr("sys.argv", ["lcl", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    return run


def test_far_below_the_limit_nothing_is_counted(small: ServiceFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    monkeypatch.setattr(db_quotas, "count_unfinished_runs", lambda session, owner: counted.append(owner) or 0)
    moment = [0.0]
    quotas = Quotas(1000, 0, clock=lambda: moment[0])

    def pass_through(times: int) -> int:
        counted.clear()
        with small.context.database.session() as session:
            for _ in range(times):
                with quotas.admit_runs(session, "ada", 1):
                    pass
        return len(counted)

    assert pass_through(1) == 2, "before and after"
    assert pass_through(250) == 0, "a quarter of the room"
    assert pass_through(1) == 2
    moment[0] = 60.0
    assert pass_through(1) == 2, "what was counted long ago is not believed"


def test_without_limits_nothing_is_asked(small: ServiceFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise AssertionError("nobody needs to know")

    monkeypatch.setattr(db_quotas, "count_unfinished_runs", fail)
    monkeypatch.setattr(db_quotas, "owner_bytes", fail)
    with small.context.database.session() as session:
        with Quotas(0, 0).admit_runs(session, "ada"):
            pass
        Quotas(0, 0).check_bytes(session, "ada", 1 << 60)
