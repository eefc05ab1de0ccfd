"""A collection that another index than its files searches, over REST: chosen, searched, damaged, deleted."""

import logging
import shutil

import pytest


@pytest.fixture
def http(live_service):
    return live_service.http()


@pytest.mark.parametrize(
    ("index", "package", "code"),
    [
        ("qdrant", "qdrant_client", "qdrant_unavailable"),
        ("lancedb", "", "missing_extra"),
        ("qdrant", "", "missing_extra"),
    ],
)
def test_an_index_that_this_service_lacks_is_refused_at_once(
    http, refused, encoder, collection, index, package, code, monkeypatch
):
    if package:
        pytest.importorskip(package, reason="the extra of this index is not installed")
    else:
        monkeypatch.setattr("lcl_core.vector_indexes.find_spec", lambda _: None)
    spec = {"encoder": encoder["id"], "collection": "squares", "index": index}
    refused(http.post("/v1/runs", json={"kind": "index", "spec": spec}), 422, code, "index")


def test_lancedb_searches_a_collection(live_service, encoder, collection, sample_images, caplog):
    pytest.importorskip("lancedb", reason="the extra of this index is not installed")
    admin = live_service.admin
    asked = [{"text": "a red square"}, {"image": sample_images["red"]}, {"text": "a", "where": {"hue": "r"}}]
    expected = [admin.search("squares", **query)["hits"] for query in asked]
    spec = {"encoder": encoder["id"], "collection": "squares", "mode": "add", "dataset": None}
    for chosen in ("lancedb", "auto"):  # which is what it has been
        run_id = admin.submit("index", spec | {"index": chosen})["id"]
        live_service.work(run_id)
        assert admin.run(run_id)["state"] == "succeeded"
        row = admin.collection("squares")
        assert row["vectors"] == "lancedb"
        folder = live_service.home / "collections" / run_id.replace("run_", "col_") / "lancedb"
        assert sorted(table.name for table in folder.iterdir()) == ["images.lance", "texts.lance"]
        with caplog.at_level(logging.WARNING):
            assert [ids(admin.search("squares", **query)["hits"]) for query in asked] == list(map(ids, expected))
        assert "cannot be used" not in caplog.text
    shutil.rmtree(folder)
    with live_service.context.inference()._lock:
        live_service.context.inference()._collections.clear()
    with caplog.at_level(logging.WARNING):
        assert [ids(admin.search("squares", **query)["hits"]) for query in asked] == list(map(ids, expected))
    assert "cannot be used" in caplog.text
    run_id = admin.submit("index", spec | {"index": "files"})["id"]
    live_service.work(run_id)
    assert admin.collection("squares")["vectors"] is None


def ids(hits):
    return [(hit["id"], round(hit["score"], 5)) for hit in hits]
