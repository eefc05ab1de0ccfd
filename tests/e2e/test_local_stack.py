"""The whole service on one folder: from a submission over REST to a search hit, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.client import ApiError, Client
from deploy.local import run_demo
from deploy.local_stack import LocalStack
from deploy.process import PROJECT
from lcl_core.data import open_corpus
from lcl_core.studies.trials import apply_overlay
from tests.lcl_core.evaluation.conftest import save_language_model
from tests.small_spec import SMALL_PRETRAIN

pytestmark = pytest.mark.e2e
Json = dict[str, Any]

EXAMINATION: Json = {"splits": ["test_vendor"], "source": "emoji", "tasks": ["retrieval"]}
TOWER = {"vision_layers": 3, "patch_size": 8}
CHANGES: list[Json] = [
    *({"objective.name": name} for name in ("beit3", "flamingo", "emu")),
    *({"objective.name": name, "data.sources.0.view": "matched_pairs"} for name in ("clip", "coca", "blip2")),
    {"model.vision": "resnet", **{f"model.{name}": value for name, value in TOWER.items()}},
    {"model.vision": "timm:resnet18", "model.patch_size": 8, "model.vision_width": 128},
    {"model.init": "small"},
]
ENDLESS = {**SMALL_PRETRAIN, "steps": 1_000_000, "checkpoint_every": 1_000_000}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("house")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with (
        LocalStack(home, log=print, ports=(0, 0)) as live_service,
        live_service.client() as client,
    ):
        yield client


@pytest.fixture(scope="module")
def pretrained(client: Client) -> Json:
    return succeeded(client, client.submit("pretrain", SMALL_PRETRAIN, name="small"))


def succeeded(client: Client, run: Json) -> Json:
    run = client.wait(run["id"])
    assert run["state"] == "succeeded", f"{run['reason']}\n{client.logs(run['id'])['text']}"
    return run


def test_a_run_makes_an_encoder(client: Client, pretrained: Json) -> None:
    figures = [line for line in client.metrics(pretrained["id"]) if "contrastive_loss" in line]
    assert [line["step"] for line in figures] == [1, 2, 3, 4, 5, 6]
    assert all(line["generation_loss"] > 0 for line in figures)
    result = pretrained["result"]["encoder"]
    assert result["steps"] == 6
    assert client.encoder(pretrained["encoder_id"])["hash"] == result["hash"]


@pytest.mark.extended
@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: str(next(iter(changes.values()))))
def test_every_method_tower_and_start_makes_an_encoder_with_figures(
    client: Client, pretrained: Json, changes: Json
) -> None:
    spec = apply_overlay(SMALL_PRETRAIN, changes)
    run = succeeded(
        client, client.submit("pretrain", spec, name="-".join(map(str, changes.values())).replace(":", "-"))
    )
    probe = {"tasks": ["classification"], "transfer": ["frozen"], "classification": {"heads": ["linear"]}}
    rows = succeeded(client, client.submit("evaluate", {"encoder": run["encoder_id"], **EXAMINATION, **probe}))
    (figure,) = [row for row in rows["result"]["rows"] if row["metric"] == "acc@1"]
    assert figure["count"] == 590
    assert figure["untrained"] is not None


def test_an_encoder_is_examined(client: Client, pretrained: Json) -> None:
    run = client.submit("evaluate", {"encoder": pretrained["encoder_id"], **EXAMINATION})
    result = succeeded(client, run)["result"]
    assert result["encoder_hash"] == pretrained["result"]["encoder"]["hash"]
    row = next(row for row in result["rows"] if row["metric"] == "IR@5")
    assert 0 <= row["value"] <= 1
    assert row["untrained"] is not None
    assert 0 < row["chance"] < 0.05


@pytest.mark.extended
def test_every_task_evaluates_an_encoder(client: Client, pretrained: Json, home: Path) -> None:
    stage = {"epochs": 1, "batch_size": 64, "steps": 2}
    model = {"language_model": {"path": str(save_language_model(home / "encoders" / "speaker"))}}
    short = {"decoding": {"max_new_tokens": 2}, "transfer": ["frozen"], **model}
    fields: Json = {
        "classification": {"heads": ["attentive", "linear", "knn"], "transfer": ["frozen", "full"], "steps": 2},
        "zero_shot_classification": {"labels": ["subgroup"]},
        "tuned_retrieval": {"transfer": ["frozen"], "steps": 2},
        "captioning": {**short, **stage, "zero_shot": True},
        "dialogue": {**short, "align": stage, "instruct": stage, "derived": {"questions": 20}},
    }
    spec = {**EXAMINATION, "encoder": pretrained["encoder_id"], "tasks": ["retrieval", *fields], **fields}
    run = succeeded(client, client.submit("evaluate", spec))
    assert {row["task"] for row in run["result"]["rows"]} == {"retrieval", *fields}
    assert {"table.csv", "table.json"} <= {row["name"] for row in client.artifacts(run["id"])}


def test_the_demonstration_prints_its_figures(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    submitted: list[tuple[str, Json]] = []

    def submit(kind: str, spec: Json, *named: Any) -> Json:
        submitted.append((kind, spec))
        small = {"pretrain": SMALL_PRETRAIN, "evaluate": {**EXAMINATION, "encoder": spec.get("encoder")}}
        return client.submit(kind, small.get(kind, spec), *named)

    run_demo(SimpleNamespace(submit=submit, run=client.run, logs=client.logs), lambda: None)  # type: ignore[arg-type]
    assert [kind for kind, _ in submitted] == ["pretrain", "evaluate", "index"]
    assert [spec.get("preset") for _, spec in submitted] == ["sample_resnet", "sample", None]
    text = capsys.readouterr().out
    assert "text → image, R@5" in text
    assert "R@10" not in text, "the table keeps to the main measurements"
    assert ": 6 steps, 48 images," in text
    assert client.search("sample", text="a red heart", k=3)["hits"]


def test_a_study_fills_its_table(client: Client, pretrained: Json) -> None:
    losses = [{"name": "both"}, {"name": "contrastive", "spec": {"objective.generation_weight": 0.0}}]
    spec = {
        "pretrain": SMALL_PRETRAIN,
        "axes": [{"name": "loss", "variants": losses}],
        "evaluate": EXAMINATION,
        "metrics": [{"name": "IR@5", "metric": "IR@5", "variant": "captions[0]"}],
        "compute": "flops",
    }
    plan = client.plan_study(spec)
    assert [plan[name] for name in ("rows", "seeds", "cells", "reused")] == [2, 1, 2, 1]
    assert plan["seconds"]["expected"] > 0
    study = client.wait_for_study(client.submit_study(spec, "losses")["id"], poll_seconds=0.2)
    assert (study["state"], study["notes"]) == ("succeeded", [])
    both, contrastive = study["cells"]
    assert both["run"]["id"] == pretrained["id"], "what was there is not run again"
    assert client.encoder("losses-contrastive-s0")["run_id"] == contrastive["run"]["id"]
    for row in study["table"]["rows"]:
        figure = row["figures"]["IR@5"]
        assert 0 <= figure["mean"] <= 1
        assert figure["count"] == 1
        assert 0 < figure["chance"] < 0.05
        assert row["compute"]["flops"] > 1e6
        assert row["compute"]["images_seen"] > 0
    compared = client.compare_rows(study["id"], 0, 1)["samples"]["IR@5"]
    first, second = (row["figures"]["IR@5"]["mean"] for row in study["table"]["rows"])
    assert compared["count"] > 500
    assert compared["difference"] == pytest.approx(second - first)
    assert [len(row["points"]) for row in client.study_curves(study["id"])["rows"]] == [6, 6]


def test_from_a_run_to_a_search_hit(client: Client, pretrained: Json, sample_zip: Path) -> None:
    spec = {"encoder": pretrained["encoder_id"], "collection": "found", "splits": ["test_vendor"]}
    index = succeeded(client, client.submit("index", spec))
    assert client.collection("found")["id"] == index["collection_id"]
    corpus = open_corpus(sample_zip)
    wanted = corpus.pairs(split="test_vendor")[3]
    hits = client.search("found", image=corpus.image_bytes(wanted.image), k=3)["hits"]
    assert len(hits) == 3
    assert hits[0]["caption"] == wanted.captions[0], "an image finds itself first"
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert client.item_image("found", hits[0]["id"])
    text = client.search("found", text="a red heart", target="images", k=5, match="looks")["hits"]
    assert [hit["score"] for hit in text] == sorted((hit["score"] for hit in text), reverse=True)


def test_an_encoder_serves(client: Client, pretrained: Json, sample_zip: Path) -> None:
    corpus = open_corpus(sample_zip)
    sample_image = corpus.image_bytes(corpus.pairs(split="test_vendor")[0].image)
    encoder = pretrained["encoder_id"]
    (vector,) = client.embed_images(encoder, [sample_image])
    assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-4)
    assert len(client.embed_texts(encoder, ["a cat"])[0]) == len(vector)
    assert isinstance(client.caption(encoder, [sample_image], max_new_tokens=4)[0], str)


def test_a_dataset_is_examined_and_converted(client: Client) -> None:
    examined = succeeded(client, client.submit("validate", {"dataset": "sample", "workers": 1}))
    report = examined["result"]["report"]
    assert (report["documents"], report["kinds"]) == (5928, {"matched": 531, "pair": 5397})
    assert report["quarantined"] == sum(report["reasons"].values())
    assert client.metrics(examined["id"])[-1]["step"] == 5928
    assert "report.json" in {row["name"] for row in client.artifacts(examined["id"])}

    made = succeeded(client, client.submit("convert", {"dataset": "sample", "name": "sharded"}))
    row = client.dataset("sharded")
    assert row["content_hash"] == made["result"]["dataset"]["content_hash"]
    assert made["inputs"]["datasets"] == {"sample": made["result"]["dataset_hash"]}
    assert client.dataset_documents("sharded", limit=1)["total"] == 531
    assert client.dataset_documents("sharded", limit=1, view="pairs")["total"] == 5397


def test_images_are_matched_to_sentences_anew(client: Client, pretrained: Json) -> None:
    spec = {"dataset": "sample", "encoder": pretrained["encoder_id"], "name": "matched"}
    succeeded(client, client.submit("match", spec))
    assert client.dataset_documents("matched", limit=1)["total"] > 0


def test_what_is_tagged_is_left_out_of_a_conversion(client: Client) -> None:
    items = [item["item"] for item in client.dataset_documents("sample", limit=3)["items"]]
    assert client.tag_documents("sample", items, add=["dull"]) == 3
    spec = {"dataset": "sample", "name": "chosen", "only_tags": ["dull"]}
    made = succeeded(client, client.submit("convert", spec))
    assert made["result"]["skipped"] == {"left out by tags": 5925}
    assert client.dataset_documents("chosen")["total"] == 3
    client.tag_documents("sample", items, remove=["dull"])


def test_a_bad_spec_is_refused_where_it_is_bad(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.submit("pretrain", {"model": {"image_size": 63}})
    assert caught.value.status == 422
    assert "image_size" in caught.value.message


def test_a_cancelled_run_goes_on_where_it_stopped(client: Client) -> None:
    run = client.submit("pretrain", {**SMALL_PRETRAIN, "steps": 2000, "checkpoint_every": 1, "keep_checkpoints": 1})
    poll(lambda: (client.run(run["id"])["progress"] or {}).get("step", 0) >= 2, "two steps")
    client.cancel(run["id"])
    assert client.wait(run["id"])["state"] == "cancelled"
    stopped = client.run(run["id"])["progress"]["step"]
    client.resume(run["id"])
    poll(lambda: client.run(run["id"])["progress"]["step"] > stopped, "a step more")
    client.cancel(run["id"])
    assert client.wait(run["id"])["state"] == "cancelled"
    steps = [line["step"] for line in client.metrics(run["id"]) if "contrastive_loss" in line]
    assert steps == list(range(1, len(steps) + 1)), "no step twice, none left out"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_the_launcher_and_a_copy_of_its_home_goes_on(how: signal.Signals, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "deploy.local", "up", "--home", str(home)]
    launcher = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        train_at(launcher, home)
        modules = {module for _, module in processes_of(home)}
        assert {"workers", "api", "ui", "lcl_core.train", "lcl_core.common.fork_server"} <= modules
        launcher.send_signal(how)
        assert launcher.wait(180) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        poll(lambda: not processes_of(home), "the end of every process")
        if how == signal.SIGTERM:
            home = home.rename(tmp_path / "restored")
            with LocalStack(home, log=print, ports=(0, 0)) as restored, restored.client() as client:
                (run,) = client.runs()["items"]
                poll(lambda: client.run(run["id"])["progress"]["step"] > run["progress"]["step"], "a step more")
                assert [line["step"] for line in client.metrics(run["id"]) if "loss" in line][:2] == [1, 2]
    finally:
        launcher.kill()
        launcher.communicate()


def train_at(launcher: subprocess.Popen[str], home: Path) -> None:
    """Submit a run without an end to what ``launcher`` starts, and wait for its first step."""
    assert launcher.stdout is not None
    address = next(line for line in iter(launcher.stdout.readline, "") if line.startswith("api ")).split()[1]
    key = (home / "key").read_text(encoding="ascii").strip()
    with Client(address.removesuffix("/docs"), key) as client:
        run = client.submit("pretrain", ENDLESS)
        poll(lambda: (client.run(run["id"])["progress"] or {}).get("step", 0) >= 1, "a first step")


def poll(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def processes_of(home: Path) -> list[tuple[int, str]]:
    """Number and module of every process whose command line or environment names ``home``, launchers apart."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            facts = (folder / "environ").read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        module = words[words.index("-m") + 1] if "-m" in words else words[0]
        if words != [""] and module != "deploy.local" and (str(home) in facts or str(home) in " ".join(words)):
            found.append((int(folder.name), module))
    return found
