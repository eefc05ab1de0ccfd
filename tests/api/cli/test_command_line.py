"""The command line against a real service."""

import json
import re
import tarfile
import threading
from contextlib import contextmanager

import pytest

from api.cli.output import set_fields
from api.cli.runs import format_metrics
from api.client import UserError
from api.client.payloads import parse_where
from lcl_core.db import complete_run
from lcl_core.specs.parsing import SPECS

LINE = {"step": 10, "total_steps": 30, "contrastive_loss": 2.0, "generation_loss": 3.5, "images_per_s": 120.4}


def ended(live_service, outcome):
    run_id = live_service.submit()
    claim = live_service.claim(run_id)
    live_service.record(claim, LINE | {"seconds_left": 65.0})
    live_service.settle(claim, outcome)
    return run_id


def test_submit_puts_preset_file_and_fields_together(lcl, live_service, tmp_path):
    spec = tmp_path / "spec.json"
    spec.write_text('{"seed": 3, "model": {"text_layers": 2}}')
    status, out, _ = lcl(
        *("submit", "pretrain", "--spec", str(spec), "--preset", "sample", "--name", "mine"),
        *("--tag", "a", "--tag", "b"),
        *("--set", "steps=12", "--set", "model.patch_size=8", "--set", "objective.contrastive_weight=0.5"),
    )
    assert status == 0
    run = live_service.admin.run(out.strip())
    assert (run["name"], run["tags"]) == ("mine", ["a", "b"])
    assert (run["spec"]["seed"], run["spec"]["steps"]) == (3, 12)
    assert (run["spec"]["model"]["text_layers"], run["spec"]["model"]["patch_size"]) == (2, 8)
    assert run["spec"]["objective"]["contrastive_weight"] == 0.5
    status, out, _ = lcl("--json", "submit", "pretrain", "--spec", "-", stdin='{"steps": 5}')
    assert json.loads(out)["spec"]["steps"] == 5


def test_a_run_is_held_back_and_comes_after_another(lcl, live_service):
    more = ("--priority", "-3", "--max-attempts", "2", "--resource", "gpu", "--gpus", "1")
    _, first, _ = lcl("submit", "pretrain", "--preset", "sample", *more)
    first = first.strip()
    run = live_service.admin.run(first)
    assert (run["priority"], run["max_attempts"], run["resource"], run["gpus"]) == (-3, 2, "gpu", 1)
    _, second, _ = lcl("submit", "pretrain", "--preset", "sample", "--after", first)
    assert live_service.admin.run(second.strip())["after"] == [first]
    assert lcl("runs", "pause", first)[1] == f"{first} is paused\n"
    assert lcl("runs", "resume", first)[1] == f"{first} is queued\n"
    status, _, err = lcl("runs", "resume", first)
    assert status == 1
    assert "cannot be queued again" in err
    live_service.admin.cancel(second.strip())
    live_service.admin.cancel(first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "pretrain", "--set", "steps=0"), "steps"),
        (("submit", "pretrain", "--set", "steps"), "field.name=value"),
        (("submit", "pretrain", "--set", "steps=1", "--set", "steps.x=1"), "nothing to set"),
        (("submit", "pretrain", "--spec", "/absent.json"), "/absent.json: No such file"),
        (("submit", "evaluate", "--set", "encoder=absent"), "absent"),
        (("submit", "bake"), "kind"),
        (("runs", "show", "run_none"), "run_none"),
        (("runs", "logs", "run_none"), "run_none"),
        (("search", "absent", "x"), "absent"),
        (("search", "absent"), "--image"),
        (("search", "absent", "x", "--where", "colour"), "label=value"),
        (("search", "absent", "x", "--where", "year>1", "--where", "year>2"), "year> is given twice"),
        (("search", "absent", "x", "--where", "year>1", "--where", "year=2"), "both a value and a range"),
        (("search", "absent", "x", "--weight", "text"), "text=0.5"),
        (("search", "absent", "x", "--weight", "text=much"), "no number"),
        (("caption", "absent", "/absent.png"), "/absent.png"),
        (("embed", "absent"), "--text"),
        (("data", "validate", "/etc"), "LCL_DATA_ROOTS"),
        (("data", "validate", "absent"), "absent"),
        (("data", "convert", "/etc", "--name", "x"), "LCL_DATA_ROOTS"),
        (("data", "convert", "sample", "--name", "x", "--format", "mmc4"), "registered dataset"),
        (("data", "convert", "/etc", "--name", "x", "--option", "sides"), "field.name=value"),
        (("data", "list", "absent"), "absent"),
        (("data", "preview", "s3://bucket/x"), "lcl data register NAME s3://bucket/x"),
        (("data", "stats", "/srv/x"), "lcl data register NAME /srv/x"),
        (("encoders", "show", "absent"), "absent"),
        (("--key", "wrong", "runs", "list"), "API key"),
        (("--url", "http://127.0.0.1:1", "runs", "cancel", "x"), "is the service up"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(lcl, arguments, words):
    status, out, err = lcl(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [("submit",), ("runs", "list")])
def test_the_help_names_every_kind(lcl, command):
    status, out, _ = lcl(*command, "--help")
    assert status == 0
    assert f"one of {', '.join(SPECS)}" in " ".join(out.split())


def test_a_run_without_a_name_is_listed_with_what_it_is_about(lcl, live_service):
    live_service.admin.submit("validate", {"dataset": "sample"}, tags=["nameless"])
    assert re.search(r"validate\s+sample\s+queued", lcl("runs", "list", "--tag", "nameless")[1])


def test_the_list_pages_and_filters(lcl, live_service):
    made = [live_service.submit(tags=["listed"], name=f"number {place}") for place in range(3)]
    status, out, _ = lcl("runs", "list", "--tag", "listed", "--limit", "2")
    assert status == 0
    assert made[2] in out
    assert made[0] not in out
    assert "number 2" in out
    assert f"--cursor {made[1]}" in out
    rest = lcl("runs", "list", "--tag", "listed", "--cursor", made[1])[1]
    assert made[0] in rest
    assert "lcl submit" in lcl("runs", "list", "--tag", "nothing-has-this")[1]
    page = json.loads(lcl("--json", "runs", "list", "--tag", "listed", "--state", "queued")[1])
    assert [run["id"] for run in page["items"]] == made[::-1]


def test_a_run_is_tagged_and_noted(lcl, live_service):
    run_id = lcl("submit", "pretrain", "--preset", "sample", "--tag", "draft")[1].strip()
    changed = lcl("runs", "annotate", run_id, "--tag", "baseline", "--tag", "lr-3", "--remove-tag", "draft")
    assert changed[:2] == (0, "baseline lr-3\nno notes\n")
    assert live_service.admin.run(run_id)["tags"] == ["baseline", "lr-3"]
    assert lcl("runs", "annotate", run_id, "--notes", "diverged")[1] == "baseline lr-3\ndiverged\n"
    assert lcl("runs", "annotate", run_id)[1] == "baseline lr-3\ndiverged\n"
    assert lcl("runs", "annotate", run_id, "--notes", "")[1] == "baseline lr-3\nno notes\n"
    status, _, err = lcl("runs", "annotate", run_id, "--tag", "no blanks")
    assert (status, "tags" in err) == (1, True)
    live_service.admin.cancel(run_id)


def test_verbs_say_what_became_of_the_run(lcl, live_service):
    run_id = live_service.submit()
    assert lcl("runs", "cancel", run_id)[1] == f"{run_id} is cancelled\n"
    assert lcl("runs", "resume", run_id, "--from-start")[1] == f"{run_id} is queued\n"
    assert json.loads(lcl("--json", "runs", "cancel", run_id)[1])["state"] == "cancelled"
    for given, limit in (("90", 90), ("0", None)):
        assert lcl("runs", "resume", run_id, "--timeout", given)[0] == 0
        assert live_service.admin.run(run_id)["spec"]["timeout_seconds"] == limit
        live_service.admin.cancel(run_id)
    assert lcl("runs", "delete", run_id, "--yes")[1] == f"{run_id} is deleted\n"
    assert lcl("runs", "show", run_id)[0] == 1


def test_watch_in_a_pipe_prints_lines_and_how_it_ended(lcl, live_service):
    run_id = ended(live_service, complete_run.RunCancelled())
    status, out, _ = lcl("runs", "show", run_id, "--watch")
    assert status == 1, "a cancelled run did not succeed"
    assert "step 10/30  contrastive 2.0000  generation 3.5000  120 images/s  1 min 05 s left" in out
    assert out.count(f"{run_id} cancelled") == 1
    failed = ended(live_service, complete_run.RunFailed({"code": "crash", "message": "it fell over"}))
    status, _, err = lcl("runs", "show", failed, "--watch")
    assert (status, err) == (1, f"error: {failed} failed: it fell over\n")


@pytest.mark.parametrize("obstacle", [{"code": "no_worker", "message": "no worker is alive"}, None])
def test_watch_names_what_a_queued_run_waits_for(lcl, live_service, monkeypatch, obstacle):
    run_id = live_service.submit()
    row = live_service.admin.run(run_id)
    assert row["obstacle"]["code"] == "no_worker"
    states = [{"event": "state", "data": {"state": state}} for state in ("queued", "cancelled")]
    monkeypatch.setattr("api.client.Client.events", lambda *_: iter(states))
    monkeypatch.setattr("api.client.Client.run", lambda *_: row | {"obstacle": obstacle})
    _, out, _ = lcl("runs", "show", run_id, "--watch")
    words = "no worker is alive" if obstacle else "it starts with the next free slot of a worker"
    assert f"{run_id} queued: {words}\n" in out
    monkeypatch.undo()
    live_service.admin.cancel(run_id)


def test_logs_follow_to_the_end(lcl, live_service):
    run_id = live_service.submit()
    claim = live_service.claim(run_id)
    log = live_service.run_dir(run_id).log_file
    log.write_text("first\n")
    assert lcl("runs", "logs", run_id)[1] == "first\n"

    def end():
        with log.open("a") as file:
            file.write("last\n")
        live_service.settle(claim, complete_run.RunCancelled())

    ending = threading.Timer(0.3, end)
    ending.start()
    assert lcl("runs", "logs", "-f", run_id)[1] == "first\nlast\n"
    ending.join()


def test_datasets(lcl, sample_zip):
    assert "sample" in lcl("data", "list")[1]
    status, out, _ = lcl("data", "stats", "sample")
    assert status == 0
    assert "531" in out
    assert "split test_vendor" in out
    assert json.loads(lcl("--json", "data", "stats", "sample")[1])["documents"] == 531
    preview = lcl("data", "preview", "sample", "--limit", "1")[1]
    assert "(similarity " in preview
    assert "1 of 531" in preview
    assert "[" in lcl("data", "preview", "sample", "--view", "pairs")[1]


@contextmanager
def working(live_service):
    """A worker that does the next run that is queued meanwhile."""

    def work():
        while not stop.is_set():
            queued = live_service.admin.runs(state="queued", limit=1)["items"]
            if queued and queued[0]["kind"] in ("validate", "convert"):
                live_service.work(queued[0]["id"])
                return
            stop.wait(0.02)

    stop = threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def test_a_corpus_is_validated_and_registered(lcl, live_service, data_root, sample_images):
    folder = data_root / "corpus"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(sample_images["red"])
    (folder / "pairs.jsonl").write_text('{"image": "a.png", "captions": ["red"]}\n')
    with working(live_service):
        status, out, err = lcl("data", "validate", str(folder), "--words", "--workers", "0")
    assert (status, err) == (0, "")
    assert "records: pair" in out
    assert "no problems" in out
    assert lcl("data", "register", "mine", str(folder))[1].startswith("registered mine (sha256 ")
    assert "1 " in lcl("data", "list", "mine")[1]
    status, _, err = lcl("data", "register", "mine", str(folder))
    assert (status, "exists already" in err) == (1, True)
    assert lcl("data", "register", "mine", str(folder), "--new-version")[0] == 0


def test_what_is_wrong_with_a_corpus_is_reported_and_can_be_fetched(lcl, live_service, data_root, tmp_path):
    folder = data_root / "broken"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(b"broken")
    (folder / "pairs.jsonl").write_text('{"image": "a.png", "captions": ["red"]}\n')
    with working(live_service):
        out = str(tmp_path / "o")
        status, _, err = lcl("data", "validate", str(folder), "--words", "--workers", "0", "--out", out)
    assert status == 1
    assert "pairs.jsonl:1: unreadable image: a.png" in err
    assert (tmp_path / "o" / "quarantine.jsonl").read_text().count("\n") == 2
    with working(live_service):
        status, out, _ = lcl("--json", "data", "validate", str(folder), "--words", "--workers", "0")
    assert (status, json.loads(out)["reasons"]) == (1, {"unreadable image": 1, "no usable image": 1})
    with working(live_service):
        status, out, err = lcl("data", "convert", str(folder), "--name", "never")
    assert status == 1
    assert "nothing of the corpus could be converted" in err
    with working(live_service):
        status, out, err = lcl("--json", "data", "convert", str(folder), "--name", "never")
    assert (status, out) == (1, "")
    assert "nothing of the corpus could be converted" in err


def test_a_corpus_is_converted(lcl, live_service, data_root, sample_images):
    folder = data_root / "to convert"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(sample_images["red"])
    rows = [{"image": name, "captions": ["red"]} for name in ("a.png", "absent.png")]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with working(live_service):
        status, out, _ = lcl("data", "convert", str(folder), "--name", "made", "--format", "native")
    assert status == 0
    assert "registered made: 1 records, 1 images, shards: 1," in out
    assert "left out: file_missing  1" in out
    assert "pairs" in lcl("data", "stats", "made")[1]
    assert "1 of 1" in lcl("data", "preview", "made", "--view", "pairs", "--split", "train")[1]


def test_encoders_travel(lcl, encoder, encoder_dir, live_service, tmp_path):
    assert encoder["id"] in lcl("encoders", "list")[1]
    assert "not evaluated yet" in lcl("encoders", "show", "tiny")[1]
    made = lcl("encoders", "import", "second", str(encoder_dir))[1].strip()
    row = {"task": "retrieval", "split": "test", "variant": "v", "metric": "IR@5"}
    live_service.evaluated(encoder["id"], [{**row, "value": 0.25, "chance": 0.01}])
    live_service.evaluated(made, [{**row, "value": 0.5, "chance": 0.01}])
    assert "0.2500" in lcl("encoders", "show", "tiny")[1]
    compared = lcl("encoders", "compare", "tiny", "second")[1]
    assert "IR@5" in compared
    assert "0.5000" in compared
    live_service.evaluated(made, [{**row, "metric": "IR@1", "value": 0.1, "chance": 0.01}], source="emoji")
    live_service.evaluated(encoder["id"], [{**row, "metric": "IR@1", "value": 0.1, "chance": 0.01}])
    assert "evaluated with different settings: source" in lcl("encoders", "compare", "tiny", "second")[1]
    file = tmp_path / "out.tar"
    assert lcl("encoders", "export", "tiny", str(file))[1] == f"{file}\n"
    assert tarfile.is_tarfile(file)
    status, _, err = lcl("encoders", "export", "tiny", "/absent/out.tar")
    assert (status, "No such file" in err) == (1, True)


def test_search_caption_and_embed(lcl, collection, sample_images, live_service, tmp_path):
    red = tmp_path / "red.png"
    red.write_bytes(sample_images["red"])
    status, out, _ = lcl("search", "squares", "--image", str(red), "-k", "2", "--where", "split=val")
    assert status == 0
    assert "a red square" in out.splitlines()[3]
    assert "hue=r" in out
    texts = json.loads(lcl("--json", "search", "squares", '"a red square"', "--target", "texts", "-k", "1")[1])
    assert texts["hits"][0]["text"] == "a red square"
    status, out, err = lcl("search", "squares", "a red square", "--image", str(red), "--weight", "text=-0.5", "-k", "4")
    assert (status, err) == (0, "")
    assert "a red square" in out
    item = live_service.admin.search("squares", image=sample_images["red"], k=1)["hits"][0]["id"]
    assert item in lcl("search", "squares", "--item", item, "-k", "1")[1]
    assert "weights.image" in lcl("search", "squares", "red", "--weight", "image=2")[2]
    assert "no near-duplicates" in lcl("duplicates", "squares", "--threshold", "1")[1]
    assert "square" in lcl("duplicates", "squares", "--threshold", "0")[1]
    expected = live_service.admin.caption("tiny", [sample_images["red"]], max_new_tokens=4)
    assert lcl("caption", "tiny", str(red), "--max-new-tokens", "4")[1] == f"{red}\t{expected[0]}\n"
    lines = lcl("embed", "tiny", str(red), "--text", "a red square")[1].splitlines()
    assert [json.loads(line)["input"] for line in lines] == [str(red), "a red square"]
    out_file = tmp_path / "vectors.jsonl"
    assert "1 vectors" in lcl("embed", "tiny", str(red), "--out", str(out_file))[1]
    assert json.loads(out_file.read_text())["embedding"] == json.loads(lines[0])["embedding"]


def test_encoders_without_a_common_evaluation_are_not_compared(lcl, encoder, encoder_dir):
    lcl("encoders", "import", "unevaluated", str(encoder_dir))
    status, out, _ = lcl("encoders", "compare", "tiny", "unevaluated")
    assert (status, "not evaluated on the same" in out) == (1, True)
    assert lcl("--json", "encoders", "compare", "tiny", "unevaluated")[0] == 1


def test_fields_go_where_they_say():
    spec = set_fields({"data": {"sources": [{"dataset": "a"}]}}, ["data.sources.0.weight=2", "name=x=y", "on=true"])
    assert spec == {"data": {"sources": [{"dataset": "a", "weight": 2}]}, "name": "x=y", "on": True}
    with pytest.raises(UserError, match="nothing at '5'"):
        set_fields({"list": [{}]}, ["list.5.x=1"])


def test_filters_are_read_at_their_first_sign():
    assert parse_where(["name= as written ", "size < 9"]) == {"name": [" as written "], "size": {"lt": "9"}}
    assert parse_where(["name=a>=b", "size>=2", "size<9", "tags=a", "tags+=b", "tags+=c", "kind=x", "kind=y"]) == {
        "name": ["a>=b"],
        "kind": ["x", "y"],
        "size": {"gte": "2", "lt": "9"},
        "tags": {"all": ["b", "c"], "any": ["a"]},
    }
    assert parse_where(["kind!=x", "kind!=y", "size>=2", "size!=3", "tags=a", "tags!=b"]) == {
        "kind": {"none": ["x", "y"]},
        "size": {"gte": "2", "none": ["3"]},
        "tags": {"any": ["a"], "none": ["b"]},
    }


def test_a_line_without_losses_tells_its_phase():
    assert format_metrics({"step": 1, "phase": "probe", "seconds_left": 5.0}) == "probe  5 s left"
    assert format_metrics({"step": 1}) == ""
