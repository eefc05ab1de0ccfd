"""From stored answers to rows: by hand, and again from the files alone."""

import csv
import json
import re

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.results import (
    PredictionFile,
    PredictionStore,
    sample_groups,
    score_predictions,
    write_tables,
)

FACTS = {
    "encoder": "e", "encoder_hash": "a" * 64, "dataset": "d", "dataset_hash": "b" * 64, "version": "1", "seed": 0,
}  # fmt: skip


def sample(rank, right=1, **more):
    return {"query": "q", "rank": rank, "right": right, "top": [], **more}


def sheet(part, encoder, candidates=20, **facts):
    classify = part == "image_to_class"
    task, variant, transfer = (
        ("classification", "subgroup", "frozen") if classify else ("retrieval", "captions[0]", "zero_shot")
    )
    facts = {"candidates": candidates, **facts}
    return PredictionFile(task, "test", variant, transfer, "ranks", encoder, part=part, facts=facts)


@pytest.fixture
def folder(tmp_path):
    records = PredictionStore(tmp_path / "records")
    records.start()
    for encoder, ranks in (("trained", (1, 3, 7, 20)), ("untrained", (9, 9, 4, 20))):
        records.add(sheet("text_to_image", encoder), [sample(rank) for rank in ranks])
        silent = {"no_caption": 2}
        records.add(sheet("image_to_text", encoder, left_out=silent), [sample(rank, 2) for rank in ranks])
        labels = ("cat", "cat", "dog", "ant")
        counts = {"ant": 1, "cat": 6, "dog": 9}
        records.add(
            sheet("image_to_class", encoder, 3, train_counts=counts, left_out={"unseen": 5}),
            [sample(rank % 4 or 1, label=label) for rank, label in zip(ranks, labels, strict=True)],
        )
    return records.folder


def by_metric(rows):
    return {row["metric"]: row for row in rows}


def test_rows_by_hand(folder):
    rows = by_metric(score_predictions(folder, seed=0))
    assert list(rows) == [
        "IR@1", "IR@5", "IR@10", "IR median rank",
        "TR@1", "TR@5", "TR@10", "TR median rank", "acc@1", "acc@5", "acc@1 class mean",
    ]  # fmt: skip
    assert (rows["IR@5"]["value"], rows["IR@5"]["chance"], rows["IR@5"]["untrained"]) == (0.5, 0.25, 0.25)
    assert rows["IR median rank"]["value"] == 5
    assert rows["IR median rank"]["untrained"] == 9
    assert rows["IR median rank"]["chance"] == 10.5
    assert rows["TR@1"]["chance"] == pytest.approx(0.1)
    assert rows["TR@1"]["left_out"] == {"no_caption": 2}
    # Trained class ranks 1 3 3 1: half right; dog is the most frequent class and true once in four.
    assert (rows["acc@1"]["value"], rows["acc@1"]["majority"]) == (0.5, 0.25)
    assert rows["acc@1"]["chance"] == pytest.approx(1 / 3)
    assert rows["acc@5"]["chance"] == rows["acc@5"]["value"] == 1
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["value"] <= high
        assert row["count"] == 4


def test_scores_can_be_made_again_and_follow_the_files(folder):
    before = score_predictions(folder, seed=0)
    assert score_predictions(folder, seed=0) == before
    file = folder / "retrieval-test-captions_0-text_to_image-zero_shot-trained.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "rank": 1}) + "\n" for line in lines))
    assert by_metric(score_predictions(folder, seed=0))["IR@1"]["value"] == 1


def test_without_a_twin_the_untrained_column_is_empty(tmp_path):
    records = PredictionStore(tmp_path / "records")
    records.start()
    records.add(sheet("text_to_image", "trained"), [sample(1)])
    assert [row["untrained"] for row in score_predictions(records.folder, seed=0)] == [None] * 4


def test_starting_again_forgets_an_earlier_attempt(folder):
    records = PredictionStore(folder)
    records.start()
    records.add(sheet("text_to_image", "trained"), [sample(2)])
    assert len(list(records.read())) == 1
    assert len(list(folder.iterdir())) == 2


def test_names_of_files_are_safe_short_and_distinct(tmp_path):
    """Labels and splits are texts of a corpus: they may be long, alike in ASCII, or look like paths."""
    store = PredictionStore(tmp_path / "records")
    store.start()
    words = ["Class Name", "Class_Name", "类别", "标签", "../../x", "..", "/etc", "é", "a" * 300, "%", "a|b"]
    files = [
        PredictionFile("zero_shot", split, label, "zero_shot", "ranks", "untrained")
        for split in words
        for label in words
    ]
    for number, file in enumerate(files):
        store.add(file, [sample(1, number=number)])
    read = list(store.read())
    assert [(file, samples[0]["number"]) for _, file, samples in read] == [*zip(files, range(len(files)), strict=True)]
    assert len({name.lower() for name, _, _ in read}) == len(files)
    for name, _, _ in read:
        assert re.fullmatch(r"([0-9]+-)?zero_shot-[A-Za-z0-9._-]+\.jsonl", name)
        assert len(f"confusion-{name}") <= 240


def test_missing_records_are_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError, match="no evaluation records"):
        score_predictions(tmp_path, seed=0)


def test_tables_hold_every_row(folder, tmp_path):
    rows = score_predictions(folder, seed=0)
    write_tables(tmp_path, FACTS, rows)
    as_json = json.loads((tmp_path / "table.json").read_text())
    assert as_json["encoder_hash"] == "a" * 64
    assert [row["value"] for row in as_json["rows"]] == [row["value"] for row in rows]
    with (tmp_path / "table.csv").open(newline="") as file:
        as_csv = list(csv.DictReader(file))
    assert [float(row["value"]) for row in as_csv] == [row["value"] for row in rows]
    assert as_csv[0]["majority"] == ""


def test_samples_of_one_concept_are_a_group_unless_all_are():
    assert sample_groups([sample(1), sample(2)]) is None
    grouped = [{**sample(1), "query": str(n), "group": concept} for n, concept in enumerate("aab")]
    found = sample_groups([*grouped, {**sample(1), "query": "a"}])
    assert found == ["a", "a", "b", ""]
    assert sample_groups([*grouped[:2], sample(1), sample(2)]) == ["a", "a", "", ""]
    assert sample_groups(grouped[:2]) is None
    assert sample_groups(grouped[1:]) is None
