"""What fields say: Unicode that deceives, addresses to fetch, programs and environment."""

from __future__ import annotations

from typing import Any

from tests.api.hostile.case import DATA, TRAP, Case
from tests.api.hostile.paths import MODEL, requested, run

SUBMIT = "POST /v1/runs"
SPEC: dict[str, Any] = {"preset": "sample"}
TEXTS = {
    "a NUL": "a\0b",
    "a line break": "a\nb",
    "a bell": "a\x07b",
    "a control character of Latin-1": "a\x9bb",
    "writing turned to the left": "a\u202etxt.exe",
    "an isolate that turns writing": "a\u2067b",
    "a line separator": "a\u2028b",
    "half a surrogate pair": "a\ud800",
    "too many characters": "x" * 101,
}
NAMES = {
    "a name that begins with a dot": "..",
    "a name with a slash": "../key",
    "a name that looks like another": "s\u0430mple",
    "a name of full-width letters": "\uff53ample",
    "a name with a joiner of no width": "sam\u200bple",
    "a name with a break behind it": "sample\n",
}


def _submission(name: str, body: dict[str, Any]) -> Case:
    return Case("Unicode", name, SUBMIT, body)


UNICODE = [
    *(
        _submission(f"a run's name: {what}", {"kind": "pretrain", "spec": SPEC, "name": text})
        for what, text in TEXTS.items()
    ),
    *(
        _submission(f"a tag: {what}", {"kind": "pretrain", "spec": SPEC, "tags": [text]})
        for what, text in TEXTS.items()
    ),
    *(
        Case("Unicode", f"a dataset: {what}", "POST /v1/datasets", {"name": text, "path": f"{DATA}/whole.zip"})
        for what, text in NAMES.items()
    ),
    _submission("a field's name: half a surrogate pair", {"kind": "pretrain", "spec": {"\ud800": 1}}),
    _submission("a field's name that looks like another", {"kind": "pretrain", "spec": {"st\u0435ps": 1}}),
    Case("Unicode", "a run: a snowman and a broken byte", "GET /v1/runs/%E2%98%83%ff", status=(404,)),
    Case("Unicode", "a key's owner: writing turned to the left", "GET /v1/runs?tag=%E2%80%AEx"),
]

URLS = {
    "http": f"http://{TRAP}/corpus",
    "https": f"https://{TRAP}/corpus",
    "ftp": f"ftp://{TRAP}/corpus",
    "gopher": f"gopher://{TRAP}/_GET",
    "dict": f"dict://{TRAP}/x",
    "file": "file:///etc",
    "local": "local:///etc",
    "the metadata service": "http://169.254.169.254/latest/meta-data/iam",
    "the metadata service as a number": "http://2852039166/latest",
    "this machine, in IPv6": "http://[::1]:80/x",
    "this machine, with a user": f"http://a@{TRAP}/x",
    "a bucket": "s3://somebody/secret",
    "memory of the process": "memory://x",
    "a repository": "github://owner:repo@main/x",
    "a shell": "ssh://root@localhost/x",
    "chained protocols": f"simplecache::http://{TRAP}/x",
    "a zip in a URL": f"zip://x::http://{TRAP}/x.zip",
    "a reference": "reference://x",
}


def _asked_for(url: str, number: int) -> tuple[str, dict[str, Any]]:
    """Each address in another of the fields that might be fetched."""
    fields: list[tuple[str, dict[str, Any]]] = [
        ("POST /v1/datasets", {"name": "x", "path": url}),
        run("validate", {"path": url}),
        run("convert", {"dataset": "sample", "name": "x", "to": url}),
        ("POST /v1/encoders", {"name": "x", "path": url}),
        run("evaluate", requested("captioning", {MODEL: {"path": url}})),
        run("evaluate", requested("dialogue", {"instructions": [{"path": url, "images": DATA}]})),
    ]
    return fields[number % len(fields)]


TURNS = ("in one field", "in another")
FETCHED = [
    Case("requests to elsewhere", f"{what} {TURNS[turn]}", *_asked_for(url, number + turn))
    for number, (what, url) in enumerate(URLS.items())
    for turn in range(2)
]
PROGRAMS: dict[str, dict[str, Any]] = {
    "a command": {"command": "id"},
    "an entry point": {"entrypoint": ["/bin/sh", "-c", "id"]},
    "environment": {"env": {"LD_PRELOAD": "/tmp/x.so"}},
    "environment under another name": {"environment": {"PYTHONPATH": "/tmp"}},
    "a module to import": {"module": "os"},
    "a class of Python": {"__class__": "subprocess.Popen"},
    "code that is trusted": {"trust_remote_code": True},
    "a container": {"image": "evil/image"},
    "an address to call back": {"callback_url": f"http://{TRAP}/"},
    "an objective that is a module": {"objective": {"name": "os.system"}},
    "an objective by its path": {"objective": {"name": "../../x"}},
    "a preset by its path": {"preset": "../../../etc/passwd"},
    "a device that is a command": {"device": "cuda; id"},
    "a checkpoint to load": {"resume_from": f"{DATA}/pickled"},
}
PACKAGES = {
    "a module in a package": "os.path",
    "a path": "../x",
    "a statement": "x;import os",
    "a break behind it": "x\n",
    "none": "",
}
CODE = [
    *(Case("programs", f"pretrain: {what}", *run("pretrain", {**SPEC, **spec})) for what, spec in PROGRAMS.items()),
    *(
        Case(
            "programs",
            f"a language model's package: {what}",
            *run("evaluate", requested("captioning", {MODEL: {"package": name}})),
        )
        for what, name in PACKAGES.items()
    ),
    Case(
        "programs",
        "a language model with code",
        *run("evaluate", requested("captioning", {MODEL: {"trust_remote_code": True}})),
    ),
    Case("programs", "a run of an unknown kind", SUBMIT, {"kind": "shell", "spec": {"command": "id"}}),
    Case("programs", "a priority above the maximum", SUBMIT, {"kind": "pretrain", "spec": SPEC, "priority": 101}),
    Case("programs", "a run for another owner", SUBMIT, {"kind": "pretrain", "spec": SPEC, "owner": "admin"}),
    Case("programs", "a key of a higher role", "POST /v1/keys", {"owner": "x", "role": "admin"}, status=(403,)),
]

CASES = [*UNICODE, *FETCHED, *CODE]
