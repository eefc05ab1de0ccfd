"""The same service on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from api.client import Client
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import collections, complete_run
from lcl_core.db.models import CollectionRow
from tests.api.sample_assets import images_by_colour, make_collection, png, save_encoder

pytestmark = pytest.mark.extended

ADMIN_KEY = "4f0c9a7be1d2835c6a8e7f10"


@pytest.fixture
def team(tmp_path, empty_postgres, serve, house_of):
    """A team's deployment: its own admin key, PostgreSQL."""
    settings = ApiSettings(home=tmp_path, database_url=empty_postgres, admin_key=ADMIN_KEY)
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, tmp_path, context, ADMIN_KEY)
    context.close()


def test_a_runs_whole_life(team):
    run_id = team.admin.submit("pretrain", {"preset": "sample"}, name="naïve ☃", tags=["b", "a"])["id"]
    claim = team.claim(run_id)
    team.record(claim, *[{"step": step, "total_steps": 30, "loss": float("nan")} for step in (10, 20, 30)])
    team.settle(claim, complete_run.RunFailed({"code": "crash", "message": "nul \x00 inside"}))
    run = team.admin.run(run_id)
    assert (run["name"], run["tags"], run["state"]) == ("naïve ☃", ["a", "b"], "failed")
    events = list(team.admin.events(run_id))
    assert [event["data"].get("step") for event in events] == [10, 20, 30, None]
    assert [line["step"] for line in team.admin.metrics(run_id, after=10)] == [20, 30]
    assert team.admin.retry(run_id)["state"] == "queued"
    assert team.admin.metrics(run_id) == []


def test_one_key_makes_one_run(team):
    first = team.admin.submit("pretrain", {}, idempotency_key="once")
    assert team.admin.submit("pretrain", {}, idempotency_key="once") == first


def test_large_numbers_and_odd_texts_are_no_server_error(team, refused):
    run_id = team.submit()
    with team.http() as http:
        assert http.get(f"/v1/runs/{run_id}/metrics", params={"after": 2**63 - 1, "after_id": 2**62}).status_code == 200
        assert http.get(f"/v1/runs/{run_id}/logs", params={"offset": 2**62}).status_code == 200
        refused(http.get(f"/v1/runs/{run_id}/metrics", params={"after": 2**63}), 422, field="after")
        refused(http.get("/v1/runs/☃%ff"), 404, "not_found")
        refused(http.get("/v1/encoders/" + "x" * 3000), 404, "not_found")
        assert http.get("/v1/runs", params={"cursor": "run_☃"}).status_code == 200


def test_roles_and_readiness(team, refused):
    with team.http("viewer") as viewer:
        refused(viewer.post("/v1/runs", json={"kind": "pretrain", "spec": {}}), 403, "forbidden")
        assert viewer.get("/readyz").json()["checks"]["database"]["ok"]
        assert 'lcl_runs{state="queued"}' in viewer.get("/metrics").text
    assert [row["name"] for row in team.admin.datasets()] == ["sample"]


def test_a_studys_whole_life(team):
    losses = [{"name": "both"}, {"name": "contrastive", "spec": {"objective.generation_weight": 0.0}}]
    spec = {"axes": [{"name": "loss", "variants": losses}], "metrics": [{"name": "IR@5", "metric": "IR@5"}]}
    study = team.admin.submit_study({**spec, "seeds": [1, 2]}, "naïve ☃", "once")
    assert team.admin.submit_study({**spec, "seeds": [1, 2]}, "naïve ☃", "once")["id"] == study["id"]
    values = {(f"loss={loss}", seed): 0.1 * seed for loss in ("both", "contrastive") for seed in (1, 2)}
    ended = team.end_study(study["id"], values)
    assert (ended["state"], ended["counts"]) == ("succeeded", {"succeeded": 4})
    assert ended["table"]["rows"][1]["figures"]["IR@5"]["values"] == {"1": 0.1, "2": 0.2}
    assert team.admin.extend_study(study["id"], seeds=[3])["counts"] == {"queued": 2, "succeeded": 4}
    assert team.admin.cancel_study(study["id"])["state"] == "cancelled"
    assert [item["state"] for item in team.admin.studies()["items"]] == ["cancelled"]
    team.admin.delete_study(study["id"])
    assert team.admin.studies()["items"] == []


def test_a_collection_that_changes(team, tmp_path, serve):
    sample_images = images_by_colour()
    encoder_dir = save_encoder(tmp_path / "encoders" / "tiny")
    encoder = team.admin.import_encoder("tiny", str(encoder_dir))
    row = make_collection(team, encoder, encoder_dir, sample_images)
    black = png("black")
    given = {"image": black, "name": "naïve ☃", "captions": ["night\nand day"], "labels": {"hue": "k"}}
    (identity,) = team.admin.add_items("squares", [given])["ids"]
    assert team.admin.add_items("squares", [given])["ids"] == [identity]
    with serve(team.context.settings) as address, Client(address, team.keys["viewer"]) as other:
        (hit,) = other.search("squares", image=black, k=1, where={"hue": "k"})["hits"]
        assert (hit["id"], hit["captions"]) == (identity, ["night\nand day"])
        assert other.item_image("squares", identity) == black
        spec = {"encoder": encoder["id"], "collection": "squares", "mode": "add", "dataset": None}
        run_id = team.admin.submit("index", spec)["id"]
        team.work(run_id)
        assert team.admin.run(run_id)["state"] == "succeeded"
        assert other.search("squares", image=black, k=1)["hits"][0]["id"] == identity
        team.admin.remove_item("squares", identity)
        assert len(other.search("squares", image=black)["hits"]) == 4
    team.admin.delete_collection(row["id"])
    assert team.admin.collections() == []


@pytest.mark.parametrize("change", ["addition", "labels", "deletion"])
def test_a_collection_changes_while_an_index_run_of_it_ends(team, tmp_path, eventually, change):
    """A transaction as that of the run's end has the collection locked; the change waits, and nothing waits for it."""
    encoder_dir = save_encoder(tmp_path / "encoders" / "tiny")
    encoder = team.admin.import_encoder("tiny", str(encoder_dir))
    row = make_collection(team, encoder, encoder_dir, images_by_colour())
    (black,) = team.admin.add_items("squares", [{"image": png("black")}])["ids"]  # the owner has a row of bytes
    calls = {
        "addition": lambda: team.admin.add_items("squares", [{"image": png("pink")}]),
        "labels": lambda: team.admin.change_labels("squares", [black], labels={"hue": "k"}),
        "deletion": lambda: team.admin.delete_collection("squares"),
    }
    database = team.context.database
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    def somebody_waits():
        with database.reading() as session:
            return bool(session.execute(waiting).scalar_one())

    with ThreadPoolExecutor(1) as other:
        with database.session() as ending:
            query = select(CollectionRow).where(CollectionRow.id == row["id"]).with_for_update()
            locked = ending.scalars(query).one()
            changing = other.submit(calls[change])
            eventually(lambda: somebody_waits() or changing.done(), "the wait of the change")
            collections.delete_compacted_changes(ending, locked, 0)
        changing.result(180)
    if change == "deletion":
        assert team.admin.collections() == []
    else:
        assert team.admin.collection("squares")["images"] == 5 + (change == "addition")
