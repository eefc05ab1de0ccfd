"""Open-ended VQA: VQAv2 (Goyal et al. 2017), OK-VQA (Marino et al. 2019), TextVQA (Singh et al. 2019), VizWiz (Gurari
et al. 2018), GQA (Hudson and Manning 2019).

VQA accuracy follows the published rule (visualqa.org/evaluation.html) and its program: normalised answers against ten
human answers. Normalised is lower case, no full stops but in decimals, number words as digits, no articles, apostrophes
put into contractions, other punctuation removed or made a space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lcl_core.evaluation.benchmarks.base import (
    SHORT_ANSWER_PROMPT,
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import (
    check_type,
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_entries,
    read_json,
)

UNANSWERABLE = "unanswerable"
_COCO_SPLITS = ("val2014", "train2014", "test2015")
_UNANSWERABLE_PROMPT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_FULL_CONSENSUS = 3
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_STOP_NOT_IN_NUMBER = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)} | {"none": "0"}
_CONTRACTIONS = """
 ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_WITH_APOSTROPHE = {
    word[:position] + word[position + 1 :]: word
    for word in _CONTRACTIONS.split()
    for position, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # a slip of the official program, kept so that the numbers are equal


def _human_answers(answers: Sequence[object], question: str, file: Path) -> tuple[str, ...]:
    """As text. Raises: UserError ``benchmark_unreadable`` where there is none, for accuracy is a mean over them."""
    if not answers:
        raise_format_error(
            f"question {question} has no human answers to score by; remove it from the files of the benchmark", file
        )
    return tuple(map(str, answers))


def consensus_accuracy(answer: str | None, people: Sequence[str]) -> float:
    """min(same answers / 3, 1), averaged over the subsets that leave one person out.

    As in the official program, human answers lose their punctuation only where they differ.
    """
    if answer is None:
        return 0.0
    predicted = normalize_answer(answer)
    differ = len(set(people)) > 1
    same = [(without_punctuation(each) if differ else each) == predicted for each in people]
    agreeing = sum(same)
    return sum(min((agreeing - own) / _FULL_CONSENSUS, 1.0) for own in same) / len(people)


def normalize_answer(answer: str) -> str:
    """A model's answer in the form that is compared."""
    return plain_words(without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))


def without_punctuation(answer: str) -> str:
    """Signs that touch a space are removed, and all of them where a number has a comma; others become a space."""
    text = answer
    remove_all = _COMMA_IN_NUMBER.search(answer) is not None
    for sign in _PUNCTUATION:
        at_space = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if remove_all or at_space else " ")
    return _STOP_NOT_IN_NUMBER.sub("", text)


def plain_words(answer: str) -> str:
    """Lower case, digits for number words, no articles, contractions with their apostrophe."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(_WITH_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)


class VQA(Benchmark):
    """Accuracy, and by the type of answer: yes/no, number, other."""

    name = "vqav2"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``*questions.json`` and the ``*annotations.json`` of the same split beside it, as they are distributed.

        ``path`` is the questions file, or a folder with one.
        """
        questions_file = find_one_file(path, "*questions.json")
        annotations_file = _find_annotations(questions_file)
        annotations = {entry.get("question_id"): entry for entry in read_entries(annotations_file, "annotations")}
        questions = []
        for position, entry in enumerate(read_entries(questions_file, "questions")):
            with entry_errors(questions_file, position):
                number, image, text = entry["question_id"], entry["image_id"], entry["question"]
            if number not in annotations:
                raise_format_error(
                    f"question {number} has no annotation; test splits are scored by their server", annotations_file
                )
            with entry_errors(annotations_file, number):
                annotation = annotations[number]
                truth = _human_answers(
                    [each["answer"] for each in annotation["answers"]], str(number), annotations_file
                )
                groups = {"answer_type": annotation["answer_type"]}
                questions.append(BenchmarkQuestion(str(number), str(image), text, truth, groups=groups))
        return check_unique(questions, questions_file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: consensus_accuracy(record.answer, record.question.truth) for record in records}
        return BenchmarkScores.of_means(scores_by_group("accuracy", correct, records, "answer_type"), records)

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        number = f"{int(question.image):012d}.jpg"
        return [*(f"COCO_{split}_{number}" for split in _COCO_SPLITS), number]


def _find_annotations(questions: Path) -> Path:
    """The annotations beside a questions file: of the same name, or else of the same split, or else the only ones.

    VQAv2 has ``v2_OpenEnded_mscoco_val2014_questions.json`` and ``v2_mscoco_val2014_annotations.json``, OK-VQA the same
    without ``v2_``.
    """
    stem = questions.name.removesuffix("questions.json")
    if stem == questions.name:
        raise_format_error("the path is that of a *questions.json, or of the folder of one", questions)
    named = questions.with_name(f"{stem.replace('OpenEnded_', '')}annotations.json")
    if named.is_file():
        return named
    split = stem.rstrip("_").rpartition("_")[2]
    files = sorted(questions.parent.glob("*annotations.json"))
    files = [file for file in files if split in file.name] or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        message = f"expected its annotations beside it, as {named.name}, found {names}; test splits have none"
        raise_format_error(message, questions)
    return files[0]


class OKVQA(VQA):
    """The same layout and rule."""

    name = "okvqa"


class TextVQA(Benchmark):
    """Accuracy as in VQA. Texts that were recognised in the images are not part of the prompt."""

    name = "textvqa"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``TextVQA_0.5.1_val.json`` or its train split; a folder may have just one like ``TextVQA*.json``."""
        file = find_one_file(path, "TextVQA*.json")
        entries = enumerate(read_entries(file, "data"))
        return check_unique([_textvqa_question(number, entry, file) for number, entry in entries], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: consensus_accuracy(record.answer, record.question.truth) for record in records}
        return BenchmarkScores.of_means({"accuracy": correct}, records)

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        return [f"{folder}{question.image}.jpg" for folder in ("", "train_images/", "test_images/")]


def _textvqa_question(number: int, entry: dict[str, Any], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, number):
        if "answers" not in entry:
            raise_format_error(f"entry {number} has no 'answers'; test splits are scored by their server", file)
        answers = check_type(entry["answers"], list, "a list of answers", file)
        truth = _human_answers(answers, str(entry["question_id"]), file)
        return BenchmarkQuestion(str(entry["question_id"]), str(entry["image_id"]), entry["question"], truth)


class VizWiz(Benchmark):
    """Accuracy as in VQA, and answerability.

    ``answerability`` is the share of questions where the model says "unanswerable" exactly when people did; the
    challenge's average precision needs a confidence, which an answer does not carry.
    """

    name = "vizwiz"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``val.json`` (or ``train.json``) of the official annotations; a folder may hold just one."""
        file = find_one_file(path, "*.json")
        return check_unique(
            [_vizwiz_question(number, entry, file) for number, entry in enumerate(read_entries(file))], file
        )

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: consensus_accuracy(record.answer, record.question.truth) for record in records}
        samples = scores_by_group("accuracy", correct, records, "answer_type", "answerable")
        samples["answerability"] = {record.question.id: float(_answerability_correct(record)) for record in records}
        return BenchmarkScores.of_means(samples, records)

    def prompt(self, question: BenchmarkQuestion) -> str:
        return question.text + _UNANSWERABLE_PROMPT + SHORT_ANSWER_PROMPT


def _answerability_correct(record: AnsweredQuestion) -> bool:
    if record.answer is None:
        return False
    predicted = normalize_answer(record.answer) == UNANSWERABLE
    return predicted == (record.question.groups["answerable"] == UNANSWERABLE)


def _vizwiz_question(number: int, entry: dict[str, Any], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, number):
        return BenchmarkQuestion(
            id=str(entry["image"]),
            image=entry["image"],
            text=entry["question"],
            truth=_human_answers([each["answer"] for each in entry["answers"]], str(entry["image"]), file),
            groups={
                "answer_type": entry["answer_type"],
                "answerable": "answerable" if int(entry["answerable"]) else UNANSWERABLE,
            },
        )


class GQA(Benchmark):
    """Exact match, in all and for open ("query") and binary questions, as the official program splits them."""

    name = "gqa"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From a questions file such as ``testdev_balanced_questions.json``: question id to question."""
        file = find_one_file(path, "*questions.json")
        entries = check_type(read_json(file), dict, "an object of questions by id", file)
        return check_unique([_gqa_question(number, entry, file) for number, entry in entries.items()], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: float(_is_correct(record)) for record in records}
        return BenchmarkScores.of_means(
            scores_by_group("accuracy", correct, records, "form", "structural", "semantic"), records
        )

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        return [f"{folder}{question.image}.jpg" for folder in ("", "images/")]  # the official zip has this folder


def _is_correct(record: AnsweredQuestion) -> bool:
    return record.answer is not None and _gqa_form(record.answer) == _gqa_form(record.question.truth[0])


def _gqa_form(answer: str) -> str:
    """Lower case, without a full stop at the end."""
    return " ".join(answer.lower().split()).rstrip(".")


def _gqa_question(number: str, entry: dict[str, Any], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, number):
        types = entry["types"]
        return BenchmarkQuestion(
            id=number,
            image=str(entry["imageId"]),
            text=entry["question"],
            truth=(str(entry["answer"]),),
            groups={
                "form": "open" if types["structural"] == "query" else "binary",
                "structural": types["structural"],
                "semantic": types["semantic"],
            },
        )
