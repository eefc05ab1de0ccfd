"""A service with objects of several owners: Ada's carry a mark that only Ada and admins may ever see."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Metric, WebhookDelivery
from lcl_core.db.session import now
from tests.api.fuzzing.description import SMALL, Names
from tests.api.sample_assets import images_by_colour, make_collection, save_encoder
from tests.api.service_fixture import ServiceFixture, serve_app

MARK = "zanzibarquokka"
STATES = ("queued", "running", "failed", "succeeded", "cancelled", "paused", "pausing", "cancelling")
STUDY = {
    "question": f"What does {MARK} hide?",
    "metrics": [{"name": "IR@5", "metric": "IR@5"}],
    "pretrain": {**SMALL, "steps": 7},
    "seeds": [1, 2],
}


@dataclass(frozen=True)
class ApiUser:
    """Who asks.

    Attributes:
        sees: whether Ada's things are there for this caller.
        ends: whether this caller may change and end them, and so is given others than those that must stay.
    """

    role: str
    key: str | None
    sees: bool = False
    ends: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


class MultiOwnerFixture:
    """Who there is, and what they may name.

    Args:
        live_service: a service without any data yet.
        data_root: of its corpora.
        serving: make an encoder and a collection to search, for which torch is imported.
    """

    def __init__(self, live_service: ServiceFixture, data_root: Path, *, serving: bool) -> None:
        self.live_service = live_service
        self._root = data_root
        for folder in (data_root / "corpus", data_root / MARK):
            folder.mkdir()
            (folder / "red.png").write_bytes(images_by_colour()["red"])
        encoder_dir = data_root / "tiny-encoder"
        if serving:
            encoder = live_service.admin.import_encoder("tiny", str(save_encoder(encoder_dir)))
            make_collection(live_service, encoder, encoder_dir, images_by_colour())
        key = {
            (owner, role): live_service.admin.create_key(owner, role)["key"]
            for owner, role in (("ada", "submitter"), ("ada", "viewer"), ("bob", "submitter"), ("bob", "viewer"))
        }
        self._ada = key["ada", "submitter"]
        self.callers = (
            ApiUser("stranger", None),
            ApiUser("other reader", key["bob", "viewer"]),
            ApiUser("other user", key["bob", "submitter"]),
            ApiUser("reader", key["ada", "viewer"], sees=True),
            ApiUser("user", self._ada, sees=True, ends=True),
            ApiUser("admin", live_service.admin.create_key("root", "admin")["key"], sees=True, ends=True),
        )
        self._shared = self._what_is_shared()
        self._kept = self._adas(STATES)

    def names(self, ends: bool) -> Names:
        """What requests may name: for callers that can end things, such as were made for that just now."""
        return {**self._shared, **(self._adas(STATES) if ends else self._kept)}

    def _adas(self, states: tuple[str, ...]) -> dict[tuple[str, str], list[Any]]:
        """New things of Ada's: a run of each state and one that waits, a study, a webhook and a key."""
        from api.client import Client

        with Client(self.live_service.url, self._ada, attempts=1) as ada:
            spec = {"path": str(self._root / MARK)}
            runs = [ada.submit("validate", spec, name=MARK, tags=[MARK])["id"] for _ in states]
            waiting = ada.submit("pretrain", SMALL, name=MARK, tags=[MARK], after=[runs[0]])["id"]
            study = ada.submit_study(STUDY, MARK)["id"]
        hook = self.live_service.admin.create_webhook(f"https://hooks.example.org/{MARK}", ["run.failed"])["id"]
        prefix = self.live_service.admin.create_key(MARK, "viewer")["prefix"]
        for run_id, state in zip(runs, states, strict=True):
            self._bring(run_id, state, hook)
        return {
            ("/v1/runs/", "run_id"): [*runs, waiting, "run_absent"],
            ("", "after"): [*runs, "run_absent"],
            ("/v1/studies/", "study_id"): [study, "study_absent"],
            ("/v1/webhooks/", "webhook_id"): [hook, "hook_absent"],
            ("/v1/keys/", "prefix"): [prefix, "lcl_absent"],
        }

    def _bring(self, run_id: str, state: str, hook: str) -> None:
        """The run as it would be in that state, with everything that a run can have said."""
        folder = self.live_service.run_dir(run_id)
        folder.log_file.write_text(f"{MARK}\n" * 3, encoding="utf-8")
        folder.artifacts.mkdir(exist_ok=True)
        (folder.artifacts / "report.json").write_text(f'"{MARK}"', encoding="utf-8")
        facts = {"code": "crash", "message": MARK}
        with self.live_service.context.database.session() as session:
            run = db_runs.get_run(session, run_id)
            run.state, run.progress = state, {"step": 2, "loss": 1.0, "note": MARK}
            run.reason = facts if state == "failed" else None
            run.result = {"report": {"note": MARK}} if state == "succeeded" else None
            lines = ({"step": step, "loss": 1.0, "note": MARK} for step in (1, 2))
            session.add_all(Metric(run_id=run_id, phase="", step=line["step"], values=line) for line in lines)
            if state == "failed":
                moment = now(session)
                sent = {"id": f"evt_{run_id}", "webhook_id": hook, "event": "run.failed", "payload": {"note": MARK}}
                session.add(WebhookDelivery(**sent, next_at=moment, created_at=moment, attempts=1, error=MARK))

    def _what_is_shared(self) -> dict[tuple[str, str], list[Any]]:
        sample_image = "data:image/png;base64," + base64.b64encode(images_by_colour()["red"]).decode()
        broken, (image, *_) = "data:image/png;base64,AAAA", self._images()
        encoders, datasets = ["tiny", "absent"], ["sample", "absent"]
        paths = [str(self._root / name) for name in ("corpus", "tiny-encoder", "absent")]
        return {
            ("/v1/datasets/", "name"): datasets,
            ("/v1/datasets/", "image"): [image, "absent.png"],
            ("/v1/collections/", "name"): ["squares", "absent"],
            ("/v1/collections/", "item"): ["red.png", "absent.png"],
            ("/v1/encoders/", "encoder"): encoders,
            ("/v1/encoders/", "left"): encoders,
            ("/v1/encoders/", "right"): encoders,
            ("/v1/encoders/{encoder}/export", "format"): ["lcl", "openclip"],  # the others each take a process
            ("/v1/specs/", "kind"): ["pretrain", "study", "absent"],
            ("/v1/runs/", "name"): ["report.json", "absent.json"],
            ("/v1/studies/", "name"): ["rows", "pareto", "scaling", "curves", "absent"],
            ("", "model"): encoders,
            ("", "encoder"): encoders,
            ("", "dataset"): datasets,
            ("", "path"): paths,
            ("", "preset"): ["sample"],
            ("", "url"): [sample_image, broken, "https://hooks.example.org/fuzz"],
            ("", "image"): [sample_image, broken],
            ("", "images"): [sample_image, broken],
            ("", "max_cells"): [1, 4],
        }

    def _images(self) -> list[str]:
        """Names of images of the sample corpus."""
        found = self.live_service.admin.dataset_documents("sample", limit=5)["items"]
        return [part["image"] for item in found for part in item["segments"] if "image" in part]


@contextmanager
def multi_owner_service(folder: Path, *, serving: bool = True) -> Iterator[MultiOwnerFixture]:
    """A service in a thread of this process, its home and corpora in ``folder``. ``serving``: as of a Town."""
    home, data = folder / "home", folder / "data"
    data.mkdir()
    quick: Mapping[str, Any] = {"event_poll_seconds": 0.01, "event_stream_seconds": 0.02}
    settings = ApiSettings(
        home=home,
        data_roots=[data],
        welcome=False,
        webhook_hosts=["hooks.example.org"],
        requests_per_minute=10_000_000,
        max_inputs=8,
        **quick,
        _env_file=None,  # type: ignore[call-arg]
    )
    with serve_app(settings) as url:
        context = AppState(settings)
        live_service = ServiceFixture(url, home, context, (home / "key").read_text(encoding="ascii").strip())
        try:
            yield MultiOwnerFixture(live_service, data, serving=serving)
        finally:
            live_service.admin.close()
            context.close()
