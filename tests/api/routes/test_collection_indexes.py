"""A collection that another index than its files searches, over REST."""

import pytest


@pytest.fixture
def http(live_service):
    return live_service.http()


@pytest.mark.parametrize(
    ("index", "package", "code"),
    [
        ("qdrant", "qdrant_client", "qdrant_failed"),
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
