"""A real service on SQLite and a free port, a key of each role, and runs in any state."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from api.app import create_app
from api.client import Client
from api.context import Context
from api.logs import configure_structlog
from api.settings import ApiSettings
from lcl_core.rundir import RunDir
from lcl_core.runs import store
from lcl_core.specs import parse_spec

Json = dict[str, Any]


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """The service's log goes where pytest keeps it, not among what a command prints."""
    configure_structlog()


class House:
    """The service as its callers see it, and its database as workers see it."""

    def __init__(self, url: str, home: Path, context: Context, key: str) -> None:
        self.url = url
        self.home = home
        self.context = context
        self.admin = Client(url, key, attempts=1)
        self.keys = {role: self.admin.create_key("someone", role)["key"] for role in ("viewer", "submitter", "admin")}

    def http(self, role: str | None = "admin") -> httpx.Client:
        """A bare client with a key of ``role``; None: without any."""
        headers = {"authorization": f"Bearer {self.keys[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def submit(self, **more: Any) -> str:
        return self.admin.submit("pretrain", {"preset": "sample"}, **more)["id"]

    def claim(self, run_id: str) -> store.Claim:
        """Take runs as a worker does until this one comes; the others are cancelled out of the way."""
        while True:
            with self.context.database.session() as session:
                claim = store.claim_next(session, "worker-1")
            assert claim is not None, f"{run_id} is not queued"
            if claim.run_id == run_id:
                return claim
            self.settle(claim, store.Cancelled())

    def record(self, claim: store.Claim, *lines: Json) -> None:
        with self.context.database.session() as session:
            store.record_metrics(session, claim, lines)

    def settle(self, claim: store.Claim, outcome: store.Outcome) -> None:
        store.settle(self.context.database, claim, outcome, self.run_dir(claim.run_id).path, self.home, 1.0)

    def finished(self, outcome: store.Outcome | None = None, **more: Any) -> str:
        """The id of a run that has ended: failed, unless told otherwise."""
        run_id = self.submit(**more)
        self.settle(self.claim(run_id), outcome or store.Failed({"code": "crash", "message": "it fell over"}))
        return run_id

    def work(self, run_id: str) -> None:
        """Do a validate or convert run as a worker's process does, in this one."""
        from lcl_core.data.conversion.run import convert_run
        from lcl_core.data.validation.run import validate_run
        from lcl_core.errors import UserError

        claim = self.claim(run_id)
        spec = parse_spec(claim.kind, claim.spec)
        with self.context.database.session() as session:
            inputs = store.resolve_inputs(session, spec, self.home, self.context.settings.roots)
            read = {"datasets": inputs.dataset_hashes}
            store.begin_attempt(session, claim, encoder_id=None, from_scratch=False, inputs=read)
        run_dir = self.run_dir(run_id)
        run_dir.prepare({"run_id": run_id, "spec": claim.spec, "datasets": inputs.datasets})
        do = {"validate": validate_run, "convert": convert_run}[claim.kind]
        try:
            outcome: store.Outcome = store.Succeeded(do(run_dir))
        except UserError as error:
            outcome = store.Failed(error.to_dict())
        if run_dir.metrics_file.exists():
            lines = run_dir.metrics_file.read_text(encoding="utf-8").splitlines()
            self.record(claim, *(json.loads(line) for line in lines))
        self.settle(claim, outcome)

    def run_dir(self, run_id: str) -> RunDir:
        run_dir = RunDir(self.home / "runs" / run_id)
        run_dir.prepare({"run_id": run_id})
        return run_dir

    def evaluated(self, encoder_id: str, rows: list[Json], dataset_hash: str = "d" * 64) -> str:
        """A finished evaluation with these rows."""
        spec = parse_spec("evaluate", {"encoder": encoder_id})
        with self.context.database.session() as session:
            run_id = store.submit(session, "evaluate", spec).id
        claim = self.claim(run_id)
        with self.context.database.session() as session:
            store.begin_attempt(session, claim, encoder_id=encoder_id, from_scratch=False)
        self.settle(claim, store.Succeeded({"encoder": encoder_id, "dataset_hash": dataset_hash, "rows": rows}))
        return run_id


Serve = Callable[[ApiSettings], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """``with serve(settings) as url``: the application in a thread of this process."""
    return served


@contextmanager
def served(settings: ApiSettings) -> Iterator[str]:
    """Serve an application in a thread; its address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(settings), log_level="warning", server_header=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            thread.join(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture(scope="session")
def house_of() -> type[House]:
    """``House`` itself, for a service on other settings."""
    return House


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[House]:
    home = tmp_path_factory.mktemp("home")
    settings = ApiSettings(
        home=home,
        data_roots=[data_root],
        event_poll_seconds=0.02,
        max_inputs=8,
        max_text_characters=500,
        max_image_bytes=100_000,
        max_image_pixels=250_000,
        _env_file=None,  # type: ignore[call-arg]
    )
    with served(settings) as url:
        context = Context(settings)
        house = House(url, home, context, (home / "key").read_text().strip())
        yield house
        house.admin.close()
        context.close()


@pytest.fixture
def http(house: House) -> Iterator[httpx.Client]:
    with house.http() as client:
        yield client


@pytest.fixture
def refused() -> Callable[..., Json]:
    """Check that an answer is an error in the one form; its facts."""

    def check(response: httpx.Response, status: int, code: str | None = None, field: str | None = None) -> Json:
        assert response.status_code == status, response.text
        facts = response.json()["error"]
        assert set(facts) <= {"code", "message", "field"}
        assert facts["message"]
        assert "Traceback" not in response.text
        if code is not None:
            assert facts["code"] == code
        if field is not None:
            assert facts["field"] == field
        return facts

    return check


def save_encoder(directory: Path, seed: int = 0) -> Path:
    """An encoder with fresh weights, as a run saves it: 32-pixel pictures, vectors of 24 numbers."""
    from lcl_core.data.tokenizer import train_bpe
    from lcl_core.model import LCLConfig, LCLProcessor
    from lcl_core.train.build import build_model

    tokenizer = train_bpe(["a red square", "a blue circle", "green triangles on white"], vocab_size=280)
    config = LCLConfig(
        image_size=32,
        patch_size=16,
        vision_width=32,
        vision_layers=1,
        vision_head_width=16,
        text_width=24,
        text_layers=1,
        text_heads=2,
        context_length=48,
        vocab_size=tokenizer.vocab_size,
        **{f"{name}_token_id": getattr(tokenizer.specials, name) for name in ("sot", "eot", "img", "soi", "eoi")},
    )
    build_model(config, seed).save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def encoder_dir(data_root: Path) -> Path:
    return save_encoder(data_root / "tiny-encoder")


@pytest.fixture(scope="module")
def encoder(house: House, encoder_dir: Path) -> Json:
    """An encoder named ``tiny``, imported over REST."""
    return house.admin.import_encoder("tiny", str(encoder_dir))


def png(colour: str | tuple[int, ...], size: tuple[int, int] = (24, 24)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """PNG files by the name of their colour."""
    return {colour: png(colour) for colour in ("red", "green", "blue", "white")}


@pytest.fixture(scope="module")
def collection(house: House, encoder: Json, encoder_dir: Path, pictures: dict[str, bytes]) -> Json:
    """What an index run of the four pictures makes, registered as a worker registers it."""
    from lcl_core.serving import EncoderSession, NewItem, build_collection

    session = EncoderSession(encoder_dir, "cpu")
    items = [
        NewItem(f"{name}.png", data, "image/png", captions=(f"a {name} square",), labels={"hue": name[0]}, split="val")
        for name, data in pictures.items()
    ]
    texts = [item.captions[0] for item in items]
    spec = parse_spec("index", {"encoder": encoder["id"], "collection": "squares"})
    with house.context.database.session() as database_session:
        run_id = store.submit(database_session, "index", spec).id
    claim = house.claim(run_id)
    with house.context.database.session() as database_session:
        store.begin_attempt(database_session, claim, encoder_id=encoder["id"], from_scratch=False)
    vectors = session.embed_images([Image.open(io.BytesIO(data)).convert("RGB") for data in pictures.values()])
    folder = house.run_dir(run_id).artifacts / "collection"
    text_vectors = dict(zip(texts, session.embed_texts(texts), strict=True))
    build_collection(folder, items, vectors, text_vectors, name="squares", encoder_hash=encoder["hash"])
    facts = {"path": "artifacts/collection", "encoder_hash": encoder["hash"], "images": 4, "texts": 4, "dim": 24}
    house.settle(claim, store.Succeeded({"collection": facts}))
    return house.admin.collection("squares")


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
