"""Encoders in and out of the service, and their figures side by side."""

import hashlib
import io
import json
import shutil
import tarfile
from functools import partial
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import load_file

from api.client import data_url
from api.services import encoder_archive
from lcl_core.db.models import EncoderRow
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from tests.lcl_core.encoders.external_samples import save_huggingface, save_openclip, save_sentence_encoder, save_timm

SMALL = {"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2}


def row(metric, value, **more):
    facts = {"task": "retrieval", "split": "test", "variant": "captions[0]", "metric": metric, "value": value}
    return {**facts, "chance": 0.1, **more}


def test_an_imported_encoder_is_found_by_id_and_name(live_service, encoder, encoder_dir):
    assert live_service.admin.encoder("tiny") == live_service.admin.encoder(encoder["id"]) == encoder
    assert encoder["hash"] == hashlib.sha256((encoder_dir / "model.safetensors").read_bytes()).hexdigest()
    assert encoder["info"]["parameters"] > 10_000
    assert encoder in live_service.admin.encoders()
    kept = live_service.home / "encoders" / encoder["id"]
    assert (kept / "model.safetensors").is_file()
    assert list(kept.parent.glob(".*")) == [], "nothing half-written is left"


def test_an_export_is_what_from_pretrained_reads(live_service, encoder, encoder_dir, tmp_path):
    from lcl_core.model import LCLModel

    file = live_service.admin.export_encoder("tiny", tmp_path / "tiny.tar")
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / encoder["id"]
    names = sorted(path.name for path in unpacked.iterdir())
    assert names == sorted(["README.md", *(path.name for path in encoder_dir.iterdir())])
    for name in set(names) - {"README.md"}:
        assert (unpacked / name).read_bytes() == (encoder_dir / name).read_bytes()
    LCLModel.from_pretrained(unpacked)
    assert [path.name for path in tmp_path.glob(".*")] == []


def unpacked(answer):
    """{name: content} of an exported tar."""
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_the_card_is_the_readme_of_every_export(live_service, http, encoder_dir, data_root):
    source = data_root / "carded"
    shutil.copytree(encoder_dir, source)
    (source / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\n## Use\n\nGently.\n")
    training = {"steps": 300, "data": {"sources": [{"dataset": "sample"}, {"dataset": "no|where"}, 7]}}
    (source / "training.json").write_text(json.dumps(training))
    made = live_service.admin.import_encoder("with-card", str(source))
    live_service.evaluated(made["id"], [row("IR@5", 0.25)])
    card = live_service.admin.encoder_card("with-card")
    assert (card["licence"], card["spec"]["steps"], card["collections"]) == ("mit", 300, [])
    assert (card["main"][0]["title"], card["figures"][0]["value"]) == ("text → image", 0.25)
    for part in ("library_name: lcl", "# Mine", "Gently.", "| sample |", "| steps | 300 |", "| text → image |"):
        assert part in card["readme"]
    assert ("no where" in card["readme"], "Gently" in card["about"], "EncoderEngine" in card["about"]) == (
        True,
        True,
        False,
    )
    plain, other = (
        unpacked(http.get(f"/v1/encoders/with-card/export?format={name}")) for name in ("lcl", "huggingface")
    )
    assert plain["README.md"].decode() == card["readme"]
    assert "library_name: transformers" in other["README.md"].decode()
    assert "trust_remote_code" in other["README.md"].decode()
    for name, content in plain.items():
        (source / name).write_bytes(content)
    again = live_service.admin.import_encoder("again", str(source))
    assert live_service.admin.encoder_card(again["id"])["readme"].count("## Data") == 1


def left_over(live_service):
    return [path.name for path in (live_service.home / "encoders").iterdir() if path.name.startswith(".")]


def test_an_export_is_rewritten_for_others(live_service, http, encoder, encoder_dir, tmp_path, eventually):
    answer = http.get("/v1/encoders/tiny/export", params={"format": "huggingface"})
    files = unpacked(answer)
    assert f"{encoder['id']}-huggingface.tar" in answer.headers["content-disposition"]
    assert {"modeling_lcl.py", "processing_lcl.py", "README.md", "tokenizer.json"} <= files.keys()
    assert files["model.safetensors"] == (encoder_dir / "model.safetensors").read_bytes()
    eventually(lambda: left_over(live_service) == [], "the copy's end")  # right after the last byte is out
    reported = []
    file = live_service.admin.export_encoder(
        "tiny", tmp_path / "tiny.tar", "huggingface", lambda *at: reported.append(at)
    )
    assert file.read_bytes() == answer.content
    assert reported[-1] == (len(answer.content), len(answer.content))


def test_what_a_format_cannot_hold_is_refused_with_the_reason(
    live_service, http, encoder, encoder_dir, refused, monkeypatch
):
    path = "/v1/encoders/tiny/export?format="
    refused(http.get(f"{path}openclip"), 422, "invalid_value", "format")
    monkeypatch.setattr(encoder_archive, "EXPORT_SECONDS", 0.01)
    refused(http.get(f"{path}onnx"), 503, "export_failed")
    assert left_over(live_service) == []


def test_a_format_that_needs_the_weights_says_what_is_wrong_with_them(live_service, http, encoder_dir, refused):
    made = live_service.admin.import_encoder("no-processor", str(encoder_dir))
    (live_service.home / "encoders" / made["id"] / "processor_config.json").unlink()
    answer = http.get("/v1/encoders/no-processor/export?format=huggingface")
    assert "processor_config.json" in refused(answer, 409, "encoder_unreadable")["message"]
    assert left_over(live_service) == []


def test_an_encoder_of_others_leaves_as_it_came(live_service, http, data_root, refused):
    pytest.importorskip("timm")
    source = save_timm(data_root / "their-vit", **SMALL)
    live_service.admin.import_encoder("their-vit", str(source))
    plain = unpacked(http.get("/v1/encoders/their-vit/export"))
    assert unpacked(http.get("/v1/encoders/their-vit/export?format=timm")) == plain
    facts = refused(http.get("/v1/encoders/their-vit/export?format=onnx"), 422, "unsupported", "format")
    assert "timm's own" in facts["message"]


def damage(folder, how):
    config = folder / "config.json"
    weights = folder / "model.safetensors"
    if how == "no config":
        config.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "another model":
        config.write_text(json.dumps({"model_type": "bert"}))
    elif how == "a link":
        config.rename(folder.with_name("elsewhere.json"))
        config.symlink_to(folder.with_name("elsewhere.json"))
    elif how == "no JSON":
        config.write_text("{")
    elif how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "a pickle":
        weights.write_bytes(b"\x80\x04cos\nsystem\n.")
    else:
        weights.write_bytes(b"\xff" * 64)


@pytest.mark.parametrize(
    "how", ["no config", "no weights", "another model", "a link", "no JSON", "cut short", "a pickle", "a giant header"]
)
def test_a_damaged_directory_is_not_imported(live_service, http, refused, data_root, encoder_dir, how):
    source = data_root / how.replace(" ", "-")
    shutil.copytree(encoder_dir, source)
    damage(source, how)
    before = sorted((live_service.home / "encoders").iterdir())
    answer = http.post("/v1/encoders", json={"name": "damaged", "path": str(source)})
    refused(answer, 422, "encoder_unreadable", "path")
    assert sorted((live_service.home / "encoders").iterdir()) == before
    refused(http.get("/v1/encoders/damaged"), 404, "not_found")


@pytest.mark.parametrize(
    ("make", "kind", "model", "reads"),
    [
        (partial(save_huggingface, kind="dinov2"), "huggingface", "dinov2_with_registers", ["images"]),
        (partial(save_huggingface, kind="bert"), "huggingface", "bert", ["texts"]),
        (partial(save_timm, **SMALL), "timm", "vit_tiny_patch16_224", ["images"]),
        (save_openclip, "openclip", "vit-32x2-8", ["images", "texts"]),
    ],
)  # fmt: skip
def test_other_libraries_encoders_are_recognised(live_service, data_root, make, kind, model, reads):
    """By their files, and by what a process of its own found when it read them."""
    if kind in ("timm", "openclip"):
        pytest.importorskip({"timm": "timm", "openclip": "open_clip"}[kind])
    source = make(data_root / f"{kind}-{len(reads)}-{reads[0]}")
    made = live_service.admin.import_encoder(f"foreign-{source.name}", str(source))
    (weights,) = source.glob("*.safetensors")
    numbers = sum(value.size for value in load_file(weights).values())
    found = made["info"]
    assert (found["kind"], found["model"], found["reads"], found["parameters"]) == (kind, model, reads, numbers)
    assert found["imported_from"] == str(source)
    assert made["hash"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.iterdir()}


def test_a_sentence_encoder_is_kept_with_its_pooling(live_service, http, refused, data_root):
    source = save_sentence_encoder(data_root / "sentences", {"pooling_mode_cls_token": True}, max_seq_length=8)
    made = live_service.admin.import_encoder("sentences", str(source))
    kept = live_service.home / "encoders" / made["id"]
    pooling = source / "1_Pooling" / "config.json"
    assert (kept / "pooling_config.json").read_bytes() == pooling.read_bytes()
    assert made["info"]["files"]["pooling_config.json"] == hashlib.sha256(pooling.read_bytes()).hexdigest()
    pooling.unlink()
    answer = http.post("/v1/encoders", json={"name": "others", "path": str(source)})
    assert "1_Pooling/config.json, which is not there" in refused(answer, 422, "encoder_unreadable", "path")["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embeddings", {"input": "a red bus"}),
        ("captions", {"images": [data_url(b"an image")]}),
        ("continuations", {"document": ["a red bus"]}),
    ],
)
def test_an_encoder_of_texts_alone_is_not_called_damaged(live_service, http, refused, data_root, path, body):
    if not (data_root / "texts-alone").is_dir():
        source = save_huggingface(data_root / "texts-alone", "bert")
        live_service.admin.import_encoder("texts-alone", str(source))
    answer = http.post(f"/v1/{path}", json={"model": "texts-alone", **body})
    message = refused(answer, 422, "unsupported", "model")["message"]
    assert "reads texts alone" in message
    assert "choose an encoder that reads images" in message


def test_only_admins_import_unless_the_service_is_set_otherwise(live_service, serve, refused, encoder_dir):
    body = {"name": "hers", "path": str(encoder_dir)}
    headers = {"authorization": f"Bearer {live_service.keys['submitter']}"}
    with serve(live_service.context.settings.model_copy(update={"import_": "admin"})) as url:
        problem = refused(httpx.post(f"{url}/v1/encoders", json=body, headers=headers), 403, "forbidden")
    assert "LCL_IMPORT" in problem["message"]
    with live_service.http("submitter") as submitter:
        assert submitter.post("/v1/encoders", json=body).status_code == 201


def test_figures_come_from_finished_evaluations(live_service, encoder):
    assert live_service.admin.encoder_figures(encoder["id"]) == []
    run_id = live_service.evaluated(encoder["id"], [row("IR@1", 0.25), row("IR@5", 0.5)])
    figures = live_service.admin.encoder_figures("tiny")
    assert [(figure["metric"], figure["value"], figure["run_id"]) for figure in figures] == [
        ("IR@1", 0.25, run_id),
        ("IR@5", 0.5, run_id),
    ]
    assert figures[0]["dataset"] == "sample"


def test_figures_of_a_model_card_follow_with_their_source(live_service, encoder_dir):
    encoder = live_service.admin.import_encoder("carded", str(encoder_dir))
    with live_service.context.database.session() as session:
        found = session.get(EncoderRow, encoder["id"])
        found.info = {**found.info, "figures": [row("IR@5", 0.288)]}
    run_id = live_service.evaluated(encoder["id"], [row("IR@5", 0.25)])
    measured, card = live_service.admin.encoder_figures("carded")
    assert (measured["run_id"], measured.get("source")) == (run_id, None)
    assert (card["value"], card["run_id"]) == (0.288, None)
    assert "not by this service" in card["source"]


def test_two_encoders_are_compared_on_equal_terms(live_service, encoder, encoder_dir):
    left = live_service.admin.import_encoder("left", str(encoder_dir))
    right = live_service.admin.import_encoder("right", str(encoder_dir))
    live_service.evaluated(left["id"], [row("IR@1", 0.9)])
    live_service.evaluated(left["id"], [row("IR@1", 0.25), row("IR@5", 0.5)])  # newer: it counts
    live_service.evaluated(right["id"], [row("IR@1", 0.75), row("IR@10", 1.0)])
    live_service.evaluated(right["id"], [row("IR@5", 0.7)], dataset_hash="e" * 64)  # other data: not comparable
    found = live_service.admin.compare_encoders("left", right["id"])
    assert (found["left"]["name"], found["right"]["name"]) == ("left", "right")
    assert [(r["metric"], r["left"], r["right"], r["difference"]) for r in found["rows"]] == [("IR@1", 0.25, 0.75, 0.5)]


def test_evaluations_with_other_settings_are_not_compared(live_service, encoder_dir):
    service, (left, right) = live_service, ("settings-left", "settings-right")
    for name in (left, right):
        service.admin.import_encoder(name, str(encoder_dir))
    retrieval = row("IR@1", 0.25, transfer="zero_shot", candidates=590)
    probe = row("acc@1", 0.5, task="classification", variant="subgroup", transfer="frozen", candidates=48)
    runs = {"left": service.evaluated(left, [retrieval, probe], source="emoji", seed=1)}
    other = [{**retrieval, "value": 0.05}, {**probe, "value": 0.6}]
    runs["right"] = service.evaluated(right, other, seed=1, classification={"epochs": 50, "encoder_lr": 0.5})
    for run_id in runs.values():
        answers(service, run_id, [1, 9, 9, 9, 9])
    first, second = service.admin.compare_encoders(left, right)["rows"]
    assert [(each["left"], each["right"], each["difference"]) for each in (first, second)] == [
        (0.25, 0.05, None), (0.5, 0.6, None),
    ]  # fmt: skip
    assert first["reason"] == "evaluated with different settings: source"
    assert second["reason"] == "evaluated with different settings: source, classification.epochs"
    assert not {"p", "interval", "units"} & {*first, *second}

    equal = service.evaluated(right, [{**retrieval, "value": 0.75}], source="emoji", seed=2)  # its seed has no effect
    answers(service, equal, [1, 1, 1, 1, 1])
    service.evaluated(left, [{**retrieval, "value": 0.9}], exclude={"group": ["Flags"]})  # newer, without a partner
    service.evaluated(right, [{**retrieval, "value": 0.8, "candidates": 591}], source="emoji")
    found = next(each for each in service.admin.compare_encoders(left, right)["rows"] if each["metric"] == "IR@1")
    assert (found["left_run"], found["right_run"], found["difference"]) == (runs["left"], equal, 0.5)
    assert (found["reason"], found["p"]) == (None, pytest.approx(2 / 16, abs=0.02))


def answers(live_service, run_id, ranks):
    """What a run's encoder answered, as its worker leaves it."""
    records = PredictionStore(live_service.home / "runs" / run_id / "artifacts" / "records")
    records.start()
    sheet = PredictionFile(
        "retrieval", "test", "captions[0]", "zero_shot", "ranks", "trained", part="text_to_image",
        facts={"candidates": 9},
    )  # fmt: skip
    records.add(sheet, [{"query": str(n), "rank": rank, "right": 1, "top": []} for n, rank in enumerate(ranks)])


def test_differences_are_tested_while_the_answers_are_there(live_service, encoder_dir):
    runs = {}
    for name, value, ranks in (("left", 0.2, [1, 9, 9, 9, 9]), ("right", 1.0, [1, 1, 1, 1, 1])):
        made = live_service.admin.import_encoder(f"paired-{name}", str(encoder_dir))
        runs[name] = live_service.evaluated(made["id"], [row("IR@1", value, transfer="zero_shot")])
        answers(live_service, runs[name], ranks)
    (found,) = live_service.admin.compare_encoders("paired-left", "paired-right")["rows"]
    assert (found["left_run"], found["right_run"]) == (runs["left"], runs["right"])
    assert (found["p"], found["units"]) == (pytest.approx(2 / 16, abs=0.02), 5)  # four of five differ, all one way
    assert found["interval"][0] < 0.8 < found["interval"][1]
    assert "p" not in live_service.admin.compare_encoders("paired-left", "paired-right", paired=False)["rows"][0]
    index = live_service.home / "runs" / runs["left"] / "artifacts" / "records" / "index.json"
    index.unlink()
    assert "p" not in live_service.admin.compare_encoders("paired-left", "paired-right")["rows"][0]


@pytest.mark.parametrize("path", ["absent", "absent/figures", "absent/export", "compare?left=absent&right=absent"])
def test_an_unknown_encoder_is_404(http, refused, path):
    refused(http.get(f"/v1/encoders/{path}"), 404, "not_found")


def test_files_that_are_gone_are_reported(live_service, http, refused, encoder_dir):
    made = live_service.admin.import_encoder("gone", str(encoder_dir))
    shutil.rmtree(live_service.home / "encoders" / made["id"])
    refused(http.get("/v1/encoders/gone/export"), 410, "file_missing")
    refused(http.post("/v1/embeddings", json={"model": "gone", "input": "x"}), 409, "encoder_unreadable")
