"""Webhooks over REST: an admin's, on allowed hosts, the secret shown once."""

from typing import get_args

import httpx
import pytest

from api.core.settings import ApiSettings
from lcl_core.db.webhooks import NOTIFIED_STATES, RunEvent, master_secret, webhook_secret

URL = "https://hooks.example.org/lcl"


@pytest.fixture(scope="module")
def hooked(serve, house_of, tmp_path_factory):
    """A service that may tell hooks.example.org."""
    from api.services.state import AppState

    home = tmp_path_factory.mktemp("hooked")
    settings = ApiSettings(home=home, webhook_hosts=["hooks.example.org"], _env_file=None)
    with serve(settings) as url:
        context = AppState(settings)
        yield house_of(url, home, context, (home / "key").read_text().strip())
        context.close()


def test_a_webhook_hears_of_runs_and_its_secret_is_shown_once(hooked):
    made = hooked.admin.create_webhook(URL, ["run.cancelled"])
    assert made["secret"] == webhook_secret(master_secret("", hooked.home), made["id"])
    assert [row["id"] for row in hooked.admin.webhooks()] == [made["id"]]
    assert "secret" not in hooked.admin.webhooks()[0]
    run_id = hooked.submit()
    hooked.admin.cancel(run_id)
    (reported,) = hooked.admin.deliveries(made["id"])
    assert (reported["event"], reported["payload"]["run"]["id"]) == ("run.cancelled", run_id)
    assert (reported["attempts"], reported["done_at"], reported["error"]) == (0, None, None)
    text = httpx.get(f"{hooked.url}/metrics", trust_env=False).text
    assert "lcl_webhook_pending 1.0" in text
    hooked.admin.delete_webhook(made["id"])
    assert hooked.admin.webhooks() == []


def test_without_a_choice_it_hears_everything(hooked):
    made = hooked.admin.create_webhook(URL)
    assert set(made["events"]) == set(get_args(RunEvent)) == {f"run.{state.value}" for state in NOTIFIED_STATES}
    hooked.admin.delete_webhook(made["id"])


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"url": "https://evil.example/"}, "invalid_value", "url"),
        ({"url": "https://hooks.example.org@evil.example/"}, "invalid_value", "url"),
        ({"url": "file:///etc/passwd"}, "invalid_value", "url"),
        ({"url": "https://hooks.example.org/\r\nx-evil: 1"}, "invalid_value", "url"),
        ({"url": URL, "events": ["run.started"]}, "invalid_value", "events.0"),
        ({"url": URL, "events": []}, "invalid_value", "events"),
        ({"url": URL, "secret": "mine"}, "invalid_value", "secret"),
    ],
)
def test_what_is_not_allowed_is_refused(hooked, refused, body, code, field):
    with hooked.http() as http:
        refused(http.post("/v1/webhooks", json=body), 422, code, field)
    assert hooked.admin.webhooks() == []


def test_only_admins_may(hooked, refused):
    with hooked.http("submitter") as http:
        refused(http.post("/v1/webhooks", json={"url": URL}), 403, "forbidden")
        refused(http.get("/v1/webhooks"), 403, "forbidden")
    with hooked.http() as http:
        refused(http.get("/v1/webhooks/hook_none/deliveries"), 404, "not_found")
        refused(http.delete("/v1/webhooks/hook_none"), 404, "not_found")
