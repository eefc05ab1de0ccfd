"""What parameters, ids, keys and fields say that nobody offered: queries, headers, and JSON that is nearly right."""

from __future__ import annotations

import json
from typing import Any

from tests.api.hostile.case import DATA, OWN, Case

SUBMIT = "POST /v1/runs"
RUN: dict[str, Any] = {"kind": "pretrain", "spec": {"preset": "sample"}}
REPORT = f"GET /v1/runs/{OWN}/artifacts/report.json"


def _query(name: str, path: str, *status: int) -> Case:
    return Case("queries", name, f"GET {path}", status=status or (422,))


QUERIES = [
    _query("no rows", "/v1/runs?limit=0"),
    _query("more rows than a page has", "/v1/runs?limit=201"),
    _query("rows beyond 64 bits", "/v1/runs?limit=99999999999999999999"),
    _query("half a row", "/v1/runs?limit=5.5"),
    _query("rows that are no number", "/v1/runs?limit=NaN"),
    _query("a second limit that is larger", "/v1/runs?limit=1&limit=1000000"),
    _query("a limit in an array", "/v1/runs?limit[]=1&limit=x"),
    _query("an unknown state", "/v1/runs?state=deleted"),
    _query("a kind that is a property of objects", "/v1/runs?kind=__proto__"),
    _query("an empty tag", "/v1/runs?tag="),
    _query("a wildcard for a tag", "/v1/runs?tag=%25"),
    _query("an empty name", "/v1/runs?name="),
    _query("an endless name", f"/v1/runs?name={'A' * 101}"),
    _query("a cursor that is a path", "/v1/runs?cursor=../../key", 400),
    _query("a cursor of bytes", "/v1/runs?cursor=%ff%fe", 400),
    _query("an endless cursor", f"/v1/runs?cursor={'A' * 101}"),
    _query("a negative document", "/v1/datasets/sample/documents?offset=-1"),
    _query("a document beyond 53 bits", f"/v1/datasets/sample/documents?offset={2**53}"),
    _query("an unknown view", "/v1/datasets/sample/documents?view=raw"),
    _query("an endless split", f"/v1/datasets/sample/documents?split={'x' * 201}"),
    _query("tokens that are neither", "/v1/datasets/sample/documents?tokens=maybe"),
    _query("a step beyond 63 bits", f"/v1/runs/{OWN}/metrics?after={2**63}"),
    _query("a line beyond 63 bits", f"/v1/runs/{OWN}/metrics?after_id={2**63}"),
    _query("a byte of the log before the first", f"/v1/runs/{OWN}/logs?offset=-1"),
    _query("a map of too many points", "/v1/collections/absent/map?limit=5001"),
    _query("a file of a map of too many points", "/v1/collections/absent/map.safetensors?limit=100001"),
    _query("vectors of something else", "/v1/collections/absent/vectors?target=keys"),
    _query("a similarity that is no number", "/v1/collections/absent/duplicates?threshold=nan"),
    _query("a similarity above 1", "/v1/collections/absent/duplicates?threshold=1.1"),
    _query("an encoder as a pickle", "/v1/encoders/absent/export?format=pickle"),
    _query("a comparison with nothing", "/v1/encoders/compare?left=a"),
    _query("a comparison with a path", "/v1/encoders/compare?left=a&right=../../x", 404, 422),
    _query("a parameter that overwrites the path", "/v1/runs/absent?run_id=@OWN@", 404),
]


def _id(name: str, call: str, *status: int) -> Case:
    return Case("ids", name, call, status=status or (404,))


IDS = [
    _id("a run: a property of objects", "GET /v1/runs/__proto__"),
    _id("a run: a blank", "GET /v1/runs/%20"),
    _id("a run: a star", "POST /v1/runs/*/cancel"),
    _id("a run: all of SQL's", "DELETE /v1/runs/%25"),
    _id("a run: another in a list", f"GET /v1/runs/{OWN},absent"),
    _id("a run: an image of words", "POST /v1/runs/%F0%9F%92%A9/retry"),
    _id("a run: with a line break", f"GET /v1/runs/{OWN}%0d%0aX-Role:admin/logs"),
    _id("a run: 4,000 letters", f"GET /v1/runs/{'r' * 4000}/metrics"),
    _id("a study: a quote", "GET /v1/studies/%27%20OR%201=1--/tables/rows"),
    _id("a study: a template", "POST /v1/studies/%7B%7B7*7%7D%7D/cancel"),
    _id("a dataset: a hyphen", "GET /v1/datasets/-/statistics"),
    _id("a dataset: two dots", "GET /v1/datasets/%2e%2e/versions"),
    _id("a dataset's image: an address", "GET /v1/datasets/sample/images/http://169.254.169.254/x.png"),
    _id("a dataset's image: nothing", "GET /v1/datasets/sample/images/"),
    _id("an encoder: a format of text", "GET /v1/encoders/%25s%25n"),
    _id("an encoder: a query", "GET /v1/encoders/%3Fadmin=1/figures"),
    _id("a collection: a star", "DELETE /v1/collections/%2a"),
    _id("a collection's item: a line break", "GET /v1/collections/absent/items/%0a/image"),
    _id("a key: another's", "DELETE /v1/keys/configured", 403),
    _id("a webhook: all", "DELETE /v1/webhooks/*", 403),
    _id("a spec: a module", "GET /v1/specs/os.system"),
    _id("a spec: a dunder", "GET /v1/specs/__init__"),
]


def _header(name: str, headers: dict[str, str], *status: int, call: str = "GET /v1/runs", body: Any = None) -> Case:
    return Case("headers", name, call, body, headers, status)


HEADERS = [
    _header("a scheme without a key", {"Authorization": "Bearer"}, 401),
    _header("two keys in one header", {"Authorization": "Bearer @KEY@, Bearer @KEY@"}, 401),
    _header("a key in quotes", {"Authorization": 'Bearer "@KEY@"'}, 401),
    _header("a key with a tab in it", {"Authorization": "Bearer lcl_a\tb.c"}, 401),
    _header("a key with half of a path", {"Authorization": "Bearer ../key"}, 401),
    _header("a key with an encoded NUL", {"Authorization": "Bearer lcl_0123456789ab%00.x"}, 401),
    _header("a prefix without a secret", {"Authorization": "Bearer lcl_0123456789ab."}, 401),
    _header("the prefix of the first key", {"Authorization": "Bearer configured.x"}, 401),
    _header("a key for a proxy", {"Authorization": "-", "Proxy-Authorization": "Bearer @KEY@"}, 401),
    _header("a range without an end or a begin", {"Range": "bytes=-"}, 400, call=REPORT),
    _header("a range of no bytes", {"Range": "bytes=-0"}, 416, call=REPORT),
    _header("a range that goes back", {"Range": "bytes=2-1"}, 416, call=REPORT),
    _header("a range beyond 64 bits", {"Range": f"bytes={'9' * 20}-"}, 400, call=REPORT),
    _header("an event number in hexadecimal", {"Last-Event-ID": "0x10"}, 422, call=f"GET /v1/runs/{OWN}/events"),
    _header("an empty idempotency key", {"Idempotency-Key": ""}, 422, call=SUBMIT, body=RUN),
    _header("a packed body", {"Content-Encoding": "gzip"}, 415, call=SUBMIT, body=b"\x1f\x8b\x08\0\0\0\0\0"),
    _header("a body that is packed twice", {"Content-Encoding": "gzip, br"}, 415, call=SUBMIT, body=RUN),
    _header("another's identity", {"Authorization": "-", "X-Remote-User": "admin", "X-Forwarded-User": "admin"}, 401),
]


def _text(name: str, text: str, *status: int) -> Case:
    return Case("JSON", name, SUBMIT, text.encode(), status=status or (400,))


TEXTS = [
    _text("a number with a zero before it", '{"kind": "pretrain", "spec": {"steps": 010}}'),
    _text("a number with a plus sign", '{"kind": "pretrain", "spec": {"steps": +1}}'),
    _text("a number in hexadecimal", '{"kind": "pretrain", "spec": {"steps": 0x10}}'),
    _text("a number with underscores", '{"kind": "pretrain", "spec": {"steps": 1_000}}'),
    _text("a number without its whole part", '{"kind": "pretrain", "spec": {"optimizer": {"lr": .5}}}'),
    _text("an exponent without digits", '{"kind": "pretrain", "spec": {"optimizer": {"lr": 1e}}}'),
    _text("an exponent of a million", '{"kind": "pretrain", "spec": {"optimizer": {"lr": 1e1000000}}}', 422),
    _text("a mark of the byte order", "\ufeff" + '{"kind": "pretrain", "spec": {}}', 422),
    _text("an unknown escape", '{"kind": "pretrain", "spec": {"preset": "\\x41"}}'),
    _text("half an escape", '{"kind": "pretrain", "spec": {"preset": "\\u00"}}'),
    _text("a line break in a text", '{"kind": "pretrain", "spec": {"preset": "a\nb"}}'),
    _text("a no-break space", '{"kind":\u00a0"pretrain", "spec": {}}'),
    _text("a name without quotes", '{kind: "pretrain", "spec": {}}'),
    _text("a call instead of an object", 'callback({"kind": "pretrain", "spec": {}})'),
    _text("ten thousand fields", json.dumps({"kind": "pretrain", "spec": {f"f{n}": 1 for n in range(10_000)}}), 422),
    _text("a name of a megabyte", json.dumps({"kind": "pretrain", "spec": {"x" * 2**20: 1}}), 422),
    _text("a kind that is an object", '{"kind": {"$ne": ""}, "spec": {}}', 422),
]
UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "a corpus for another owner": ("POST /v1/datasets", {"name": "x", "path": DATA, "owner": "admin"}),
    "an encoder with code": ("POST /v1/encoders", {"name": "x", "path": DATA, "trust_remote_code": True}),
    "a validation with a command": ("POST /v1/datasets/validate", {"path": DATA, "command": "id"}),
    "a search with a program": ("POST /v1/collections/absent/search", {"text": "a", "script": "1"}),
    "an embedding with tools": ("POST /v1/embeddings", {"model": "tiny", "input": "a", "tools": []}),
    "captions with an address": ("POST /v1/captions", {"model": "tiny", "images": [], "callback": "http://x"}),
    "a study for another owner": ("POST /v1/studies", {"spec": {"metrics": []}, "owner": "admin"}),
    "an image with a path": ("POST /v1/collections/absent/items", {"items": [{"path": "/etc/passwd"}]}),
}

CASES = [
    *QUERIES,
    *IDS,
    *HEADERS,
    *TEXTS,
    *(Case("unknown fields", what, call, body) for what, (call, body) in UNKNOWN.items()),
]
