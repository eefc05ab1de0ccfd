"""Server-sent events: in order, to the end, and taken up where they broke."""

import threading

from api.client.transport import parse_events
from api.services.runs import make_event
from lcl_core.db import complete_run, runs


def line(step):
    return {"step": step, "total_steps": 30, "contrastive_loss": 2.0, "generation_loss": 3.0}


def test_a_finished_runs_events_end_with_its_state(live_service):
    run_id = live_service.submit()
    claim = live_service.claim(run_id)
    live_service.record(claim, line(10), line(20))
    live_service.settle(claim, complete_run.RunFailed({"code": "crash", "message": "it fell over"}))
    events = list(live_service.admin.events(run_id))
    assert [event["event"] for event in events] == ["metrics", "metrics", "state"]
    assert [event["data"]["step"] for event in events[:2]] == [10, 20]
    assert events[-1]["data"]["state"] == "failed"
    assert events[-1]["data"]["reason"]["code"] == "crash"


def test_events_come_while_the_run_is_at_work(live_service):
    run_id = live_service.submit()
    seen = []
    progress = []
    moved = threading.Condition()

    def read():
        for event in live_service.admin.events(run_id):
            with moved:
                seen.append((event["event"], event["data"].get("state") or event["data"]["step"]))
                moved.notify_all()

    def wait_for(event):
        with moved:
            assert moved.wait_for(lambda: event in seen, timeout=180), f"{event} is not among {seen}"

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(("state", "queued"))
    claim = live_service.claim(run_id)
    wait_for(("state", "running"))
    live_service.record(claim, line(10))
    wait_for(("metrics", 10))
    live_service.settle(claim, complete_run.RunCancelled())
    reader.join(30)
    assert seen[-1] == ("state", "cancelled")
    assert live_service.admin.wait(run_id, progress.append)["state"] == "cancelled"
    assert [entry["step"] for entry in progress] == [10]


def test_last_event_id_resumes_without_repeating(live_service, http):
    run_id = live_service.submit()
    claim = live_service.claim(run_id)
    live_service.record(claim, *[line(step) for step in (10, 20, 30)])
    live_service.settle(claim, complete_run.RunCancelled())
    url = f"/v1/runs/{run_id}/events"
    with http.stream("GET", url) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        first = list(parse_events(response.iter_lines()))
    with http.stream("GET", url, headers={"last-event-id": first[1]["id"]}) as response:
        rest = list(parse_events(response.iter_lines()))
    assert [event["data"].get("step") for event in rest] == [30, None]


def test_a_bad_last_event_id_is_refused(live_service, http, refused):
    answer = http.get(f"/v1/runs/{live_service.submit()}/events", headers={"last-event-id": "yesterday"})
    refused(answer, 422, field="last-event-id")


def test_a_deleted_run_ends_the_stream(live_service, http):
    run_id = live_service.submit()
    with http.stream("GET", f"/v1/runs/{run_id}/events") as response:
        events = parse_events(response.iter_lines())
        assert next(events)["data"]["state"] == "queued"
        with live_service.context.database.session() as session:
            runs.cancel_run(session, run_id)
            runs.delete_run(session, run_id)
        assert list(events) == []


def test_a_comment_is_no_event():
    lines = [": ping", "id: 4", "event: metrics", 'data: {"a": "x: y"}', "", ": ping", ""]
    assert list(parse_events(iter(lines))) == [{"id": "4", "event": "metrics", "data": {"a": "x: y"}}]


def test_events_may_contain_characters_at_which_python_splits_lines():
    data = {"notes": "one\u2028two\u2029three\x85four\x0bfive\x1csix"}
    lines = make_event(1, "state", data).decode().splitlines()
    assert list(parse_events(iter(lines))) == [{"id": "1", "event": "state", "data": data}]
