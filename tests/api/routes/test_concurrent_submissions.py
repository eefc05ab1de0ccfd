"""Many more submissions at once than there are threads, on SQLite, where one writes at a time."""

from concurrent.futures import ThreadPoolExecutor

AT_ONCE, EACH = 64, 3


def test_all_of_them_come_through(live_service):
    def submit(number):
        with live_service.http() as http:
            return [_submit(http, number * EACH + turn) for turn in range(EACH)]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [status for found in pool.map(submit, range(AT_ONCE)) for status in found]
    assert answers == [202] * (AT_ONCE * EACH), "none is told that the database is away"


def _submit(http, seed):
    return http.post("/v1/runs", json={"kind": "pretrain", "spec": {"seed": seed}}).status_code
