"""How a request is put together: its first line, the ends of lines, lengths and chunks, and headers that come twice."""

from __future__ import annotations

from tests.api.hostile.case import CUT, OWN, Case

RUN = '{"kind": "pretrain", "spec": {"preset": "sample"}}'
SUBMIT = "POST /v1/runs"
READ = "GET /v1/runs"
KEY = "Authorization: Bearer @SENDER@\r\n"
BASE = f"Host: lcl\r\nConnection: close\r\n{KEY}"
JSON = "Content-Type: application/json\r\n"
REPORT = f"GET /v1/runs/{OWN}/artifacts/report.json"


def _head(name: str, lines: str, *status: int, call: str = READ) -> Case:
    """A whole request without a body; ``lines``: of its head, after which a blank one follows."""
    return Case("framing", name, call, raw=f"{lines}\r\n", status=status or (400,))


def _sized(name: str, headers: str, *status: int, body: str = RUN, ends: bool = False) -> Case:
    raw = f"{SUBMIT} HTTP/1.1\r\n{BASE}{JSON}{headers}\r\n{body}"
    return Case("framing", name, SUBMIT, raw=raw, status=status or (400,), ends=ends)


def _chunked(name: str, chunks: str, *status: int, ends: bool = False) -> Case:
    return _sized(name, "Transfer-Encoding: chunked\r\n", *status, body=chunks, ends=ends)


START = f"{READ} HTTP/1.1\r\n"
LINES = [
    _head("lines that end with LF alone", f"{START}{BASE}".replace("\r\n", "\n").removesuffix("\n") + "\n\n"),
    _head("one line that ends with LF alone", f"{START}X-Filler: a\n{BASE}"),
    _head("a blank line of LF alone", f"{START}{BASE}\n"),
    _head("a header that goes on in the next line", f"{START}{BASE}X-Filler: a\r\n b\r\n"),
    _head("a key that goes on in the next line", f"{START}Host: lcl\r\nAuthorization: Bearer\r\n @SENDER@\r\n"),
    _head("a transfer encoding in the next line", f"{START}{BASE}Transfer-Encoding:\r\n chunked\r\n"),
    _head("a first header that is the end of another", f"{START} X-Filler: a\r\n{BASE}"),
    _head("a CR in a value", f"{START}{BASE}X-Filler: a\rb\r\n"),
    _head("a bell in a value", f"{START}{BASE}X-Filler: a\x07b\r\n"),
    _head("a blank before the colon", f"{START}{BASE}Content-Length : 0\r\n"),
    _head("a header without a name", f"{START}{BASE}: a\r\n"),
    _head("a name in brackets", f"{START}{BASE}[Role]: admin\r\n"),
    _head("two blanks in the first line", f"GET  /v1/runs HTTP/1.1\r\n{BASE}"),
    _head("a tab in the first line", f"GET\t/v1/runs HTTP/1.1\r\n{BASE}"),
    _head("a blank in the address", f"GET /v1/ runs HTTP/1.1\r\n{BASE}"),
    _head("a letter beyond ASCII in the address", f"GET /v1/run\xe9 HTTP/1.1\r\n{BASE}"),
    _head("a first line without a version", f"{READ}\r\n{BASE}"),
    _head("a version of one digit", f"{READ} HTTP/1\r\n{BASE}"),
    _head("a version of another protocol", f"{READ} RTSP/1.0\r\n{BASE}"),
    _head("a verb in brackets", f"G(E)T /v1/runs HTTP/1.1\r\n{BASE}"),
    _head("a blank line first", f"\r\n{START}{BASE}"),
    _head("the beginning of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
]
LENGTHS = [
    _sized("a length with a sign", f"Content-Length: +{len(RUN)}\r\n"),
    _sized("a length in hexadecimal", "Content-Length: 0x32\r\n"),
    _sized("a length with a comma", f"Content-Length: {len(RUN)}, {len(RUN)}\r\n"),
    _sized("the same length twice", f"Content-Length: {len(RUN)}\r\n" * 2),
    _sized("a length of 30 digits", f"Content-Length: {'9' * 30}\r\n"),
    _sized("a length beyond 64 bits", f"Content-Length: {2**64}\r\n", 400, 413),
    _sized("a length of eight exbibytes", f"Content-Length: {2**63 - 1}\r\n", 413),
    _sized("a length that cuts the body", "Content-Length: 20\r\n"),
    _sized("a body that breaks off", f"Content-Length: {len(RUN)}\r\n", CUT, body=RUN[:20], ends=True),
    _sized("a body that looks whole and breaks off", f"Content-Length: {len(RUN) + 5}\r\n", CUT, ends=True),
    _sized("a request behind the body", "Content-Length: 1\r\n", body="{DELETE /v1/runs HTTP/1.1\r\nHost: lcl\r\n\r\n"),
]
WHOLE = f"{len(RUN):x}\r\n{RUN}\r\n"
CHUNKS = [
    _sized("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", 400, 501),
    _sized("two transfer encodings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400, 501),
    _sized("a transfer encoding that looks like another", "Transfer-Encoding: xchunked\r\n", 400, 501),
    _sized("a transfer encoding that does nothing", "Transfer-Encoding: identity\r\n", 400, 501),
    _sized("a transfer encoding behind a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", 400, 501),
    _chunked("a chunk whose size is a word", f"all\r\n{RUN}\r\n0\r\n\r\n"),
    _chunked("a chunk of a negative size", f"-1\r\n{RUN}\r\n0\r\n\r\n"),
    _chunked("a chunk whose size has a prefix", f"0x{len(RUN):x}\r\n{RUN}\r\n0\r\n\r\n"),
    _chunked("a chunk whose size has 30 digits", f"{'f' * 30}\r\n{RUN}\r\n0\r\n\r\n"),
    _chunked("a chunk that is longer than it says", f"5\r\n{RUN}\r\n0\r\n\r\n"),
    _chunked("chunks that end with LF alone", f"{WHOLE}0\r\n\r\n".replace("\r\n", "\n"), CUT, 400, ends=True),
    _chunked("chunks without an end", WHOLE, CUT, ends=True),
    _chunked("a trailer that is no header", f"{WHOLE}0\r\nno colon here\r\n\r\n"),
    _chunked("chunks of more than may be sent", f"{2**21 + 1:x}\r\n{' ' * (2**21 + 1)}\r\n0\r\n\r\n", 413),
]


def _twice(name: str, header: str, first: str, second: str, call: str = READ) -> Case:
    """A header that comes twice, of which each server may believe another one."""
    more = KEY if header != "Authorization" else ""
    head = f"{call} HTTP/1.1\r\nHost: lcl\r\nConnection: close\r\n{more}{header}: {first}\r\n{header}: {second}\r\n"
    return Case("headers", f"{name} twice", call, raw=f"{head}\r\n", status=(400,))


TWICE = [
    _twice("a key", "Authorization", "Bearer @SENDER@", "Bearer nothing"),
    _twice("a made-up key, then a right one,", "Authorization", "Bearer nothing", "Bearer @SENDER@"),
    _twice("a media type", "Content-Type", "application/json", "text/plain", SUBMIT),
    _twice("an idempotency key", "Idempotency-Key", "a", "b", SUBMIT),
    _twice("a range", "Range", "bytes=0-0", "bytes=1-1", REPORT),
    _twice("an event number", "Last-Event-ID", "1", "2", f"GET /v1/runs/{OWN}/events"),
]


def _target(name: str, target: str, *status: int, verb: str = "GET") -> Case:
    call = f"{verb} {target}"
    return Case("addresses", name, call, raw=f"{call} HTTP/1.1\r\n{BASE}\r\n", status=status or (404,))


TARGETS = [
    _target("another host's whole address", "http://evil.example/v1/runs"),
    _target("an address with a user", "http://admin@lcl/v1/runs"),
    _target("a host without a scheme", "//evil.example/v1/runs"),
    _target("no address but a star", "*", verb="OPTIONS"),
    _target("a tunnel", "evil.example:443", verb="CONNECT"),
    _target("a backslash", "/v1\\runs"),
    _target("a parameter behind a semicolon", "/v1/runs;role=admin"),
    _target("dots in the middle", "/v1/datasets/../runs"),
    _target("capital letters", "/V1/RUNS"),
    _target("two slashes", "/v1//runs"),
    _target("a slash at the end", "/v1/runs/"),
    _target("an encoded slash at the end", "/v1/runs%2f"),
    _target("a slash at the end of a run's address", f"/v1/runs/{OWN}/"),
    _target("a slash at the end of a folder of files", f"/v1/runs/{OWN}/artifacts/"),
    _target("a percent sign that encodes nothing", "/v1/run%zz"),
    _target("a fragment", "/v1/runs#admin"),
    _target("an address of 12 KB", f"/v1/{'a' * 12_000}"),
    _target("a file of the program", "/static/docs.js"),
    _target("a page of the framework", "/redoc"),
    _target("a folder of the documentation", "/docs/../api/core/settings.py"),
]
VERBS = [
    _target("all runs at once", "/v1/runs", 405, verb="DELETE"),
    _target("a run that is put", f"/v1/runs/{OWN}", 405, verb="PUT"),
    _target("a verb in small letters", "/v1/runs", 405, verb="get"),
    _target("a verb of a thousand letters", "/v1/runs", 405, verb="A" * 1000),
    _target("health that is written", "/healthz", 405, verb="POST"),
    _target("figures that are removed", "/metrics", 405, verb="DELETE"),
    _target("a description that is replaced", "/openapi.json", 405, verb="PUT"),
    _target("the audit log that is emptied", "/v1/audit", 405, verb="DELETE"),
    _target("a lock", f"/v1/runs/{OWN}", 405, verb="LOCK"),
]

CASES = [*LINES, *LENGTHS, *CHUNKS, *TWICE, *TARGETS, *VERBS]
