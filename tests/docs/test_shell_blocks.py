"""The shell blocks of README.md and docs/ run in order, a page in a folder, against one service whose runs are small.

The quickstarts have a test of their own. ``LEFT_OUT`` names what is not run, with the reason; its form is checked in
test_code_blocks.py, as that of all commands. ``SAID`` has what names like ENCODER stand for.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from api.core.settings import ApiSettings
from api.services.state import AppState
from deploy.embedded_redis import EmbeddedBroker
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from lcl_core.pretrained import pretrained_encoders
from tests.api.conftest import _logs  # noqa: F401
from tests.api.service_fixture import Json, ServiceFixture, do_claim, serve_app
from tests.docs.code_blocks import BLOCKS, ROOT
from tests.docs.shell_session import Terminal, commands, script_of
from tests.lcl_core.encoders.external_samples import save_openclip
from tests.small_spec import SMALL_PRETRAIN

pytestmark = pytest.mark.extended

LEFT_OUT = {
    r"\bmake (setup|up|demo|test|check|audit|client)\b": "tests/deploy, e2e and api/client run what they start",
    r"\b(docker|kubectl|kustomize|trivy|cosign)\b": "needs Docker or a cluster; tests/deploy checks what it is given",
    r"\bray start\b|\bpython -m workers\b": "needs a cluster; tests/workers/executors has one of this machine",
    r"secrets(\.example)?\.env": "fills in what kubectl is given",
    r"^\s*install -m 600 \.env\.example": "tests/docs/test_quickstarts.py fills it in",
    r"^\s*pip install ": "installs from the network; test_code_blocks.py checks that the extras exist",
    r"examples.corpora": "reads packages of the network; tests/examples builds",
    r"^python -m benchmarks ": "measures for minutes, or rewrites the page; tests/benchmarks runs most of them, small",
    r"engine\.nodes=2": "needs a worker of an engine; tests/workers/executors has them",
    r"index=qdrant": "needs a server; tests/lcl_core/collections has them where they are installed",
    r"collections delete drawings": "blocks after it need the collection; tests/api/cli/test_collections.py",
}
S3 = {"AWS_ACCESS_KEY_ID": "key", "AWS_DEFAULT_REGION": "us-east-1", "AWS_SECRET_ACCESS_KEY": "sesame"}
SAID = {  # patterns of names, and what they stand for; in this order
    r"(lcl (?:collections remove|data delete) [^#]*\w)": r"\1 --yes",  # there is no terminal that it could ask on
    r"http://127\.0\.0\.1:8765": "$LCL_API_URL",
    r"\bRUN_ID\b|run_06fd3kyh2n8qv0m4tz": "$(newest_run)",
    r"img_2f0c6d1e9ab84753|img_0f3c…": "$(an_item)",
    r"(?<=--ids )selected-ids\.txt": "<(an_item)",
    r"lcl_1f2e3d4c5b6a": "$(newest_key)",
    r"(?<=encoder=)NAME|\bENCODER(_ID)?\b": "tiny",
    r"(?<=team/)(old|wiki-2024)": "wiki",
    r"(?<=compare )A B": "tiny mine",
    r"(lcl study (?!run)\w+) ID": r"\1 loss_ablation",
}
PAGES = sorted({block.page for block in BLOCKS if block.language == "sh" and "quickstart_" not in block.page})
ENCODERS = ("tiny", "sample", "mine", "ours")


class World(NamedTuple):
    """The service, and the folder that the pages call /data."""

    service: ServiceFixture
    data: Path


def small_spec(kind: str, spec: Json) -> Json:
    if kind == "pretrain":
        seed = spec.get("seed", 0)
        return {**SMALL_PRETRAIN, "data": {"sources": [{"dataset": "little"}]}, "steps": 1, "seed": seed}
    if kind == "evaluate":
        return {"encoder": spec["encoder"], "dataset": "little", "splits": ["val"], "tasks": ["retrieval"]}
    spec = spec | ({"processes": 1} if "processes" in spec else {})
    return spec | ({"dataset": "little"} if kind == "index" and spec["dataset"] == "sample" else {})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[World]:
    data, home = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("home")
    lay_data(data)
    with pytest.MonkeyPatch.context() as patch, EmbeddedBroker(home) as broker:
        for name, value in S3.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", s3_server)
        fsspec.filesystem("s3").mkdir("s3://of-pages")
        fsspec.filesystem("s3").pipe_file("s3://of-pages/data/laion/00000.tar", webdataset())
        settings = ApiSettings(
            home=home, data_roots=[data, "s3://of-pages"], broker_url=broker.url,
            _env_file=None,  # type: ignore[call-arg]
        )  # fmt: skip
        with serve_app(settings) as url:
            context = AppState(settings)
            service = ServiceFixture(url, home, context, (home / "key").read_text().strip())
            with context.database.session() as session:
                record_heartbeat(session, WorkerIdentity("worker-1", "host", 1, 1, ("cpu (2 cores)",), ("cpu",)))
            for name in ("little", "manuals", "mmc4", "laion400m", "imagenet", "imagenet-sketch", "corpora"):
                service.admin.register_dataset(name, str(data / "small.zip"))
            for seed, name in enumerate(ENCODERS):
                do(service, "pretrain", {**SMALL_PRETRAIN, "seed": seed}, name)
            bundled = pretrained_encoders()[-1]
            shutil.copytree(bundled.directory, data / bundled.name)
            service.admin.import_encoder(bundled.name, str(data / bundled.name))
            do(service, "evaluate", {"preset": "sample", "encoder": "mine"})
            yield World(service, data)
            service.admin.close()
            context.close()


def do(service: ServiceFixture, kind: str, spec: Json, name: str | None = None) -> None:
    run = service.admin.submit(kind, spec, name=name)["id"]
    claim = service.claim(run)
    do_claim(service, replace(claim, spec=small_spec(kind, claim.spec)))
    ended = service.admin.run(run)
    assert ended["state"] == "succeeded", ended["reason"]


def lay_data(data: Path) -> None:
    """The corpora that the pages name."""
    for name in ("manuals", "wiki"):
        shutil.copytree(ROOT / "examples" / "field_guide", data / name)
    for images in ("mmc4/images", "pics"):
        (data / images).mkdir(parents=True)
        shutil.copy(ROOT / "examples" / "field_guide" / "owl.png", data / images / "owl.png")
    image = {"image_name": "owl.png", "matched_text_index": 0, "matched_sim": 0.3}
    document = {"text_list": ["An owl.", "It flies at night."], "image_info": [image]}
    for part in ("mmc4", "mmc4-0"):
        (data / part).mkdir(exist_ok=True)
        (data / part / "docs_shard_0_v2.jsonl").write_text(json.dumps(document) + "\n")
    rows = {"images": [[None, "owl.png"]], "texts": [["An owl.", None]]}
    rows |= {"metadata": ['[null, {"src": "owl.png"}]'], "general_metadata": ["{}"]}
    (data / "obelics").mkdir()
    pq.write_table(pa.table(rows), data / "obelics" / "train-00000-of-00001.parquet")
    pairs = [
        {"image": f"{split}/{name}.png", "captions": [f"a {name}"], "labels": {"group": "animals"}, "split": split}
        for split in ("train", "val")
        for name in (("owl", "cat", "dog", "fish") if split == "train" else ("bird", "ant", "turtle", "apple"))
    ]
    document["image_info"] = [{**image, "image_name": "train/owl.png"}]
    with zipfile.ZipFile(data / "small.zip", "w") as archive:
        archive.writestr("interleaved.jsonl", f"{json.dumps(document)}\n" * 4)
        archive.writestr("pairs.jsonl", "".join(f"{json.dumps(pair)}\n" for pair in pairs))
        for pair in pairs:
            archive.write(ROOT / "examples" / "field_guide" / Path(pair["image"]).name, f"images/{pair['image']}")
    with zipfile.ZipFile(data / "small.zip") as archive:
        archive.extractall(data / "drawings")
    save_openclip(data / "clip")


def webdataset() -> bytes:
    """A tar of one captioned image."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (
            ("1.png", (ROOT / "examples" / "field_guide" / "owl.png").read_bytes()),
            ("1.txt", b"an owl"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def lay_folder(folder: Path, service: ServiceFixture) -> None:
    """What a reader has at hand: a key, images, notes, and the specs of the documents."""
    (folder / ".lcl").mkdir()
    shutil.copy(service.home / "key", folder / ".lcl" / "key")
    (folder / "docs").symlink_to(ROOT / "docs")
    for path in (ROOT / "examples" / "field_guide").glob("*.png"):
        shutil.copy(path, folder)
    for name in ("nest", "my-dog"):
        shutil.copy(folder / "tree.png", folder / f"{name}.png")
    Image.open(folder / "ant.png").save(folder / "ant.webp")
    (folder / "photos" / "dog").mkdir(parents=True)
    shutil.copy(folder / "dog.png", folder / "photos" / "dog" / "1.png")
    shutil.copytree(ROOT / "examples" / "field_guide", folder / "notes")
    (folder / "examples").symlink_to(ROOT / "examples")


@pytest.mark.parametrize("page", PAGES)
def test_shell_blocks_run(world: World, tmp_path: Path, page: str) -> None:
    service = world.service
    blocks = sorted((block for block in BLOCKS if block.page == page and block.language == "sh"), key=lambda b: b.line)
    bucket = f"s3://of-pages/{Path(page).stem}/"
    said = {
        **SAID,
        r"(?<![\w.])/data/": f"{world.data}/",
        r"s3://bucket/": bucket,
        r"team/(old|wiki-2024)": "team/wiki",
    }
    script = script_of(blocks, LEFT_OUT, said)
    if not script.strip():
        return
    lay_folder(tmp_path, service)
    names = {collection["name"] for collection in service.admin.collections()}
    if "collection=drawings" in script and "drawings" in names:
        service.admin.delete_collection("drawings")
    elif "collection=drawings" not in script and "drawings" not in names:
        service.work(
            service.admin.submit("index", {"encoder": "tiny", "collection": "drawings", "dataset": "little"})["id"]
        )
    Terminal(service, tmp_path, small_spec).run(script, page.replace("/", "-"))
    for run in service.admin.runs(state="queued", limit=100)["items"]:
        service.admin.cancel(run["id"])


def test_what_is_left_out_is_there() -> None:
    shown = [command for block in BLOCKS if block.language == "sh" for command in commands(block.text)]
    for pattern in LEFT_OUT:
        assert any(re.search(pattern, command) for command in shown), f"{pattern} leaves nothing out any more"
