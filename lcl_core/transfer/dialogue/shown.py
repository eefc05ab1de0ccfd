"""Which picture each benchmark's questions are about, under the names that the official archives give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.transfer.answers import Question
from lcl_core.transfer.answers.files import one_file, read_table, refuse
from lcl_core.transfer.dialogue.albums import Album, FolderAlbum, TextAlbum

_TURN = 1_000_000  # MMBench numbers the turns of question n as n, n + 1,000,000 …
_COCO = ("val2014", "train2014", "test2015")
_LEAST_PICTURE = 64  # letters; a shorter entry of MMBench's table is the number of the row that holds the picture


def album_of(benchmark: str, path: Path, images: Path | None, *, field: str) -> Album:
    """The pictures of a benchmark.

    Args:
        path: its questions.
        images: the folder of its pictures; only MMBench holds them itself.
        field: of the evaluation's spec that names the benchmark.

    Raises:
        UserError: ``images_missing``, or the folder or table cannot be read.
    """
    if images is not None:
        return FolderAlbum(images, field=f"{field}.images")
    if benchmark != "mmbench":
        raise UserError(
            f"{benchmark} does not hold its pictures; name their folder in {field}.images",
            code="images_missing", field=f"{field}.images",
        )  # fmt: skip
    file = one_file(path, "*.tsv")
    return TextAlbum(file, _table_pictures(file))


def picture_of(benchmark: str, question: Question, album: Album) -> str | None:
    """The name of the question's picture in ``album``; none where it is not there."""
    return next((name for name in _NAMES[benchmark](question) if album.has(name)), None)


def _table_pictures(file: Path) -> dict[str, str]:
    """Base64 by the number of the first turn; a later turn may point to the row that holds the picture."""
    held: dict[str, str] = {}
    points: dict[str, str] = {}
    for line, row in read_table(file, ("index", "image")):
        if not row["index"].isdigit():
            refuse(f'the index "{row["index"]}" is no number', file, line)
        number = str(int(row["index"]) % _TURN)
        if len(row["image"]) >= _LEAST_PICTURE:
            held.setdefault(number, row["image"])
        else:
            points.setdefault(number, row["image"])
    return held | {number: held[other] for number, other in points.items() if number not in held and other in held}


def _coco(question: Question) -> list[str]:
    number = f"{int(question.image):012d}.jpg"
    return [*(f"COCO_{split}_{number}" for split in _COCO), number]


def _gqa(question: Question) -> list[str]:
    return [f"{question.image}.jpg"]


def _as_named(question: Question) -> list[str]:
    return [question.image]


def _scienceqa(question: Question) -> list[str]:
    return [question.image, f"test/{question.image}"]


def _mme(question: Question) -> list[str]:
    subtask, name = question.image.split("/", 1)
    return [question.image, f"{subtask}/images/{name}"]


def _seed(question: Question) -> list[str]:
    """Pictures by their own name; of a video the frame in the middle, which LLaVA names after the question."""
    if question.groups["medium"] != "image":
        return [f"{question.id}.png", f"SEED-Bench-video-image/{question.id}.png"]
    return [question.image, f"{question.image}.jpg", f"{question.image}.png", f"SEED-Bench-image/{question.image}"]


_NAMES: dict[str, Callable[[Question], list[str]]] = {
    "vqav2": _coco,
    "gqa": _gqa,
    "vizwiz": _as_named,
    "scienceqa-img": _scienceqa,
    "pope": _as_named,
    "mme": _mme,
    "mmbench": _as_named,
    "seed-bench": _seed,
}
