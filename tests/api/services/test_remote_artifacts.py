"""A service on a machine that shares only database and store with the one where everything was made."""

import contextlib
import hashlib
import io
import json
import tarfile
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from api.cli import main, runs
from api.client import ApiError
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import artifacts, complete_run, leases, registry
from tests.api.sample_assets import save_encoder
from tests.api.service_fixture import ServiceFixture

Json = dict[str, Any]
NUMBERS = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def url():
    place = f"memory://{uuid.uuid4().hex}/artifacts"
    yield place
    fsspec.filesystem("memory").rm(place, recursive=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory, url, serve):
    """Where things are made."""
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    settings = ApiSettings(home=home, data_roots=[data], artifacts=url)
    context = AppState(settings)
    with serve(settings) as address:
        yield ServiceFixture(address, home, context, (home / "key").read_text().strip())
    context.close()


@pytest.fixture(scope="module")
def there(tmp_path_factory, here, url, serve):
    """Another machine on the same database: another home, with the same first key."""
    home = tmp_path_factory.mktemp("other")
    key = (here.home / "key").read_text().strip()
    (home / "key").write_text(key)
    settings = ApiSettings(home=home, database_url=here.context.settings.resolved_database_url, artifacts=url)
    context = AppState(settings)
    with serve(settings) as address:
        yield ServiceFixture(address, home, context, key)
    context.close()


def settled(live_service, run_id, outcome):
    """As a worker of that home settles."""
    context, claim = live_service.context, live_service.claim(run_id)
    folder = live_service.home / "runs" / run_id
    complete_run.complete_run(
        context.database, claim, outcome, folder, live_service.home, 1.0, context.artifacts.holder
    )


def carried(live_service):
    while artifacts.upload_next(live_service.context.database, live_service.context.artifacts):
        pass


@pytest.fixture(scope="module")
def made(here):
    """A pre-training that has ended: its files are on one machine and not in the store yet."""
    run_id = here.submit(name="base")
    run_dir = here.run_dir(run_id)
    encoder = save_encoder(run_dir.artifacts / "encoder")
    (run_dir.artifacts / "numbers.bin").write_bytes(NUMBERS)
    (run_dir.artifacts / "wörds & more.txt").write_text("x")
    run_dir.log_file.write_bytes("naïve ☃\n".encode() * 200_000)
    digest = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    facts = {"path": "artifacts/encoder", "hash": digest, "parameters": 1}
    settled(here, run_id, complete_run.RunSucceeded({"encoder": facts}))
    return here.admin.run(run_id)


@pytest.fixture(scope="module")
def sent(here, there, made):
    """The same once it is; before that the other machine says what is the matter."""
    run_id = made["id"]
    assert (made["state"], made["artifacts"]["code"]) == ("succeeded", "artifacts_pending")
    assert here.admin.artifact(run_id, "numbers.bin") == NUMBERS
    for ask in (
        lambda: there.admin.artifacts(run_id),
        lambda: there.admin.artifact(run_id, "numbers.bin"),
        lambda: there.admin.logs(run_id),
        lambda: there.admin.embed_texts(made["encoder_id"], ["a red square"]),
    ):
        with pytest.raises(ApiError) as caught:
            ask()
        assert (caught.value.status, caught.value.code) == (503, "artifacts_pending")
    carried(here)
    made = there.admin.run(run_id)
    assert made["artifacts"] is None
    return made


def test_files_of_a_run_that_works_elsewhere_are_announced(here, there, monkeypatch, capsys):
    """An empty log would look as one of a run that has written nothing."""
    run_id = here.submit(name="at work")
    assert there.admin.logs(run_id) == {"text": "", "offset": 0, "size": 0}, "no worker has begun it"
    claim = here.claim(run_id)
    here.run_dir(run_id).log_file.write_text("first\n")
    assert here.admin.logs(run_id)["text"] == "first\n"
    for ask in (there.admin.logs, there.admin.artifacts):
        with pytest.raises(ApiError, match="machine of its worker") as caught:
            ask(run_id)
        assert (caught.value.status, caught.value.code) == (409, "files_elsewhere")

    def end(_):
        here.run_dir(run_id).log_file.write_text("first\nlast\n")
        folder = here.home / "runs" / run_id
        ended, holder = complete_run.RunCancelled(), here.context.artifacts.holder
        complete_run.complete_run(here.context.database, claim, ended, folder, here.home, 1.0, holder)
        carried(here)

    monkeypatch.setenv("LCL_API_URL", there.url)
    monkeypatch.setenv("LCL_API_KEY", there.keys["admin"])
    monkeypatch.setattr(runs, "time", SimpleNamespace(sleep=end))  # while the command waits
    monkeypatch.setattr("sys.argv", ["lcl", "runs", "logs", "-f", run_id])
    with contextlib.suppress(SystemExit):
        main()
    shown = capsys.readouterr()
    assert shown.out == "first\nlast\n"
    assert shown.err.count("machine of its worker") == 1


def test_the_list_is_the_same_on_both_and_has_hashes(here, there, sent):
    near, far = here.admin.artifacts(sent["id"]), there.admin.artifacts(sent["id"])
    assert {row["name"]: row for row in near} == {row["name"]: row for row in far}
    rows = {row["name"]: row for row in far}
    assert rows["numbers.bin"]["sha256"] == hashlib.sha256(NUMBERS).hexdigest()
    assert rows["encoder/model.safetensors"]["sha256"] == sent["result"]["encoder"]["hash"]
    assert "wörds & more.txt" in rows


def test_a_file_is_downloaded_from_the_store(there, sent, refused):
    path, size = f"/v1/runs/{sent['id']}/artifacts/numbers.bin", len(NUMBERS)
    with there.http("viewer") as anonymous:
        refused(anonymous.get(path), 404, "not_found")
    with there.http() as http:
        whole = http.get(path)
        assert (whole.status_code, whole.content) == (200, NUMBERS)
        assert whole.headers["content-disposition"].startswith("attachment")
        assert whole.headers["content-length"] == str(size)
        for name in ("absent", "encoder", "%2e%2e/log.txt", "encoder%2f..%2fnumbers.bin"):
            assert http.get(f"/v1/runs/{sent['id']}/artifacts/{name}").status_code == 404
    assert there.admin.artifact(sent["id"], "wörds & more.txt") == b"x"


def test_the_log_comes_in_pieces(here, there, sent):
    first, near = there.admin.logs(sent["id"]), here.admin.logs(sent["id"])
    assert first == near
    assert len(first["text"].encode()) <= 2**20
    assert there.admin.logs(sent["id"], first["offset"]) == here.admin.logs(sent["id"], first["offset"])
    assert there.admin.logs(sent["id"], 10**9)["text"] == ""


def members(tar):
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_an_encoder_is_served_and_exported(here, there, sent):
    encoder = sent["encoder_id"]
    texts = ["a red square", "a blue circle"]
    assert there.admin.embed_texts(encoder, texts) == here.admin.embed_texts(encoder, texts)
    with there.http() as far, here.http() as near:
        tars = [http.get(f"/v1/encoders/{encoder}/export") for http in (far, near)]
    assert tars[0].headers["content-length"] == str(len(tars[0].content))
    assert members(tars[0].content) == members(tars[1].content)
    assert f"{encoder}/model.safetensors" in members(tars[0].content)
    assert not (there.home / "encoders" / encoder).exists(), "it is in the cache alone"


def corpus(folder, sample_images):
    (folder / "images").mkdir(parents=True)
    lines = []
    for name, data in sample_images.items():
        (folder / "images" / f"{name}.png").write_bytes(data)
        lines.append(json.dumps({"image": f"{name}.png", "captions": [f"a {name} square"], "split": "val"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder


def worked(live_service, kind, spec, work):
    """Do a run as a worker of that machine does, what it reads fetched first."""
    run_id = live_service.admin.submit(kind, spec)["id"]
    work(live_service, run_id)
    carried(live_service)
    run = live_service.admin.run(run_id)
    assert run["state"] == "succeeded", run["reason"]
    return run


@pytest.fixture
def work():
    from importlib import import_module

    from lcl_core.specs.parsing import parse_spec
    from tests.api.service_fixture import JOB_FUNCTIONS

    def do(live_service, run_id):
        context, claim = live_service.context, live_service.claim(run_id)
        spec = parse_spec(claim.kind, claim.spec)
        with context.database.reading() as session:
            paths = registry.managed_paths(session, spec)
            fetched = {path: context.artifacts.folder(session, path) for path in paths}
        with context.database.session() as session:
            inputs = registry.resolve_inputs(session, spec, live_service.home, context.settings.roots, fetched)
            leases.begin_attempt(session, claim, encoder_id=inputs.encoder_id, from_scratch=False)
        run_dir = live_service.run_dir(run_id)
        facts = {"datasets": inputs.datasets, "encoders": inputs.encoders, "roots": []}
        run_dir.prepare({"run_id": run_id, "spec": claim.spec, **facts})
        module, name = JOB_FUNCTIONS[claim.kind]
        outcome = complete_run.RunSucceeded(getattr(import_module(module), name)(run_dir))
        holder = context.artifacts.holder
        complete_run.complete_run(context.database, claim, outcome, run_dir.path, live_service.home, 1.0, holder)

    return do


def test_it_evaluates_indexes_and_searches_with_what_another_made(here, there, sent, work, sample_images):
    (root,) = here.context.settings.data_roots
    folder = corpus(Path(root) / "squares", sample_images)
    worked(here, "convert", {"path": str(folder), "name": "squares"}, work)
    assert there.admin.dataset_documents("squares", view="pairs")["total"] == len(sample_images)

    requested = {"encoder": sent["encoder_id"], "dataset": "squares", "splits": ["val"], "tasks": ["retrieval"]}
    runs = [worked(live_service, "evaluate", requested, work) for live_service in (there, here)]
    assert runs[0]["result"]["rows"] == runs[1]["result"]["rows"]
    assert not list((there.home / "encoders").glob("enc_*"))
    compared = [
        live_service.admin.compare_encoders(sent["encoder_id"], sent["encoder_id"]) for live_service in (there, here)
    ]
    assert compared[0]["rows"] == compared[1]["rows"]
    assert any(row.get("units") for row in compared[0]["rows"]), "the answers of both runs were at hand"

    indexed = worked(there, "index", {"encoder": sent["encoder_id"], "dataset": "squares", "collection": "far"}, work)
    assert indexed["result"]["collection"]["images"] == len(sample_images)
    found = [live_service.admin.search("far", text="a red square", k=4) for live_service in (there, here)]
    assert found[0]["hits"] == found[1]["hits"]
    assert len(found[0]["hits"]) == len(sample_images)


def test_an_imported_encoder_is_sent_too(here, there, eventually):
    (root,) = here.context.settings.data_roots
    row = here.admin.import_encoder("guest", str(save_encoder(Path(root) / "guest", seed=1)))

    def served():
        with there.http() as http:
            answer = http.post("/v1/embeddings", json={"model": "guest", "input": "x"})
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "artifacts_pending"
        return answer.status_code == 200

    eventually(served, "the upload")
    assert there.admin.encoder("guest")["id"] == row["id"]


def test_a_store_that_is_away_is_a_503(there, sent, monkeypatch, refused):
    storage = there.context.artifacts.store._storage

    def away(*_, **__):
        raise ConnectionError("refused by who:sesame@host")

    monkeypatch.setattr(type(storage.files()[0]), "cat_file", away)
    monkeypatch.setattr(type(storage), "_first_wait", 0.0, raising=False)
    with there.http() as http:
        answer = http.get(f"/v1/runs/{sent['id']}/artifacts/numbers.bin")
        assert "retry-after" in answer.headers
        refused(answer, 503, "store_unreachable")
