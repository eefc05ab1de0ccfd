"""Zero-shot classification by the client: the numbers of the evaluation on the same images, classes and templates."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api.client import Client, UserError
from api.client.zero_shot import (
    ZeroShotClassifier,
    ZeroShotResult,
    folder_labels,
    label_accuracy,
    match_labels,
    predictions_csv,
    wilson_interval,
)
from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.data.formats import open_reader
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.tasks.zero_shot import class_scores, zero_shot_classifier
from lcl_core.specs.zero_shot import LOGIT_SCALE
from tests.api.sample_assets import png

CLASSES = ("blue circle", "green", "red square", "white")
TEMPLATES = ("a {}", "a drawing of a {}", "{} on white")


def noise(seed):
    """A PNG that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed % 5, 24, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def client(live_service):
    with Client(live_service.url, live_service.keys["viewer"], attempts=1) as client:
        yield client


@pytest.fixture
def squares(tmp_path):
    """A corpus of images with a label each."""
    folder = tmp_path / "squares"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(20):
        (folder / "images" / f"{number}.png").write_bytes(noise(number))
        labels = {"kind": CLASSES[number % 4].replace(" ", "_")}
        lines.append({"image": f"{number}.png", "captions": ["x"], "labels": labels, "split": "test"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluated(run, corpus, encoder):
    """The row of accuracy and the records of an evaluation run."""
    run_dir = RunDir(run)
    run_dir.path.mkdir()
    own = {"labels": ["kind"], "templates": TEMPLATES}
    spec = {"encoder": "tiny", "dataset": "squares", "splits": ["test"], "figures": False,
            "tasks": ["zero_shot_classification"], "zero_shot_classification": own}  # fmt: skip
    places = {"datasets": {"squares": str(corpus)}, "encoders": {"tiny": str(encoder)}, "cache": str(run / "cache")}
    run_dir.prepare({"run_id": "run_a", "kind": "evaluate", "spec": spec, "attempt": 1, **places})
    row = evaluate(run_dir)["rows"][0]
    name = "zero_shot_classification-test-kind-image_to_class-zero_shot-trained.jsonl"
    lines = (run_dir.artifacts / "records" / name).read_text(encoding="utf-8").splitlines()
    return row, [json.loads(line) for line in lines]


def test_the_numbers_are_those_of_the_evaluation(client, encoder, encoder_dir, squares, tmp_path):
    images = [(Path(CLASSES[n % 4].replace(" ", "-")) / f"{n}.png", noise(n)) for n in range(20)]
    result = client.zero_shot("tiny", iter(images), CLASSES, TEMPLATES, batch=8)
    row, records = evaluated(tmp_path / "run", squares, encoder_dir)
    corpus, direct = open_corpus(squares), EvaluatedEncoder("trained", load_image_encoder(encoder_dir))
    pooled, _ = direct.embed_images([corpus.read_image(pair.image) for pair in corpus.pairs("test")])
    assert pooled is not None
    logits = class_scores(pooled, zero_shot_classifier(direct.embed_texts, CLASSES, TEMPLATES)).double()
    # cosines, up to what is equal for all classes of an image; 100 of them in single precision are rounded at 4e-6
    cosines = logits.log_softmax(dim=1).numpy() / LOGIT_SCALE
    np.testing.assert_allclose(np.log(result.probabilities) / LOGIT_SCALE, cosines, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.probabilities, logits.softmax(dim=1).numpy(), rtol=0, atol=4e-6)
    accuracy = label_accuracy(result, folder_labels(result.names))
    assert accuracy is not None
    assert (row["metric"], row["count"], row["chance"]) == ("acc@1", accuracy.count, accuracy.chance)
    assert accuracy.value == pytest.approx(row["value"], abs=1e-6)
    own = [float(result.probabilities[n][n % 4]) for n in range(20)]
    assert own == pytest.approx([record["probability"] for record in records], abs=1e-5), "rounded in the record"
    best = [result.top(n, 1)[0][0].replace(" ", "_") for n in range(20)]
    assert best == [record["top"][0] for record in records]
    assert int(accuracy.confusion.sum()) == 20
    assert int(np.trace(accuracy.confusion)) == accuracy.correct


def test_templates_of_the_evaluation_are_the_default(client, encoder, encoder_dir):
    from lcl_core.evaluation.tasks.zero_shot import prompt_templates

    result = client.zero_shot("tiny", [(Path("a.png"), noise(1))], CLASSES, batch=8)
    assert result.templates == prompt_templates("plain")
    given = client.zero_shot("tiny", [(Path("a.png"), noise(1))], CLASSES, prompt_templates("plain"), batch=8)
    np.testing.assert_allclose(result.probabilities, given.probabilities, atol=1e-6)


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(client, encoder):
    images = [(Path("a/1.png"), noise(1)), (Path("a/2.png"), b"no image"), (Path("b/3.png"), noise(3))]
    progress = []
    result = client.zero_shot("tiny", images, ["a", "b"], ["{}"], on_progress=lambda *at: progress.append(at))
    assert result.names == [Path("a/1.png"), Path("b/3.png")]
    assert [each.path for each in result.skipped] == [Path("a/2.png")]
    assert progress == [(3, 3)]
    nothing = client.zero_shot("tiny", images[1:2], ["a", "b"], ["{}"])
    assert (nothing.names, len(nothing.skipped)) == ([], 1)


def test_images_are_sent_in_batches_that_are_read_as_they_are_sent(client, encoder):
    progress = []
    sent = []

    def images():
        for number in range(5):
            sent.append(len(progress))
            yield Path(f"{number}.png"), png("red", (490, 490))  # two of them are all that a request may have

    on_progress = lambda done, total: progress.append(done)  # noqa: E731
    result = client.zero_shot("tiny", images(), ["a", "b"], ["{}"], batch=2, on_progress=on_progress)
    assert [name.name for name in result.names] == [f"{number}.png" for number in range(5)]
    assert progress == [2, 4, 5]
    assert sent == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("classes", "templates", "field", "words"),
    [
        (["one"], ["{}"], "classes", "at least two"),
        (["one", "two", "one"], ["{}"], "classes", "'one' is given twice"),
        (["one", ""], ["{}"], "classes", "no name"),
        (["one", "two"], ["{}", "a thing"], "templates", "'a thing' has no {}"),
    ],
)
def test_wrong_classes_and_templates_are_named(classes, templates, field, words):
    with pytest.raises(UserError) as caught:
        ZeroShotClassifier(classes, templates)
    assert caught.value.field == field
    assert words in caught.value.message


def predicted(*rows):
    names = [Path(name) for name, _ in rows]
    return ZeroShotResult(("red fox", "cat"), ("{}",), names, [np.array(numbers) for _, numbers in rows])


def test_labels_are_compared_as_names_and_a_tie_counts_against_the_label():
    result = predicted(
        ("Red_Fox/1.png", (0.9, 0.1)), ("red-fox/2.png", (0.5, 0.5)), ("cat/3.png", (0.6, 0.4)), ("dog/4.png", (1, 0))
    )
    accuracy = label_accuracy(result, folder_labels(result.names))
    assert accuracy is not None
    assert (accuracy.correct, accuracy.count, accuracy.left_out, accuracy.chance) == (1, 3, 1, 0.5)
    assert accuracy.confusion.tolist() == [[2, 0], [1, 0]]
    assert label_accuracy(result, ["x", "", "y", "z"]) is None


def test_marks_that_a_folder_cannot_have_do_not_count_unless_classes_differ_in_them():
    classes = ["animals & nature", "C++", "C#", "red-fox"]
    assert match_labels(classes, ["animals  nature", "c++", "C", "Red_Fox", "", "&"]) == [0, 1, None, 3, None, None]


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"), [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634)]
)
def test_the_interval_is_wilsons(correct, count, low, high):
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=1e-4)


def test_the_table_of_predictions_is_a_dataset_with_labels(tmp_path):
    result = predicted(("fox/1.png", (0.9, 0.1)), ("2, two.png", (0.25, 0.75)))
    table = predictions_csv(result)
    assert table.splitlines()[0] == "image,label,probability,folder,p: red fox,p: cat"
    assert table.splitlines()[1] == "fox/1.png,red fox,0.900000,fox,0.900000,0.100000"
    (tmp_path / "fox").mkdir()
    for name in result.names:
        (tmp_path / name).write_bytes(png("red"))
    (tmp_path / "predictions.csv").write_text(table)
    records = list(open_reader(tmp_path, "table").records())
    assert [record.body.labels for record in records] == [{"label": "red fox"}, {"label": "cat"}]  # type: ignore[union-attr]
