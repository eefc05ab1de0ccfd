"""What another owner has: its name taken over, its files replaced beside its weights, itself deleted."""

from __future__ import annotations

from typing import Any

from tests.api.hostile.case import DATA, ENCODER, Case
from tests.api.hostile.paths import run

IMPORT, REGISTER = "POST /v1/encoders", "POST /v1/datasets"
COPY, TWIN, CORPUS = f"{DATA}/tiny-encoder", f"{DATA}/twin", f"{DATA}/whole.zip"
NAMES: dict[str, tuple[str, Any, int]] = {
    "another owner's encoder, imported": (IMPORT, {"name": "tiny", "path": COPY}, 409),
    "another owner's encoder, trained": (
        "POST /v1/runs",
        {"kind": "pretrain", "spec": {"preset": "sample"}, "name": "tiny"},
        409,
    ),
    "the product's encoder": (IMPORT, {"name": "drawings-v5", "path": COPY}, 409),
    "an older encoder of the product": (IMPORT, {"name": "drawings", "path": COPY}, 409),
    "the id of an encoder": (IMPORT, {"name": ENCODER, "path": COPY}, 422),
    "a name in the form of an encoder's id": (IMPORT, {"name": "enc_00c0ffee", "path": COPY}, 422),
    "a name in the form of an encoder's id, trained": (
        "POST /v1/runs",
        {"kind": "pretrain", "spec": {"preset": "sample"}, "name": "enc_x"},
        422,
    ),
    "the product's dataset": (REGISTER, {"name": "sample", "path": CORPUS}, 409),
    "the product's dataset, a new version": (REGISTER, {"name": "sample", "path": CORPUS, "new_version": True}, 409),
    "the product's dataset, converted": (*run("convert", {"path": CORPUS, "name": "sample"}), 409),
    "the product's collection": (*run("index", {"encoder": ENCODER, "collection": "sample-drawings"}), 409),
    "a name in the form of a collection's id": (*run("index", {"encoder": ENCODER, "collection": "col_x"}), 422),
}
FILES: dict[str, tuple[Any, int]] = {
    "known weights with another tokenizer": ({}, 409),
    "the same, allowed by another owner": ({"allow_twin": True}, 409),
    "the same, allowed in a word": ({"allow_twin": "yes"}, 422),
    "an identity of one's own": ({"identity": "0" * 64}, 422),
    "another owner": ({"owner": "lcl"}, 422),
}
DELETES = {
    "another owner's encoder by id": (f"/v1/encoders/{ENCODER}", 403),
    "another owner's encoder by name": ("/v1/encoders/tiny", 403),
    "another owner's encoder with force": ("/v1/encoders/tiny?force=true", 403),
    "the product's dataset": ("/v1/datasets/sample", 403),
    "all encoders": ("/v1/encoders", 405),
    "every encoder by a pattern": ("/v1/encoders/%25", 404),
    "encoders by a condition": ("/v1/encoders/x'%20OR%20'1'='1", 404),
    "an encoder and a line break": (f"/v1/encoders/{ENCODER}%0a", 404),
    "a file instead of an encoder": ("/v1/encoders/..%2f..%2fkey", 404),
    "every dataset by a pattern": ("/v1/datasets/%25", 404),
    "a file instead of a dataset": ("/v1/datasets/..%2flcl.db", 404),
    "a dataset's version": ("/v1/datasets/sample/versions", 405),
}
CASES = [
    *(Case("names of others", what, call, body, status=(status,)) for what, (call, body, status) in NAMES.items()),
    *(
        Case("files beside known weights", what, IMPORT, {"name": "x", "path": TWIN, **more}, status=(status,))
        for what, (more, status) in FILES.items()
    ),
    *(Case("deletion", what, f"DELETE {path}", status=(status,)) for what, (path, status) in DELETES.items()),
    Case("deletion", "an encoder, without a key", f"DELETE /v1/encoders/{ENCODER}", status=(401,), key=False),
]
