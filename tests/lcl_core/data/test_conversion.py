"""The convert run: what goes in is what the shards hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, JobCancelled, RunDir
from lcl_core.data import open_corpus
from lcl_core.data.conversion import convert_run
from lcl_core.data.validation.validate import validate

ROOT = Path(__file__).parents[4]


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "run")


def ask(run_dir, spec, items=None, **datasets):
    run_dir.path.mkdir(exist_ok=True)
    run = {"run_id": "run_1", "kind": "convert", "spec": {"name": "made", **spec}, "datasets": datasets}
    run_dir.prepare({**run, "items": items})


@pytest.fixture
def corpus(kit):
    return kit.corpus(
        [
            kit.document(["one two", "three"], kit.image("red.png", 0, 0.3), kit.image("green.png", 1, 0.5)),
            kit.document(["gap"], kit.image("absent.png", 0), kit.image("blue.png", 0)),
        ],
        [kit.pair("blue.png", "a b", labels={"hue": "blue"}, split="val", source="made")],
    )


def test_documents_pairs_and_images_arrive_and_are_counted(corpus, kit, run_dir):
    ask(run_dir, {"dataset": "mine"}, mine=str(corpus.path))
    result = convert_run(run_dir)
    made = open_corpus(run_dir.artifacts / "dataset")
    assert result["dataset"]["content_hash"] == made.content_hash()
    assert result["dataset_hash"] == corpus.content_hash()
    figures = result["dataset"]["statistics"]
    assert (figures["documents"], figures["sentences"], figures["pairs"], figures["captions"]) == (2, 3, 1, 1)
    assert figures["splits"] == {"val": 1}
    assert figures["labels"] == {"hue": {"values": 1, "most_common": {"blue": 1}}}
    document = made.documents[0]
    assert document["text_list"] == ["one two", "three"]
    assert [info["matched_sim"] for info in document["image_info"]] == [0.3, 0.5]
    assert made.image_bytes(document["image_info"][0]["image_name"]) == corpus.image_bytes("red.png")
    assert made.pairs("val")[0].captions == ("a b",)
    assert sum(result["skipped"].values()) == 1
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    assert (lines[-1]["phase"], lines[-1]["step"], lines[-1]["total_steps"]) == ("converting", 3, 3)


def test_what_was_converted_is_examined_like_any_other_and_converts_again(corpus, run_dir):
    ask(run_dir, {"dataset": "mine"}, mine=str(corpus.path))
    first = convert_run(run_dir)
    shards = open_corpus(run_dir.artifacts / "dataset")
    report = validate(shards)
    assert report.kinds == {"matched": 2, "pair": 1}
    assert report.reasons == {"missing image": 1, "duplicate image": 1}
    assert [(group.split, group.source) for group in report.groups] == [("train", ""), ("val", "made")]
    assert report.first[0].file == "interleaved.jsonl"
    again = RunDir(run_dir.path.parent / "again")
    ask(again, {"path": str(run_dir.artifacts / "dataset")})
    second = convert_run(again)
    assert second["dataset"]["records"] == first["dataset"]["records"]
    assert second["dataset"]["statistics"] == first["dataset"]["statistics"]


@pytest.mark.parametrize("form", ["files", "shards"])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_tags_leave_out_is_listed_and_the_rest_is_converted(corpus, run_dir, form, processes):
    """Of files an item is FILE:LINE, of shards the number of a record."""
    source, items = corpus, ["interleaved.jsonl:2", "pairs.jsonl:1"]
    if form == "shards":
        ask(run_dir, {"dataset": "mine"}, mine=str(corpus.path))
        convert_run(run_dir)
        source, items = open_corpus(run_dir.artifacts / "dataset"), ["000000001", "000000002"]
    assert [source.documents.location(1), source.pairs().location(0)] == items
    chosen = RunDir(run_dir.path.parent / "chosen")
    for selection in ({"only": None, "without": items}, {"only": [source.documents.location(0)], "without": []}):
        ask(chosen, {"dataset": "mine", "processes": processes}, selection, mine=str(source.path))
        result = convert_run(chosen)
        assert result["skipped"] == {"left out by tags": 2}
        made = open_corpus(chosen.artifacts / "dataset")
        assert [document["text_list"] for document in made.documents] == [["one two", "three"]]
        assert len(made.pairs()) == 0
        listed = (chosen.artifacts / "dataset" / "quarantine.jsonl").read_text().splitlines()
        assert {json.loads(line)["reason"] for line in listed} == {"left out by tags"}


def test_where_tags_leave_nothing_that_is_said(corpus, run_dir):
    ask(run_dir, {"dataset": "mine"}, {"only": ["interleaved.jsonl:9"], "without": []}, mine=str(corpus.path))
    with pytest.raises(UserError, match="left out by tags: 3") as caught:
        convert_run(run_dir)
    assert caught.value.code == "no_data"


def test_an_attempt_starts_from_the_beginning(corpus, run_dir):
    ask(run_dir, {"dataset": "mine"}, mine=str(corpus.path))
    assert convert_run(run_dir) == convert_run(run_dir)


@pytest.mark.parametrize(
    ("spec", "code", "field"),
    [
        ({"dataset": "absent"}, "not_found", "dataset"),
        ({"path": "/absent"}, "not_found", "path"),
        ({"path": "HERE", "format": "cuneiform"}, "invalid_value", "format"),
        ({"path": "HERE", "format": "native", "options": {"sides": 3}}, "bad_option", "options.sides"),
    ],
)
def test_what_is_wrong_is_reported(corpus, run_dir, spec, code, field):
    if spec.get("path") == "HERE":
        spec = {**spec, "path": str(corpus.path)}
    ask(run_dir, spec)
    with pytest.raises(UserError) as caught:
        convert_run(run_dir)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_an_option_may_name_files_inside_the_roots_alone(kit, run_dir):
    kit.write("classes/tench/a.png", kit.png())
    kit.write("names.txt", "tench a fish\n")
    spec = {"path": str(kit.root / "classes"), "format": "imagefolder"}
    for roots, code in (([str(kit.root)], None), ([str(kit.root / "classes"), "s3://bucket"], "invalid_value")):
        ask(run_dir, {**spec, "options": {"synsets": str(kit.root / "names.txt")}})
        run_dir.prepare({**run_dir.read_run(), "roots": roots})
        if code is None:
            assert convert_run(run_dir)["dataset"]["records"] == 1
            continue
        with pytest.raises(UserError) as caught:
            convert_run(run_dir)
        assert (caught.value.code, caught.value.field) == (code, "options.synsets")


def test_a_corpus_of_which_nothing_can_be_had_makes_no_dataset(kit, run_dir):
    corpus = kit.corpus(pairs=[kit.pair("absent.png", "x")])
    ask(run_dir, {"path": str(corpus.path)})
    with pytest.raises(UserError, match="file_missing: 1") as caught:
        convert_run(run_dir)
    assert caught.value.code == "no_data"


def test_a_stop_request_leaves_nothing(corpus, run_dir):
    ask(run_dir, {"path": str(corpus.path)})
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        convert_run(run_dir)
    assert list(run_dir.artifacts.iterdir()) == []


def test_a_stopped_run_continues_as_the_next_attempt(corpus, run_dir):
    ask(run_dir, {"path": str(corpus.path)})
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        convert_run(run_dir)
    assert any(run_dir.checkpoints.iterdir()), "by which the worker knows that there is something to continue"
    again = RunDir(run_dir.path)
    result = convert_run(again)
    assert result["dataset"]["records"] == 3
    assert convert_run(again) == result, "nor is it done twice"


@pytest.mark.parametrize("processes", [1, 2])
def test_as_a_process(corpus, run_dir, processes):
    ask(run_dir, {"path": str(corpus.path), "processes": processes})
    command = [sys.executable, "-m", "lcl_core.data.conversion", str(run_dir.path)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert json.loads(run_dir.result_file.read_text())["dataset"]["name"] == "made"
