"""``lcl data tag``, ``preview --tag`` and ``convert --without-tag``."""

import json
import threading

import pytest


@pytest.fixture
def manuals(live_service, data_root):
    folder = data_root / "manuals"
    folder.mkdir(exist_ok=True)
    lines = [{"id": f"page {n}", "text_list": [f"Sentence {n}."], "image_info": []} for n in range(4)]
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    live_service.admin.register_dataset("manuals", str(folder), new_version=True)
    return "manuals"


def test_documents_are_tagged_listed_and_left_out_of_a_conversion(live_service, lcl, manuals, tmp_path, eventually):
    assert lcl("data", "tag", manuals)[1] == "no tags yet; --add adds one\n"
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("interleaved.jsonl:3\n\ninterleaved.jsonl:4\n")
    tag = ("data", "tag", manuals)
    assert lcl(*tag, "interleaved.jsonl:2", "--ids", str(chosen), "--add", "blurred", "--add", "late") == (
        0, "3 of 3 documents changed\n", "",
    )  # fmt: skip
    assert json.loads(lcl("--json", *tag, "interleaved.jsonl:4", "--remove", "blurred")[1]) == {"changed": 1}
    assert json.loads(lcl("--json", "data", "tag", manuals)[1]) == {"blurred": 2, "late": 3}
    preview = lcl("data", "preview", manuals, "--tag", "blurred")[1].splitlines()
    assert preview[0] == "page 1  (interleaved.jsonl:2, blurred, late)"
    assert preview[-1] == "2 of 4"

    def work():
        def queued():
            return live_service.admin.runs(kind="convert", state="queued")["items"]

        eventually(queued, "the conversion")
        live_service.work(queued()[0]["id"])

    worker = threading.Thread(target=work)
    worker.start()
    status, out, err = lcl(
        "data", "convert", manuals, "--name", "clean", "--only-tag", "late", "--without-tag", "blurred"
    )
    worker.join()
    assert (status, err) == (0, "")
    assert "registered clean: 1 record" in out
    assert "left out: left out by tags  3" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--add", "x"), "lcl data preview shows them"),
        (("interleaved.jsonl:1",), "give --add or --remove"),
        (("interleaved.jsonl:1", "--add", "a b"), "a tag starts with a letter or digit"),
        (("interleaved.jsonl:9", "--add", "a"), "no item 'interleaved.jsonl:9'"),
        (("--ids", "/absent/file", "--add", "a"), "/absent/file: No such file"),
    ],
)
def test_what_cannot_be_tagged_is_said(lcl, manuals, arguments, message):
    status, _, err = lcl("data", "tag", manuals, *arguments)
    assert status != 0
    assert message in err


def test_a_conversion_by_an_unknown_tag_is_refused(lcl, manuals):
    status, _, err = lcl("data", "convert", manuals, "--name", "y", "--without-tag", "blured")
    assert status != 0
    assert "has the tag 'blured'" in err
