"""A real service and the real page on free ports, a tiny encoder with a collection, and Chromium to look at them."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

HERE = Path(__file__).parent
IMAGES = 40
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
OPENINGS = 3
PATIENCE_MS = 60_000
TOKEN = "the-token-of-the-tests"  # opens the pages of one machine
# Names of the buttons and fields on show in a part of the page, outside of others.
CONTROLS = """([part, others]) => [...document.querySelectorAll(part)].flatMap((each) =>
  [...each.querySelectorAll('button, input, textarea, select, summary, a[href]')]).filter((each) =>
  each.checkVisibility({visibilityProperty: true}) && each.tabIndex >= 0 && each.getBoundingClientRect().width > 1 &&
  !each.closest(others)).map((each) => each.ariaLabel || each.placeholder || each.innerText)"""
Json = dict[str, Any]


def one_machine(client: Any) -> Any:
    """The page of a service on one machine, which opens with ``TOKEN``."""
    from ui.app import build_app
    from ui.settings import UiSettings

    return build_app(client, UiSettings(team=False, token=TOKEN))


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An ASGI application in a thread; its address."""
    import uvicorn

    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # said, so that asyncio switches Nagle's delay off
        listening.bind(("127.0.0.1", 0))
        # an idle connection is closed by the client, never just when its next request is on the way
        options: Any = {"log_level": "error", "timeout_graceful_shutdown": 1, "timeout_keep_alive": 60}
        server = uvicorn.Server(uvicorn.Config(app, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


class World:
    """The service as the page sees it (``client``), and its database as a worker sees it."""

    def __init__(self, home: Path, settings: Any, api_url: str) -> None:
        from api.client import Client
        from api.services.state import AppState

        self.home = home
        self.context = AppState(settings)
        self.client = Client(api_url, (home / "key").read_text().strip(), attempts=2)

    def close(self) -> None:
        self.client.close()
        self.context.close()

    def claim(self, run_id: str) -> Any:
        """Take runs as a worker does until this one comes; the others are cancelled out of the way."""
        from lcl_core.db import complete_run, queue

        while True:
            with self.context.database.session() as session:
                claim = queue.claim_next(session, "worker-1")
            assert claim is not None, f"{run_id} is not queued"
            if claim.run_id == run_id:
                return claim
            self.settle(claim, complete_run.RunCancelled())

    def record(self, claim: Any, *lines: Json) -> None:
        from lcl_core.db import leases

        with self.context.database.session() as session:
            leases.record_metrics(session, claim, lines)

    def settle(self, claim: Any, outcome: Any) -> None:
        from lcl_core.db import complete_run

        complete_run.complete_run(self.context.database, claim, outcome, self.folder(claim.run_id), self.home, 1.0)

    def hand_back(self, claim: Any) -> None:
        """Let a run go as a worker does that was told to pause it."""
        from lcl_core.db import leases

        with self.context.database.session() as session:
            leases.release_lease(session, claim, uses_attempt=False, cause="paused")

    def run_dir(self, run_id: str) -> Any:
        from lcl_core.common.run_dir import RunDir

        run_dir = RunDir(self.home / "runs" / run_id)
        run_dir.prepare({"run_id": run_id})
        return run_dir

    def folder(self, run_id: str) -> Path:
        return self.run_dir(run_id).path

    def work(self, run_id: str) -> None:
        """Do a run as a worker does, once those that it comes after have ended."""
        from lcl_core.db import submit
        from tests.api.service_fixture import do_run

        with self.context.database.session() as session:
            submit.release_dependents(session)
        do_run(self, run_id)

    def finish(self, kind: str, spec: Json, outcome: Any, encoder_id: str | None = None, **more: Any) -> str:
        """Submit a run and end it as a worker would."""
        from lcl_core.db import leases

        run_id = self.client.submit(kind, spec, **more)["id"]
        claim = self.claim(run_id)
        with self.context.database.session() as session:
            leases.begin_attempt(session, claim, encoder_id=encoder_id, from_scratch=False)
        self.settle(claim, outcome)
        return run_id

    def examine(self, encoder: Json, recall: float, name: str = "examined") -> str:
        """An evaluation of an encoder that found this IR@5."""
        from lcl_core.db import complete_run

        rows = [
            {"task": "retrieval", "split": "test_vendor", "variant": "captions[0]", "metric": "IR@5", "value": recall,
             "chance": 0.0085, "untrained": 0.0102, "count": 590, "interval": [0.142, 0.203]},
            {"task": "classification", "split": "test_vendor", "variant": "subgroup", "metric": "accuracy",
             "value": 0.417, "chance": 0.031, "untrained": 0.142, "count": 590, "interval": [0.378, 0.457]},
        ]  # fmt: skip
        facts = {"encoder": encoder["name"], "encoder_hash": encoder["hash"], "dataset_hash": "0" * 64}
        outcome = complete_run.RunSucceeded({**facts, "rows": rows})
        return self.finish("evaluate", {"encoder": encoder["name"]}, outcome, encoder["id"], name=name)

    def end_cell(self, study_id: str, number: int, value: float) -> None:
        """End both runs of a cell as workers do: the training fell to 3, and the evaluation found ``value``."""
        from lcl_core.db import runs, studies
        from lcl_core.db.datasets import SAMPLE_DATASET, SAMPLE_HASH
        from lcl_core.db.models import EncoderRow, Metric
        from lcl_core.db.session import now

        counts = {"images_seen": 64_000, "tokens_seen": 1_900_000, "flops": 1e14}
        with self.context.database.session() as session:
            run = runs.get_run(session, studies.study_cells(session, study_id)[number].run.id)
            run.state, run.encoder_id = "succeeded", run.id.replace("run_", "enc_")
            run.inputs = {"datasets": {SAMPLE_DATASET: SAMPLE_HASH}}
            run.result = {"encoder": {"seconds": 180.0 + number, **counts}, "final": {"loss": 3.0}}
            files = {"path": f"encoders/{run.encoder_id}", "hash": "h", "identity": "h", "owner": run.owner, "info": {}}
            session.add(EncoderRow(id=run.encoder_id, name=run.encoder_id, created_at=now(session), **files))
            lines = [{"step": step, "loss": 3 + 50 / step, "lr": 3e-4} for step in range(10, 501, 10)]
            session.add_all([Metric(run_id=run.id, phase="", step=line["step"], values=line) for line in lines])
        with self.context.database.session() as session:
            studies.advance_study(session, study_id)
            evaluation = studies.study_cells(session, study_id)[number].evaluation
            assert evaluation is not None
            found = {"split": "test_vendor", "value": value, "chance": 0.008, "untrained": 0.011}
            requested = (("retrieval", "captions[0]", "IR@5"), ("retrieval", "captions[0]", "TR@5"))
            rows = [
                {"task": task, "variant": variant, "metric": metric, **found}
                for task, variant, metric in (*requested, ("classification", "subgroup", "acc@1"))
            ]
            run = runs.get_run(session, evaluation.id)
            run.state, run.result = "succeeded", {"rows": rows}


@pytest.fixture(scope="session")
def empty_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service that holds nothing but the sample dataset."""
    with _world(tmp_path_factory.mktemp("empty")) as world:
        yield world


@pytest.fixture(scope="session")
def docs_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service with the sample dataset, to which the API page submits runs."""
    with _world(tmp_path_factory.mktemp("docs")) as world:
        yield world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, sample_zip: Path) -> Iterator[World]:
    """Encoders ``plain`` and ``tiny``, a collection of each, the newest ``drawings``, and runs in several states."""
    with _world(tmp_path_factory.mktemp("home")) as world:
        _furnish(world, sample_zip)
        yield world


@pytest.fixture(scope="session")
def study_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service with a study ``losses``: all cells of its first seed have ended, those of the second wait."""
    with _world(tmp_path_factory.mktemp("studies")) as world:
        study = world.client.submit_study({"preset": "loss_ablation", "seeds": [0, 1]}, "losses")
        values = {"contrastive": 0.16, "generation": 0.02, "both": 0.21}
        for cell in world.client.study(study["id"])["cells"]:
            if cell["seed"] == 0:
                world.end_cell(study["id"], cell["number"], values[cell["labels"]["loss"]])
        yield world


@pytest.fixture(scope="session")
def sweep_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service for trainings that differ in a few fields."""
    with _world(tmp_path_factory.mktemp("sweep")) as world:
        yield world


@contextmanager
def _world(home: Path) -> Iterator[World]:
    from api.app import create_app
    from api.core.settings import ApiSettings

    options: Any = {"data_roots": [home / "incoming"], "docs_dir": home / "site", "_env_file": None}
    settings = ApiSettings(home=home, **options)
    with served(create_app(settings)) as url:
        world = World(home, settings, url)
        yield world
        world.close()


def _furnish(world: World, sample_zip: Path) -> None:
    from lcl_core.data import open_corpus
    from lcl_core.db import complete_run
    from tests.api.sample_assets import save_encoder

    corpus = open_corpus(sample_zip)
    pairs = list(corpus.pairs("test_vendor"))[:IMAGES]
    captions = [caption for pair in pairs for caption in pair.captions]
    for seed, name, collection in ((1, "plain", "plain-drawings"), (0, "tiny", "drawings")):
        sizes = {"vocab_size": 400, "context_length": 64}
        folder = save_encoder(world.home / "incoming" / name, seed, texts=captions, **sizes)
        encoder = world.client.import_encoder(name, str(folder))
        _index(world, encoder, folder, corpus, pairs, collection)
    world.examine(encoder, 0.171)
    reason = {"code": "out_of_memory", "message": "the trainer ran out of memory", "field": "batch.tokens"}
    world.finish("pretrain", {"preset": "sample"}, complete_run.RunFailed(reason), name="too large")


def _index(world: World, encoder: Json, encoder_dir: Path, corpus: Any, pairs: list[Any], name: str) -> None:
    """What an index run of these images makes, registered as a worker registers it."""
    from lcl_core.collections.writer import CollectionItem
    from lcl_core.db import complete_run, leases
    from lcl_core.encoders.engine import EncoderEngine
    from tests.lcl_core.collections.building import build_collection

    session = EncoderEngine(encoder_dir, "cpu")
    items = [
        CollectionItem(
            pair.image, corpus.image_bytes(pair.image), "image/webp", captions=pair.captions, labels=pair.labels
        )
        for pair in pairs
    ]
    texts = list(dict.fromkeys(caption for pair in pairs for caption in pair.captions))
    run_id = world.client.submit("index", {"encoder": encoder["id"], "collection": name})["id"]
    claim = world.claim(run_id)
    with world.context.database.session() as database_session:
        leases.begin_attempt(database_session, claim, encoder_id=encoder["id"], from_scratch=False)
    build_collection(
        world.folder(run_id) / "artifacts" / "collection",
        items,
        session.embed_images([corpus.read_image(pair.image) for pair in pairs]),
        dict(zip(texts, session.embed_texts(texts), strict=True)),
        arranged=name == "drawings",
        name=name,
        encoder_hash=encoder["hash"],
    )
    facts = {"path": "artifacts/collection", "name": name, "encoder_hash": encoder["hash"]}
    facts |= {"images": len(items), "texts": len(texts), "dim": 24}
    world.settle(claim, complete_run.RunSucceeded({"collection": facts}))


@pytest.fixture(scope="session")
def page_url(world: World) -> Iterator[str]:
    with served(one_machine(world.client)) as url:
        yield url


@pytest.fixture(scope="session")
def study_url(study_world: World) -> Iterator[str]:
    with served(one_machine(study_world.client)) as url:
        yield url


@pytest.fixture(scope="session")
def team_url(world: World) -> Iterator[str]:
    """The same service's page for a team: one signs in."""
    from api.client import Client
    from ui.app import build_app
    from ui.sessions import SessionKeyAuth, SessionStore
    from ui.settings import UiSettings

    sessions = SessionStore(3600)
    with (
        Client(world.client.base_url, SessionKeyAuth(sessions), attempts=1) as client,
        served(build_app(client, UiSettings(team=True), sessions)) as url,
    ):
        yield url


@pytest.fixture(scope="session")
def empty_url(empty_world: World) -> Iterator[str]:
    with served(one_machine(empty_world.client)) as url:
        yield url


@pytest.fixture(scope="session")
def sweep_url(sweep_world: World) -> Iterator[str]:
    with served(one_machine(sweep_world.client)) as url:
        yield url


@pytest.fixture(scope="session")
def away_url() -> Iterator[str]:
    """The page of a service that is not there."""
    from api.client import Client

    with socket.socket() as nobody:  # bound, not listening: the port refuses
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with Client(f"http://127.0.0.1:{port}", "key", attempts=1) as client, served(one_machine(client)) as url:
            yield url


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import Locator, expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    fill = Locator.fill

    def fill_when_drawn(field: Locator, *value: Any, **options: Any) -> None:
        """Gradio writes the values of what becomes visible twice, the second time in the next frame."""
        field.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        fill(field, *value, **options)

    Locator.fill = fill_when_drawn  # type: ignore[method-assign]
    command = [sys.executable, "-m", "tests.browser.chromium"]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no Chromium: set LCL_CHROMIUM, or install one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=done.stdout.strip(), args=list(FLAGS))
        yield browser
        browser.close()
    Locator.fill = fill  # type: ignore[method-assign]


class Visitor:
    """Opens pages, and holds against them what a visitor must never meet: errors, and requests to elsewhere."""

    def __init__(self, browser: Any, stack: ExitStack) -> None:
        self.browser = browser
        self.stack = stack
        self.complaints: list[str] = []

    def open(
        self, url: str, width: int = 1280, height: int = 900, scheme: str = "light", token: str | None = TOKEN
    ) -> Any:
        """A fresh browser at that address; with ``token`` it has been at the printed address before."""
        size: Any = {"width": width, "height": height}
        context = self.browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        self.stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        origin = url.split("?")[0].rstrip("/")
        if token:
            context.request.get(f"{origin}/?token={token}")
        page.on("console", lambda line: line.type == "error" and self.complaints.append(f"console: {line.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("request", lambda request: self._look(request.url, origin))
        for _ in range(OPENINGS):
            self.complaints.clear()
            page.goto(url)
            page.get_by_role("heading", name="LCL", exact=True).wait_for()
            if not self.blinked:
                break
        return page

    @property
    def blinked(self) -> bool:
        """The machine's network changed (a container started, say): Chromium then drops whatever it is loading."""
        return any("ERR_NETWORK_CHANGED" in complaint for complaint in self.complaints)

    def _look(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "data:", "blob:")):
            self.complaints.append(f"left the origin: {url}")


@pytest.fixture
def visitor(chromium: Any) -> Iterator[Visitor]:
    with ExitStack() as stack:
        visitor = Visitor(chromium, stack)
        yield visitor
        elsewhere = [complaint for complaint in visitor.complaints if complaint.startswith("left")]
        assert elsewhere == []
        assert visitor.blinked or visitor.complaints == []


@pytest.fixture
def png() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (40, 40), "crimson").save(out, "PNG")
    return out.getvalue()
