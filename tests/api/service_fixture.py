"""A running service as its clients see it, and its database as workers see it."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

import httpx
import uvicorn

from api.app import create_app
from api.client import Client
from api.core.settings import ApiSettings
from lcl_core.common.run_dir import RunDir
from lcl_core.db import collections, complete_run, leases, queue, registry, runs, studies, submit
from lcl_core.specs.parsing import parse_spec
from lcl_core.studies.trials import format_labels

Json = dict[str, Any]
JOB_FUNCTIONS = {
    "validate": ("lcl_core.data.validation.__main__", "validate_run"),
    "convert": ("lcl_core.data.conversion", "convert_run"),
    "evaluate": ("lcl_core.evaluation.evaluate", "evaluate"),
    "match": ("lcl_core.collections.match_job", "run_match_job"),
    "index": ("lcl_core.collections.index_job", "run_index_job"),
    "pretrain": ("lcl_core.train.__main__", "pretrain"),
}


class ServiceFixture:
    """The service as its callers see it, and its database as workers see it."""

    def __init__(self, url, home, context, key):
        self.url = url
        self.home = home
        self.context = context
        self.admin = Client(url, key, attempts=1)
        self.keys = {role: self.admin.create_key("someone", role)["key"] for role in ("viewer", "submitter", "admin")}

    def http(self, role="admin"):
        """A bare client with a key of ``role``; None: without any."""
        headers = {"authorization": f"Bearer {self.keys[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=180, trust_env=False)

    def submit(self, **more):
        return self.admin.submit("pretrain", {"preset": "sample"}, **more)["id"]

    def claim(self, run_id):
        """Take runs as a worker does until this one comes; the others are cancelled out of the way."""
        while True:
            with self.context.database.session() as session:
                claim = queue.claim_next(session, "worker-1")
            assert claim is not None, f"{run_id} is not queued"
            if claim.run_id == run_id:
                return claim
            self.settle(claim, complete_run.RunCancelled())

    def record(self, claim, *lines):
        with self.context.database.session() as session:
            leases.record_metrics(session, claim, lines)

    def settle(self, claim, outcome):
        from lcl_core.collections.collection import Collection

        run_dir = self.run_dir(claim.run_id).path
        complete_run.complete_run(self.context.database, claim, outcome, run_dir, self.home, 1.0, None, Collection.open)

    def finished(self, outcome=None, **more):
        """The id of a run that has ended: failed, unless told otherwise."""
        run_id = self.submit(**more)
        self.settle(self.claim(run_id), outcome or complete_run.RunFailed({"code": "crash", "message": "it fell over"}))
        return run_id

    def work(self, run_id):
        do_run(self, run_id)

    def end_study(self, study_id, values):
        """End the runs of a study as workers do, so that each cell has its IR@5; the study.

        ``values``: by the labels of a row, such as "loss=both", and the seed.
        """
        seen = {"seconds": 10.0, "images_seen": 1408, "tokens_seen": 9000, "flops": 1e12}
        database = self.context.database
        with database.session() as session:
            for cell in studies.study_cells(session, study_id):
                run = runs.get_run(session, cell.run.id)
                run.state, run.encoder_id = "succeeded", run.id.replace("run_", "enc_")
                run.result = {"encoder": seen, "final": {"loss": 2.0}}
        with database.session() as session:
            studies.advance_study(session, study_id)
        with database.session() as session:
            for cell in studies.study_cells(session, study_id):
                assert cell.evaluation is not None
                row = {"task": "retrieval", "split": "test", "variant": "captions[0]", "metric": "IR@5"}
                row |= {"value": values[format_labels(cell.labels), cell.seed], "chance": 0.01, "untrained": 0.02}
                run = runs.get_run(session, cell.evaluation.id)
                run.state, run.result = "succeeded", {"rows": [row], "dataset": "sample", "dataset_hash": "d"}
        return self.admin.study(study_id)

    def run_dir(self, run_id):
        run_dir = RunDir(self.home / "runs" / run_id)
        run_dir.prepare({"run_id": run_id})
        return run_dir

    def evaluated(self, encoder, rows, dataset_hash="d" * 64, **fields):
        """A finished evaluation with these rows; ``fields``: of its spec."""
        encoder_id = self.admin.encoder(encoder)["id"]
        spec = parse_spec("evaluate", {"encoder": encoder_id, **fields})
        with self.context.database.session() as session:
            run_id = submit.submit(session, "evaluate", spec).id
        claim = self.claim(run_id)
        with self.context.database.session() as session:
            leases.begin_attempt(session, claim, encoder_id=encoder_id, from_scratch=False)
        self.settle(
            claim, complete_run.RunSucceeded({"encoder": encoder_id, "dataset_hash": dataset_hash, "rows": rows})
        )
        return run_id


def do_run(service, run_id):
    """Do a run as a worker's process does, in this one.

    Args:
        service: has ``context``, ``home``, ``claim``, ``run_dir``, ``record`` and ``settle`` as ``ServiceFixture``.
    """
    do_claim(service, service.claim(run_id))


def do_claim(service, claim):
    """As ``do_run``, of a run that is claimed already."""
    from lcl_core.common.errors import UserError

    run_id, spec = claim.run_id, parse_spec(claim.kind, claim.spec)
    with service.context.database.session() as session:
        inputs = registry.resolve_inputs(session, spec, service.home, service.context.settings.roots)
        read = {"datasets": inputs.dataset_hashes}
        leases.begin_attempt(session, claim, encoder_id=inputs.encoder_id, from_scratch=False, inputs=read)
    run_dir = service.run_dir(run_id)
    facts = {"datasets": inputs.datasets, "encoders": inputs.encoders, "items": inputs.items}
    facts["encoder_files"] = inputs.encoder_files
    facts["collections"] = collections.prepare_collection_snapshots(
        service.context.database, spec, run_dir.changes, service.home
    )
    facts["roots"] = [str(root) for root in service.context.settings.roots]
    run_dir.prepare({"run_id": run_id, "spec": claim.spec, **facts})
    module, name = JOB_FUNCTIONS[claim.kind]
    do = getattr(import_module(module), name)
    try:
        outcome = complete_run.RunSucceeded(do(run_dir))
    except UserError as error:
        outcome = complete_run.RunFailed(error.to_dict())
    if run_dir.metrics_file.exists():
        lines = run_dir.metrics_file.read_text(encoding="utf-8").splitlines()
        service.record(claim, *(json.loads(line) for line in lines))
    service.settle(claim, outcome)


Serve = Callable[[ApiSettings], AbstractContextManager[str]]


@contextmanager
def serve_app(settings):
    """Serve an application in a thread; its address."""
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # said, so that asyncio switches Nagle's delay off
    listening.bind(("127.0.0.1", 0))
    app = create_app(settings)
    config = uvicorn.Config(app, ws="none", server_header=False, log_level="warning", timeout_graceful_shutdown=2)
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
