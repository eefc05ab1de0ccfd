"""Hostile requests, one for each guard: refused in the one form, and nothing written, run or fetched."""

import base64
import json
import os
import pickle
import socket
import struct
import zipfile
import zlib
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from sqlalchemy import func, select

from lcl_core.db import complete_run
from lcl_core.db.models import Base
from tests.api.hostile import encoders
from tests.lcl_core.encoders.external_samples import save_huggingface

RUN = {"kind": "pretrain", "spec": {"preset": "sample"}}
SUBMIT, IMPORT, REGISTER = "POST /v1/runs", "POST /v1/encoders", "POST /v1/datasets"
EMBED = "POST /v1/embeddings"
LINE = b'{"text_list": ["a"], "image_info": []}\n'
ENCODERS = (
    *("3,000,000 words", "code to import", "a header without end", "sides of 4000 digits", "offsets that overlap"),
    *("a replacement of a letter by 10^6", "an expression of exponential time", "an id beyond the embeddings"),
    *("a backbone of a hub", "weights of timm in a file", "an adapter of another model"),
)


def pretrain(**spec):
    return {"kind": "pretrain", "spec": {"preset": "sample", **spec}}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *extra):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((3 * width + 1) * height if width * height < 300_000 else 64)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def image(data, count=1, kind="png"):
    url = data if isinstance(data, str) else f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"model": "tiny", "input": [{"type": "image_url", "image_url": {"url": url}}] * count}


# name: (call, body: JSON, or bytes as they are, status). @NAMES@ stand for what is known once the service runs.
CASES = {
    # paths
    "an absolute path": (REGISTER, {"name": "x", "path": "/etc/passwd"}, 422),
    "dots that climb": (IMPORT, {"name": "x", "path": "@DATA@/../../../../etc"}, 422),
    "another owner's run as a corpus": (REGISTER, {"name": "x", "path": "@HOME@/runs/@THEIRS@/artifacts"}, 422),
    "a NUL in a path": (SUBMIT, {"kind": "convert", "spec": {"path": "@DATA@/x\0", "name": "x"}}, 422),
    "a path in a nested field": (
        SUBMIT,
        {
            "kind": "evaluate",
            "spec": {"encoder": "tiny", "tasks": ["captioning"], "captioning": {"language_model": {"path": "/etc"}}},
        },
        422,
    ),
    "a link out of the data root": (REGISTER, {"name": "x", "path": "@DATA@/out"}, 422),
    "weights that are a link": (IMPORT, {"name": "x", "path": "@DATA@/linked-weights"}, 422),
    "an artifact above its folder": ("GET /v1/runs/@OWN@/artifacts/..%2frun.json", None, 404),
    "an artifact that is a link": ("GET /v1/runs/@OWN@/artifacts/leak", None, 404),
    "a dataset's image above it": ("GET /v1/datasets/sample/images/..%2f..%2fkey", None, 404),
    "a file of the program as a page": ("GET /docs/guide/..%2f..%2fapi/core/settings.py", None, 404),
    # programs and addresses
    "weights that are a pickle": (IMPORT, {"name": "x", "path": "@DATA@/pickled"}, 422),
    "a pickle as a request": (SUBMIT, b"\x80\x04c__builtin__\neval\n.", 400),
    "an objective that is a module": (SUBMIT, pretrain(objective={"name": "os.system"}), 422),
    "an environment": (SUBMIT, pretrain(env={"LD_PRELOAD": "/tmp/x.so"}), 422),
    "a preset by its path": (SUBMIT, pretrain(preset="../../../etc/passwd"), 422),
    "an unknown kind": (SUBMIT, {"kind": "shell", "spec": {"command": "id"}}, 422),
    "a corpus behind an address": (REGISTER, {"name": "x", "path": "http://@TRAP@/corpus"}, 422),
    "chained protocols": (REGISTER, {"name": "x", "path": "simplecache::http://@TRAP@/x"}, 422),
    "an image behind an address": (EMBED, image("http://@TRAP@/x.png"), 422),
    "an image on the disk": (EMBED, image("file:///etc/passwd"), 422),
    # archives
    **{
        f"an archive: {name}": (REGISTER, {"name": "x", "path": f"@DATA@/{name}.zip"}, 422)
        for name in ("lies", "zeros", "climbs", "nested", "cut")
    },
    # images
    "a PNG of ten thousand million pixels": (EMBED, image(png(100_000, 100_000)), 422),
    "a PNG just above the bound": (EMBED, image(png(501, 500)), 422),
    "a PNG whose text unpacks to 16 MB": (
        EMBED,
        image(png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(16 << 20))))),
        422,
    ),
    "a GIF of 65,535 pixels a side": (EMBED, image(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)), 422),
    "PostScript": (EMBED, image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 422),
    "more bytes than an image may have": (EMBED, image(bytes(100_001)), 422),
    "more pixels than a request may have": (EMBED, image(png(490, 490), 3), 422),
    "what is not base64": (EMBED, image("data:image/png;base64,@@@@"), 422),
    # encoders
    **{
        f"an encoder: {name}": (IMPORT, {"name": "x", "path": f"@DATA@/hostile/{encoders.slug(name)}"}, 422)
        for name in ENCODERS
    },
    # owners
    "another owner's encoder, imported": (IMPORT, {"name": "tiny", "path": "@DATA@/tiny-encoder"}, 409),
    "the product's dataset": (REGISTER, {"name": "sample", "path": "@DATA@/whole.zip"}, 409),
    "a name in the form of an id": (IMPORT, {"name": "enc_x", "path": "@DATA@/tiny-encoder"}, 422),
    "another owner's encoder, deleted": ("DELETE /v1/encoders/tiny", None, 403),
    "another owner's run": ("GET /v1/runs/@THEIRS@", None, 404),
    "a run for another owner": (SUBMIT, {**RUN, "owner": "admin"}, 422),
    "a key of a higher role": ("POST /v1/keys", {"owner": "x", "role": "admin"}, 403),
    "a priority above the maximum": (SUBMIT, {**RUN, "priority": 1}, 403),
    # bodies
    "nested 100,000 deep": (SUBMIT, b"[" * 100_000, 400),
    "a name twice": (SUBMIT, b'{"kind": "pretrain", "kind": "convert", "spec": {}}', 422),
    "NaN": (SUBMIT, b'{"kind": "pretrain", "spec": {"optimizer": {"lr": NaN}}}', 422),
    "a number that becomes infinite": (SUBMIT, b'{"kind": "pretrain", "spec": {"timeout_seconds": 1e999}}', 422),
    "a number of 5,000 digits": (SUBMIT, b'{"kind": "pretrain", "spec": {"steps": ' + b"9" * 5000 + b"}}", 400),
    "bytes that are no UTF-8": (SUBMIT, b'{"kind": "pretrain\xff", "spec": {}}', 400),
    "half a surrogate pair": (SUBMIT, {**RUN, "name": "a\ud800"}, 422),
    "writing turned to the left": (SUBMIT, {**RUN, "tags": ["a\u202etxt.exe"]}, 422),
    "a name that looks like another": (REGISTER, {"name": "s\u0430mple", "path": "@DATA@/whole.zip"}, 422),
    # addresses
    "a NUL in the query": ("GET /v1/runs?tag=a%00b", None, 400),
    "SQL in the cursor": ("GET /v1/runs?cursor=%27%20OR%201=1--", None, 422),
    "a limit beyond 64 bits": ("GET /v1/runs?limit=99999999999999999999", None, 422),
    "a step beyond 63 bits": (f"GET /v1/runs/@OWN@/metrics?after={2**63}", None, 422),
    "every encoder by a pattern": ("DELETE /v1/encoders/%25", None, 404),
    "all runs at once": ("DELETE /v1/runs", None, 405),
}
HEADERS = {
    "a key with SQL in it": ({"Authorization": "Bearer lcl_' OR 1=1--.x"}, 401),
    "the key in the address": ({"Authorization": "", "X-Original-URL": "/v1/runs?key=@KEY@"}, 401),
    "the key in a cookie": ({"Authorization": "", "Cookie": "key=@KEY@", "Origin": "https://evil.example"}, 401),
    "another's identity": ({"Authorization": "", "X-Forwarded-User": "admin"}, 401),
}


class _Owned:
    """Unpickled, it leaves a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def trap():
    """A port at which nobody may knock."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    """What would be there if a pickle had been opened."""
    return tmp_path_factory.mktemp("marks") / "owned"


def write_zip(path, name, data, says=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
        if says is not None:
            archive.infolist()[0].file_size = says


@pytest.fixture(scope="module")
def names(live_service, data_root, encoder, encoder_dir, sample_zip, trap, mark, tmp_path_factory):
    """What the marks of the cases stand for; makes the links, archives, pickles and encoders that they name."""
    (data_root / "out").symlink_to(tmp_path_factory.mktemp("private"))
    linked = data_root / "linked-weights"
    linked.mkdir()
    for file in encoder_dir.iterdir():
        (linked / file.name).symlink_to(file)
    pickled = data_root / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((encoder_dir / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(_Owned(mark)))
    (data_root / "whole.zip").write_bytes(sample_zip.read_bytes())
    write_zip(data_root / "lies.zip", "interleaved.jsonl", bytes(16 << 20), says=100)
    write_zip(data_root / "zeros.zip", "interleaved.jsonl", bytes(16 << 20))
    write_zip(data_root / "climbs.zip", "../../interleaved.jsonl", LINE)
    write_zip(data_root / "nested.zip", "inner.zip", (data_root / "climbs.zip").read_bytes())
    (data_root / "cut.zip").write_bytes((data_root / "whole.zip").read_bytes()[:1000])
    foreign = save_huggingface(tmp_path_factory.mktemp("foreign") / "encoder", "clip")
    for name in ENCODERS:
        encoders.make(name, data_root / "hostile" / encoders.slug(name), encoder_dir, foreign)
    with live_service.http("submitter") as caller:
        own = caller.post("/v1/runs", json=RUN).json()["id"]
    with live_service.http("admin") as admin:
        ada = admin.post("/v1/keys", json={"owner": "ada", "role": "submitter"}).json()["key"]
        theirs = admin.post("/v1/runs", json=RUN, headers={"authorization": f"Bearer {ada}"}).json()["id"]
    for run_id in (own, theirs):
        live_service.settle(live_service.claim(run_id), complete_run.RunCancelled())
    (live_service.run_dir(own).artifacts / "leak").symlink_to(live_service.home / "key")
    host, port = trap.getsockname()
    return {
        **{"@DATA@": str(data_root), "@HOME@": str(live_service.home), "@TRAP@": f"{host}:{port}"},
        **{"@OWN@": own, "@THEIRS@": theirs, "@KEY@": live_service.keys["admin"]},
    }


def filled(text, names):
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def state(live_service):
    """Rows of every table, and every file of the home but what examinations of encoders found."""
    with live_service.context.database.reading() as session:
        rows = {
            table.name: session.scalar(select(func.count()).select_from(table)) for table in Base.metadata.sorted_tables
        }
    files = (path.relative_to(live_service.home).as_posix() for path in live_service.home.rglob("*"))
    return rows, sorted(name for name in files if not name.startswith(("lcl.db", "examined")))


def check_refused(live_service, names, trap, mark, call, body, headers, status):
    before = state(live_service)
    verb, _, path = filled(call, names).partition(" ")
    if body is not None and not isinstance(body, bytes):
        body = filled(json.dumps(body), names).encode()
    connection = HTTPConnection(urlsplit(live_service.url).netloc, timeout=180)
    sent = {"Authorization": f"Bearer {live_service.keys['submitter']}", "Content-Type": "application/json"}
    connection.request(verb, path, body, {**sent, **{name: filled(value, names) for name, value in headers.items()}})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status == status, answer[:500]
    assert json.loads(answer)["error"]["message"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not {"access-control-allow-origin", "set-cookie"} & {name.lower() for name in response.headers}
    assert b"Traceback" not in answer
    assert names["@KEY@"].partition(".")[2].encode() not in answer
    assert state(live_service) == before
    assert not mark.exists(), "a pickle was opened"
    with pytest.raises(BlockingIOError):
        trap.accept()


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_nothing_is_written(live_service, names, trap, mark, name):
    call, body, status = CASES[name]
    check_refused(live_service, names, trap, mark, call, body, {}, status)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_opens_nothing(live_service, names, trap, mark, name):
    headers, status = HEADERS[name]
    check_refused(live_service, names, trap, mark, "GET /v1/runs", None, headers, status)
