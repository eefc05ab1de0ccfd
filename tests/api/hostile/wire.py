"""What is wrong with the request itself: headers, JSON, media types, browsers sent by somebody else."""

from __future__ import annotations

from typing import Any

from tests.api.hostile.case import CUT, OWN, Case

SUBMIT = "POST /v1/runs"
RUN: dict[str, Any] = {"kind": "pretrain", "spec": {"preset": "sample"}}
PLAIN = b'{"kind": "pretrain", "spec": {"preset": "sample"}}'
LENGTH = str(len(PLAIN))
EVIL = "https://evil.example"


def _get(name: str, headers: dict[str, str], *status: int, call: str = "GET /v1/runs", **more: Any) -> Case:
    return Case("headers", name, call, headers=headers, status=status, **more)


def _post(name: str, headers: dict[str, str], *status: int, **more: Any) -> Case:
    return Case("headers", name, SUBMIT, PLAIN, headers, status, **more)


HEADERS = [
    _get("headers of 40 KiB", {"X-Filler": "x" * 40_960}, 431),
    _get("a hundred long headers", {f"X-{number}": "x" * 400 for number in range(100)}, 431),
    _get("headers of a megabyte", {"X-Filler": "x" * 2**20}, 431, CUT),
    _get("a NUL in a value", {"X-Filler": "a\0b"}, 400),
    _get("a line that is no header", {"X-Filler": "a\r\nno colon here"}, 400),
    _get("a blank in a name", {"X Filler": "a"}, 400),
    _get("no host", {"Host": "-"}, 400),
    _get("two hosts", {"Host": "lcl\r\nHost: evil.example"}, 400),
    _post("a length and chunks at once", {"Transfer-Encoding": "chunked", "Content-Length": LENGTH}, 400),
    _post("two lengths", {"Content-Length": f"{LENGTH}\r\nContent-Length: 1"}, 400),
    _post("a negative length", {"Content-Length": "-1"}, 400),
    _post("a length that is a word", {"Content-Length": "all"}, 400),
    _post("an unknown transfer encoding", {"Transfer-Encoding": "gzip", "Content-Length": "-"}, 400, 501),
    _post("an idempotency key with a blank", {"Idempotency-Key": "a b"}, 422),
    _post("an idempotency key beyond ASCII", {"Idempotency-Key": "caf\xe9"}, 422),
    _post("an endless idempotency key", {"Idempotency-Key": "x" * 201}, 422),
    _get("a key of 20 KB", {"Authorization": "Bearer " + "x" * 20_000}, 401),
    _get("a key beyond ASCII", {"Authorization": "Bearer lcl_\xff.\xff"}, 401),
    _get("a key with SQL in it", {"Authorization": "Bearer lcl_' OR 1=1--.x"}, 401),
    _get("a key with a line break behind it", {"Authorization": "Bearer x\r\nX-Role: admin"}, 401),
    _get("another scheme", {"Authorization": "Basic YWRtaW46YWRtaW4="}, 401),
    _get("several ranges", {"Range": "bytes=0-1,3-4"}, 400, call=f"GET /v1/runs/{OWN}/artifacts/report.json"),
    _get("a range of lines", {"Range": "lines=0-1"}, 400, call=f"GET /v1/runs/{OWN}/artifacts/report.json"),
    _get("a range behind the end", {"Range": "bytes=999-"}, 416, call=f"GET /v1/runs/{OWN}/artifacts/report.json"),
    _get("a negative event number", {"Last-Event-ID": "-1"}, 422, call=f"GET /v1/runs/{OWN}/events"),
    _get("an event number that is a word", {"Last-Event-ID": "NaN"}, 422, call=f"GET /v1/runs/{OWN}/events"),
    _get("an event number beyond 64 bits", {"Last-Event-ID": "9" * 30}, 422, call=f"GET /v1/runs/{OWN}/events"),
    _get("an unknown verb", {}, 405, call="PROPFIND /v1/runs"),
    _get("a verb that echoes", {}, 405, call="TRACE /v1/runs"),
    _get("a verb in another header", {"X-HTTP-Method-Override": "DELETE"}, 405, call="PATCH /v1/runs"),
    _get("a NUL in the query", {}, 400, call="GET /v1/runs?tag=a%00b"),
    _get("a line break in the query", {}, 422, call="GET /v1/runs?tag=a%0d%0aSet-Cookie:x"),
    _get("SQL in the cursor", {}, 400, call="GET /v1/runs?cursor=%27%20OR%201=1--"),
]


def _body(name: str, body: bytes, *status: int) -> Case:
    return Case("JSON", name, SUBMIT, body, status=status or (422,))


JSON_CASES = [
    _body("arrays nested 100,000 deep", b"[" * 100_000, 422),
    _body("objects nested 65 deep", b'{"kind": "pretrain", "spec": ' + b'{"a":' * 65 + b"1" + b"}" * 66, 422),
    _body("brackets in a name, then depth", b'{"[": ' + b"[" * 80 + b"]" * 80 + b"}", 422),
    _body("two megabytes and a byte", b'"' + b"x" * 2**21 + b'"', 413),
    _body("a name twice", b'{"kind": "pretrain", "kind": "convert", "spec": {"preset": "sample"}}'),
    _body("a name twice, inside", b'{"kind": "pretrain", "spec": {"steps": 1, "steps": 1000000}}'),
    _body("a name twice, once escaped", b'{"kind": "pretrain", "k\\u0069nd": "convert", "spec": {}}'),
    _body("NaN", b'{"kind": "pretrain", "spec": {"optimizer": {"lr": NaN}}}'),
    _body("Infinity", b'{"kind": "pretrain", "spec": {"timeout_seconds": Infinity}}'),
    _body("-Infinity", b'{"kind": "pretrain", "spec": {"timeout_seconds": -Infinity}}'),
    _body("a number that becomes infinite", b'{"kind": "pretrain", "spec": {"timeout_seconds": 1e999}}'),
    _body("a number of 5,000 digits", b'{"kind": "pretrain", "spec": {"steps": ' + b"9" * 5000 + b"}}"),
    _body("a number beyond 64 bits", b'{"kind": "pretrain", "spec": {"seed": 99999999999999999999999}}'),
    _body("a word for a number", b'{"kind": "pretrain", "spec": {"steps": "1; DROP TABLE run"}}'),
    _body("a list for a word", b'{"kind": ["pretrain"], "spec": {}}'),
    _body("an array", b"[1]"),
    _body("a text", b'"pretrain"'),
    _body("nothing", b""),
    _body("half of it", PLAIN[:-1], 400),
    _body("two at once", PLAIN + PLAIN, 400),
    _body("a comment", b"/* x */" + PLAIN, 400),
    _body("single quotes", PLAIN.replace(b'"', b"'"), 400),
    _body("a comma too many", PLAIN[:-1] + b",}", 400),
    _body("a NUL byte", PLAIN.replace(b"sample", b"sam\0le")),
    _body("UTF-16", PLAIN.decode().encode("utf-16")),
    _body("bytes that are no UTF-8", PLAIN.replace(b"sample", b"sam\xffle")),
    _body("an over-long UTF-8 slash", PLAIN.replace(b"sample", b"..\xc0\xafx")),
]


def _typed(name: str, media_type: str, body: bytes = PLAIN) -> Case:
    return Case("media types", name, SUBMIT, body, {"Content-Type": media_type})


TYPES = [
    _typed("JSON as text", "text/plain"),
    _typed("JSON as a form", "application/x-www-form-urlencoded"),
    _typed("a form", "application/x-www-form-urlencoded", b"kind=pretrain&spec="),
    _typed("a form of parts", "multipart/form-data; boundary=x", b"--x\r\n\r\n" + PLAIN + b"\r\n--x--"),
    _typed("JSON as XML", "application/xml"),
    _typed(
        "an XML with an entity", "application/xml", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    ),
    _typed("JSON as an image", "image/svg+xml"),
    _typed("YAML that makes an object", "application/yaml", b"!!python/object/apply:os.system [id]"),
    _typed("no type at all", "-"),
    _typed("a media type without a slash", "json"),
]


def _browser(name: str, call: str, headers: dict[str, str], *status: int, body: bytes | None = None) -> Case:
    return Case("other people's browsers", name, call, body, headers, status or (401,), key=False)


COOKIE = {"Cookie": "key=@KEY@; session=@KEY@; authorization=Bearer @KEY@"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BROWSERS = [
    _browser("a cookie alone, reading", "GET /v1/runs", COOKIE),
    _browser("a cookie alone, submitting", SUBMIT, COOKIE, body=PLAIN),
    _browser("a cookie and a foreign origin", SUBMIT, {**COOKIE, "Origin": EVIL}, body=PLAIN),
    _browser("a cookie and no origin", SUBMIT, {**COOKIE, "Origin": "null"}, body=PLAIN),
    _browser("a cookie and a token of its own", SUBMIT, {**COOKIE, "X-CSRF-Token": "x"}, body=PLAIN),
    _browser("a form of another site", SUBMIT, {**COOKIE, **FORM, "Origin": EVIL}, body=b"kind=pretrain"),
    _browser("a form that deletes", f"POST /v1/runs/{OWN}/cancel", {**COOKIE, **FORM, "Origin": EVIL}, body=b"x=1"),
    _browser("a link that deletes", f"DELETE /v1/runs/{OWN}", {**COOKIE, "Sec-Fetch-Site": "cross-site"}),
    _browser("the key in the address", "GET /v1/runs?key=@KEY@&access_token=@KEY@", {}),
    _browser("the key in another header", "GET /v1/runs", {"X-API-Key": "@KEY@"}),
    _browser("the key as a password", "GET /v1/runs", {"Authorization": "Basic @KEY@"}),
    _browser("a question before a foreign call", "OPTIONS /v1/runs",
             {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "range"},
             405),
    _browser("the same for a verb that deletes", f"OPTIONS /v1/runs/{OWN}",
             {"Origin": EVIL, "Access-Control-Request-Method": "DELETE"}, 405),
    _browser("an address that pretends to be this machine", "GET /v1/runs",
             {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}),
]  # fmt: skip

CASES = [*HEADERS, *JSON_CASES, *TYPES, *BROWSERS]
