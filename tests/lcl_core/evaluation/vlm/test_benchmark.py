"""Each benchmark's official files and images, and the words that its questions are put in."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.benchmark import BenchmarkSet, benchmark_splits, load_benchmark_set, load_benchmark_sets
from lcl_core.specs.evaluate import BenchmarkSpec

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
FIELD = "dialogue.benchmarks.0"


def sample_image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (len(file.name), 0, 0)).save(file, format="PNG")


def dump(file: Path, value: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    return file


def vqav2(root: Path) -> Path:
    dump(root / "q" / "v2_questions.json", {"questions": [
        {"question_id": 1, "image_id": 42, "question": "What colour?"},
        {"question_id": 2, "image_id": 43, "question": "How many?"},
    ]})  # fmt: skip
    reported = [{"question_id": n, "answer_type": "other", "answers": [{"answer": "red"}] * 10} for n in (1, 2)]
    dump(root / "q" / "v2_annotations.json", {"annotations": reported})
    sample_image(root / "images" / "COCO_val2014_000000000042.jpg")
    sample_image(root / "images" / "000000000043.jpg")
    return root / "q"


def gqa(root: Path) -> Path:
    types = {"structural": "query", "semantic": "attr"}
    sample_image(root / "images" / "n123.jpg")
    return dump(root / "testdev_balanced_questions.json", {
        "7": {"imageId": "n123", "question": "What colour?", "answer": "red", "types": types}
    })  # fmt: skip


def okvqa(root: Path) -> Path:
    for name in ("okvqa_questions", "okvqa_annotations"):
        (vqav2(root) / name.replace("okvqa", "v2")).with_suffix(".json").rename(root / "q" / f"{name}.json")
    return root / "q" / "okvqa_questions.json"


def textvqa(root: Path) -> Path:
    sample_image(root / "images" / "train_images" / "0054c91397f2fe05.jpg")
    entry = {
        "question_id": 34602, "image_id": "0054c91397f2fe05", "question": "What colour?", "answers": ["red"] * 10,
    }  # fmt: skip
    return dump(root / "TextVQA_0.5.1_val.json", {"data": [entry]})


def vizwiz(root: Path) -> Path:
    sample_image(root / "images" / "VizWiz_val_1.jpg")
    entry = {
        "image": "VizWiz_val_1.jpg", "question": "What colour?", "answers": [{"answer": "red"}] * 10,
        "answer_type": "other", "answerable": 1,
    }  # fmt: skip
    return dump(root / "val.json", [entry])


def scienceqa(root: Path) -> Path:
    problem = {
        "question": "What colour?", "choices": ["red", "blue"], "answer": 0, "hint": "Look closely.",
        "image": "image.png", "subject": "natural science", "grade": "grade3",
    }  # fmt: skip
    dump(root / "q" / "problems.json", {"5": problem})
    dump(root / "q" / "pid_splits.json", {"test": ["5"]})
    sample_image(root / "images" / "test" / "5" / "image.png")
    return root / "q"


def pope(root: Path) -> Path:
    for split in ("random", "popular", "adversarial"):
        line = {"question_id": 1, "image": "COCO_val2014_1.jpg", "text": "Is there a cat in the image?", "label": "no"}
        dump(root / "q" / f"coco_pope_{split}.json", line)
    sample_image(root / "images" / "COCO_val2014_1.jpg")
    return root / "q"


def mme(root: Path) -> Path:
    (root / "q").mkdir(parents=True)
    lines = [f"1.jpg\tIs it {word}? Please answer yes or no.\tYes\n" for word in ("red", "blue")]
    (root / "q" / "color.txt").write_text("".join(lines))
    (root / "q" / "posters.txt").write_text("".join(lines))
    sample_image(root / "images" / "color" / "1.jpg")
    sample_image(root / "images" / "posters" / "images" / "1.jpg")
    return root / "q"


def mmbench(root: Path) -> Path:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(data, format="PNG")
    encoded = base64.b64encode(data.getvalue()).decode()
    root.mkdir(exist_ok=True)
    (root / "MMBench_DEV_EN.tsv").write_text(
        "index\tquestion\thint\tA\tB\tanswer\tcategory\timage\n"
        f"7\tWhat colour?\tLook closely.\tred\tblue\tA\tcolour\t{encoded}\n"
        "8\tAnd now?\tnan\tred\tblue\tB\tcolour\t7\n"
    )
    return root


def seed_bench(root: Path) -> Path:
    choices = {"choice_a": "red", "choice_b": "blue", "choice_c": "grey", "choice_d": "pink"}
    entries = [
        {"question_id": "1", "question_type_id": 1, "question": "What colour?", "data_id": "77_1",
         "data_type": "image", "answer": "A", **choices},
        {"question_id": "v2", "question_type_id": 2, "question": "Which action?", "data_id": "film.mp4",
         "data_type": "video", "answer": "B", **choices},
    ]  # fmt: skip
    sample_image(root / "images" / "SEED-Bench-image" / "77_1")
    sample_image(root / "images" / "SEED-Bench-video-image" / "v2.png")
    return dump(root / "SEED-Bench.json", {"questions": entries, "question_type": {"Colour": 1, "Action": 2}})


FILES: dict[str, Callable[[Path], Path]] = {
    "vqav2": vqav2, "gqa": gqa, "okvqa": okvqa, "textvqa": textvqa, "vizwiz": vizwiz, "scienceqa-img": scienceqa,
    "pope": pope, "mme": mme, "mmbench": mmbench, "seed-bench": seed_bench,
}  # fmt: skip
PROMPTS = {
    "vqav2": "What colour?" + SHORT,
    "gqa": "What colour?" + SHORT,
    "okvqa": "What colour?" + SHORT,
    "textvqa": "What colour?" + SHORT,
    "vizwiz": "What colour?\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT,
    "scienceqa-img": "Context: Look closely.\nWhat colour?\nA. red\nB. blue" + LETTER,
    "pope": "Is there a cat in the image?" + SHORT,
    "mme": "Is it red?" + SHORT,
    "mmbench": "Look closely.\nWhat colour?\nA. red\nB. blue" + LETTER,
    "seed-bench": "What colour?\nA. red\nB. blue\nC. grey\nD. pink" + LETTER,
}
COUNTS = {
    "vqav2": (2, 2), "gqa": (1, 1), "okvqa": (2, 2), "textvqa": (1, 1), "vizwiz": (1, 1),
    "scienceqa-img": (1, 1), "pope": (3, 1), "mme": (4, 2),
    "mmbench": (4, 2), "seed-bench": (2, 2),
}  # fmt: skip


def opened(name: str, root: Path, most: int | None = None) -> BenchmarkSet:
    path = FILES[name](root)
    images = root / "images" if name != "mmbench" else None
    spec = BenchmarkSpec(name=name, path=str(path), images=images and str(images))  # type: ignore[arg-type]
    return load_benchmark_set(spec, most, seed=0, field=FIELD)


@pytest.mark.parametrize("name", FILES)
def test_official_files_are_asked_in_the_published_words(name: str, tmp_path: Path) -> None:
    found = opened(name, tmp_path)
    assert found.turns[0].question == f"<image>\n{PROMPTS[name]}"
    assert (len(found.questions), len(found.images)) == COUNTS[name]
    assert found.left_out == {}
    for question, row in zip(found.questions, found.rows, strict=True):
        assert found.corpus.read_image(found.images[row].name).mode == "RGB", question.id


def test_gqa_s_images_as_they_are_distributed(tmp_path: Path) -> None:
    """images.zip has all of them in a folder of that name, which a store does not see through."""
    path = FILES["gqa"](tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(tmp_path / "images" / "n123.jpg", "images/n123.jpg")
    for images in (tmp_path / "images.zip", tmp_path):
        spec = BenchmarkSpec(name="gqa", path=str(path), images=str(images))
        found = load_benchmark_set(spec, None, seed=0, field=FIELD)
        assert (found.left_out, [image.name for image in found.images]) == ({}, ["images/n123.jpg"])


def benchmark_spec(name: str, path: str, images: str | None = None) -> BenchmarkSpec:
    return BenchmarkSpec(name=name, path=path, images=images)  # type: ignore[arg-type]


def test_sets_of_one_benchmark_have_splits_of_their_own() -> None:
    pope = benchmark_spec("pope", "/d/pope/val")
    vqa, okvqa = benchmark_spec("vqav2", "/d/vqav2/val"), benchmark_spec("vqav2", "/d/okvqa/val/")
    test = benchmark_spec("vqav2", "/d/vqav2/test")
    assert benchmark_splits([vqa]) == ["val"]
    assert benchmark_splits([vqa, test, okvqa, pope]) == ["vqav2/val", "test", "okvqa/val", "val"]
    assert benchmark_splits([okvqa, pope, vqa]) == ["okvqa/val", "val", "vqav2/val"]
    deep = [benchmark_spec("gqa", f"/{root}/gqa/all.json") for root in ("a", "b")]
    assert benchmark_splits(deep) == ["a/gqa/all.json", "b/gqa/all.json"]
    blurred = [benchmark_spec("pope", "/d/pope/val", f"/d/{images}/coco") for images in ("sharp", "blurred")]
    assert benchmark_splits(blurred) == ["val (sharp/coco)", "val (blurred/coco)"]


def test_a_set_that_is_listed_twice_is_loaded_once(tmp_path: Path) -> None:
    path, images = FILES["pope"](tmp_path), str(tmp_path / "images")
    specs = [benchmark_spec("pope", name, images) for name in (str(path), f"{path}/")]
    (found,) = load_benchmark_sets(specs, None, seed=0, field="dialogue.benchmarks")
    assert (found.split, len(found.questions)) == ("q", 3)


def test_every_scorer_can_be_asked() -> None:
    from lcl_core.evaluation.benchmarks import BENCHMARKS

    assert set(FILES) == set(BENCHMARKS)


def test_images_are_drawn_with_all_their_questions(tmp_path: Path) -> None:
    found = opened("mme", tmp_path, most=1)
    assert len(found.questions) == 2
    assert len({question.image for question in found.questions}) == 1
    assert found.left_out == {"not_drawn": 2}
    circles = opened("mmbench", tmp_path / "m", most=1)
    assert sorted(question.groups["turn"] for question in circles.questions) == ["0", "1"]


def test_questions_without_their_image_are_counted(tmp_path: Path) -> None:
    path = FILES["seed-bench"](tmp_path)
    (tmp_path / "images" / "SEED-Bench-video-image" / "v2.png").unlink()
    spec = BenchmarkSpec(name="seed-bench", path=str(path), images=str(tmp_path / "images"))
    found = load_benchmark_set(spec, None, seed=0, field=FIELD)
    assert (len(found.questions), found.left_out) == (1, {"no_picture": 1})
    (tmp_path / "images" / "SEED-Bench-image" / "77_1").unlink()
    with pytest.raises(UserError, match="none of the images") as caught:
        load_benchmark_set(spec, None, seed=0, field=FIELD)
    assert (caught.value.code, caught.value.field) == ("images_missing", f"{FIELD}.images")


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_out_of_the_images_is_refused_before_any_training(tmp_path: Path, linked: str) -> None:
    path = FILES["seed-bench"](tmp_path)
    inside = tmp_path / "images" / "SEED-Bench-video-image"
    outside = tmp_path / "outside"
    inside.rename(outside)
    if linked == "folder":
        inside.symlink_to(outside)
    else:
        inside.mkdir()
        (inside / "v2.png").symlink_to(outside / "v2.png")
    spec = benchmark_spec("seed-bench", str(path), str(tmp_path / "images"))
    with pytest.raises(UserError, match="link that leads out of its folder") as caught:
        load_benchmark_set(spec, None, seed=0, field=FIELD)
    assert (caught.value.code, caught.value.field) == ("bad_path", f"{FIELD}.images")
    assert caught.value.file == str(inside / "v2.png")


def test_links_inside_the_images_are_read_and_those_to_nothing_are_missing(tmp_path: Path) -> None:
    path = FILES["seed-bench"](tmp_path)
    images = tmp_path / "images"
    image = images / "SEED-Bench-video-image" / "v2.png"
    image.rename(images / "moved.png")
    spec = benchmark_spec("seed-bench", str(path), str(images))
    image.symlink_to(images / "absent.png")
    (images / "loop.png").symlink_to(images / "loop.png")
    found = load_benchmark_set(spec, None, seed=0, field=FIELD)
    assert found.left_out == {"no_picture": 1}
    hashed = found.corpus.content_hash()
    image.unlink()
    image.symlink_to(images / "moved.png")
    found = load_benchmark_set(spec, None, seed=0, field=FIELD)
    assert found.left_out == {}
    assert found.corpus.content_hash() != hashed
    assert all(found.corpus.read_image(each.name).mode == "RGB" for each in found.images)


def test_a_name_that_leads_out_of_the_images_is_refused_with_the_field(tmp_path: Path) -> None:
    FILES["gqa"](tmp_path)
    questions = tmp_path / "testdev_balanced_questions.json"
    questions.write_text(questions.read_text().replace("n123", "../n123"))
    with pytest.raises(UserError, match="plain relative path") as caught:
        load_benchmark_set(benchmark_spec("gqa", str(questions), str(tmp_path / "images")), None, seed=0, field=FIELD)
    assert caught.value.field == f"{FIELD}.images"


def test_a_benchmark_that_does_not_hold_its_images_asks_for_their_folder(tmp_path: Path) -> None:
    spec = BenchmarkSpec(name="gqa", path=str(FILES["gqa"](tmp_path)))
    with pytest.raises(UserError, match="name their folder") as caught:
        load_benchmark_set(spec, None, seed=0, field=FIELD)
    assert caught.value.field == f"{FIELD}.images"
