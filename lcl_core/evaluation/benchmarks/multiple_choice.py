"""Multiple choice: ScienceQA-IMG (Lu et al. 2022), SEED-Bench (Li et al. 2023), MMBench (Liu et al. 2023).

Letters are parsed by the rule of VLMEvalKit's offline matcher (a letter that stands alone, then the text of an option)
and the forms of ScienceQA's evaluation ("A. …", "the answer is A"). An answer that names no single option is undecided.
MMBench repeats a question with the options rotated: it counts when it is correct in every turn, so that a favourite
letter earns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lcl_core.evaluation.benchmarks.base import (
    LETTER_PROMPT,
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    Records,
    mean_scores,
    missing_answers,
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
    read_table,
)

_LETTERS = "ABCD"
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_LAST_LOWER_GRADE = 6
_LETTER_DELIMITERS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_MAX_WORDS_WITH_A = 3  # a longer answer may begin with the article "A"
_LEADING = re.compile(r"\W*([A-Z])[.):\]](?!\w)")
_NAMED = re.compile(r"(?i:answer|option|choice)(?:\s+is)?\s*[:\s]\s*[(\[*]*([A-Z])(?=[.,:;)\]*]|\s*$)")


class MultipleChoice(Benchmark):
    """A benchmark whose answers are letters of options."""

    def prompt(self, question: BenchmarkQuestion) -> str:
        options = "".join(f"\n{letter}. {text}" for letter, text in question.options.items())
        return question.text + options + LETTER_PROMPT

    def chance(self, records: Records) -> dict[str, float]:
        return chance_by_group({record.question.id: 1 / len(record.question.options) for record in records}, records)


def chance_by_group(chance: Mapping[str, float], records: Records) -> dict[str, float]:
    """Mean ``chance`` of all questions and of each value of every group."""
    groups = dict.fromkeys(group for record in records for group in record.question.groups)
    return mean_scores(scores_by_group("accuracy", chance, records, *groups))


def score_choices(records: Records, *groups: str) -> BenchmarkScores:
    """Accuracy over all questions, and by each value of ``groups``."""
    chosen = parse_options(records)
    correct = {each.question.id: float(chosen[each.question.id] == each.question.truth[0]) for each in records}
    samples = scores_by_group("accuracy", correct, records, *groups)
    return BenchmarkScores(mean_scores(samples), samples, missing_answers(records), undecided_ids(chosen, records))


def parse_options(records: Records) -> dict[str, str | None]:
    """The letter that each answer names, by question id; None where it is missing or undecided."""
    return {
        each.question.id: None if each.answer is None else parse_option_letter(each.answer, each.question.options)
        for each in records
    }


def undecided_ids(chosen: Mapping[str, str | None], records: Records) -> list[str]:
    """Ids of the questions whose answer names no single option."""
    return [each.question.id for each in records if each.answer is not None and chosen[each.question.id] is None]


def parse_option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that ``answer`` names; None where it names none or several."""
    for rule in (_lone_letter, _leading_letter, _named_letter, _quoted_text):
        letter = rule(answer, options)
        if letter is not None:
            return letter
    return None


def _lone_letter(answer: str, options: Mapping[str, str]) -> str | None:
    words = answer.translate(_LETTER_DELIMITERS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) != 1 or (letters == ["A"] and len(words) > _MAX_WORDS_WITH_A):
        return None
    return letters[0]


def _leading_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of an answer such as "A. A dog on a mat"."""
    match = _LEADING.match(answer)
    return match[1] if match and match[1] in options else None


def _named_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of "The answer is B." or "option: (C)", if it names one letter alone."""
    letters = {letter for letter in _NAMED.findall(answer) if letter in options}
    return letters.pop() if len(letters) == 1 else None


def _quoted_text(answer: str, options: Mapping[str, str]) -> str | None:
    lower = answer.lower()
    letters = [letter for letter, text in options.items() if text.strip() and text.strip().lower() in lower]
    return letters[0] if len(letters) == 1 else None


class ScienceQA(MultipleChoice):
    """Accuracy over the questions with an image, by subject and by school level."""

    name = "scienceqa-img"

    def __init__(self, split: str = "test") -> None:
        self.split = split

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From the folder that holds ``problems.json`` and ``pid_splits.json``."""
        splits_file, file = path / "pid_splits.json", path / "problems.json"
        splits = check_type(read_json(splits_file), dict, "an object of ids by split", splits_file)
        if self.split not in splits:
            raise_format_error(f"there is no split {self.split}; there are {', '.join(splits)}", splits_file)
        problems = check_type(read_json(file), dict, "an object of problems by id", file)
        questions = []
        for number in check_type(splits[self.split], list, f"a list of ids under {self.split}", splits_file):
            if number not in problems:
                raise_format_error(f"problem {number} of the split {self.split} is not here", file)
            with entry_errors(file, number):
                if problems[number]["image"]:
                    questions.append(_scienceqa_question(number, problems[number]))
        return check_unique(questions, file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        return score_choices(list(records), "subject", "grade")

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        return [question.image, f"test/{question.image}"]


def _scienceqa_question(number: str, problem: dict[str, Any]) -> BenchmarkQuestion:
    options = dict(zip(ascii_uppercase, problem["choices"], strict=False))
    grade, hint = int(re.sub(r"\D", "", problem["grade"])), problem["hint"].strip()
    return BenchmarkQuestion(
        id=number,
        image=f"{number}/{problem['image']}",
        text=f"Context: {hint}\n{problem['question']}" if hint else problem["question"],
        truth=(list(options)[problem["answer"]],),
        options=options,
        groups={
            "subject": _SUBJECTS[problem["subject"]],
            "grade": "G1-6" if grade <= _LAST_LOWER_GRADE else "G7-12",
        },
    )


class SEEDBench(MultipleChoice):
    """Accuracy over all questions, over images and over videos, and of each dimension."""

    name = "seed-bench"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``SEED-Bench.json``: questions and the names of the dimensions."""
        file = find_one_file(path, "SEED-Bench*.json")
        entries = read_entries(file, "questions")
        with entry_errors(file, "question_type"):
            names = {number: name for name, number in read_json(file)["question_type"].items()}
        return check_unique(
            [_seedbench_question(number, entry, names, file) for number, entry in enumerate(entries)], file
        )

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        return score_choices(list(records), "medium", "dimension")

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        """Images by their own name; of a video the middle frame, which LLaVA names after the question."""
        if question.groups["medium"] != "image":
            return [f"{question.id}.png", f"SEED-Bench-video-image/{question.id}.png"]
        return [question.image, f"{question.image}.jpg", f"{question.image}.png", f"SEED-Bench-image/{question.image}"]


def _seedbench_question(position: int, entry: dict[str, Any], names: dict[int, str], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, entry.get("question_id", position)):
        options = {letter: str(entry[f"choice_{letter.lower()}"]) for letter in _LETTERS}
        if entry["answer"] not in options:
            raise_format_error(
                f'question {entry["question_id"]}: the answer is "{entry["answer"]}", not one of A to D', file
            )
        return BenchmarkQuestion(
            id=str(entry["question_id"]),
            image=str(entry["data_id"]),
            text=entry["question"],
            truth=(entry["answer"],),
            options=options,
            groups={"medium": entry["data_type"], "dimension": names[entry["question_type_id"]]},
        )


_TURN_STRIDE = 1_000_000  # the official circular files number the turns of question n as n, n + 1,000,000 …
_MIN_BASE64_LENGTH = 64  # a shorter image entry is the number of the row that holds the image


class MMBench(MultipleChoice):
    """``accuracy`` is circular, ``vanilla accuracy`` counts the first turn alone; by category and ability."""

    name = "mmbench"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``MMBench_*.tsv``. Questions of a file without turns are rotated here, once an option."""
        file = find_one_file(path, "*.tsv")
        rows = [
            _question(row, file, line)
            for line, row in read_table(file, ("index", "question", "A", "B", "answer", "category"))
        ]
        has_turns = any(question.groups["turn"] != "0" for question in rows)
        return check_unique(rows if has_turns else [turn for question in rows for turn in _rotations(question)], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        chosen = parse_options(records)
        circles = _circles(records)
        correct = {each.question.id: float(chosen[each.question.id] == each.question.truth[0]) for each in records}
        circular = {turns[0].question.id: min(correct[each.question.id] for each in turns) for turns in circles}
        first = [turns[0] for turns in circles]
        samples = scores_by_group("accuracy", circular, first, "category", "l2-category")
        samples["vanilla accuracy"] = {number: correct[number] for number in circular}
        return BenchmarkScores(mean_scores(samples), samples, missing_answers(records), undecided_ids(chosen, records))

    def chance(self, records: Records) -> dict[str, float]:
        """All turns of a question correct."""
        circular, vanilla = {}, {}
        circles = _circles(records)
        for first, *others in circles:
            vanilla[first.question.id] = circular[first.question.id] = 1 / len(first.question.options)
            for turn in others:
                circular[first.question.id] /= len(turn.question.options)
        by_group = chance_by_group(circular, [turns[0] for turns in circles])
        return by_group | mean_scores({"vanilla accuracy": vanilla})

    def embedded_images(self, path: Path) -> tuple[Path, dict[str, str]]:
        """Base64 by the number of the first turn; a later turn may name the row that holds the image."""
        file = find_one_file(path, "*.tsv")
        images: dict[str, str] = {}
        references: dict[str, str] = {}
        for line, row in read_table(file, ("index", "image")):
            if not row["index"].isdigit():
                raise_format_error(f'the index "{row["index"]}" is no number', file, line)
            number = str(int(row["index"]) % _TURN_STRIDE)
            target = images if len(row["image"]) >= _MIN_BASE64_LENGTH else references
            target.setdefault(number, row["image"])
        return file, {number: images[row] for number, row in references.items() if row in images} | images


def _circles(records: Records) -> list[list[AnsweredQuestion]]:
    """The turns of each question, in order."""
    circles: dict[str, list[AnsweredQuestion]] = {}
    for record in sorted(records, key=lambda record: int(record.question.groups["turn"])):
        circles.setdefault(record.question.groups["circle"], []).append(record)
    return list(circles.values())


def _question(row: dict[str, str], file: Path, line: int) -> BenchmarkQuestion:
    with entry_errors(file, row["index"], line):
        turn, circle = divmod(int(row["index"]), _TURN_STRIDE)
        options = {letter: row[letter] for letter in _LETTERS if row.get(letter, "") not in ("", "nan")}
        if row["answer"] not in options:
            raise_format_error(
                f'the answer "{row["answer"]}" is no option; test splits are scored by a server', file, line
            )
        hint = row.get("hint", "")
        return BenchmarkQuestion(
            id=row["index"],
            image=str(circle),
            text=f"{hint}\n{row['question']}" if hint not in ("", "nan") else row["question"],
            truth=(row["answer"],),
            options=options,
            groups={"circle": str(circle), "turn": str(turn)}
            | {name: row[name] for name in ("category", "l2-category") if row.get(name)},
        )


def _rotations(question: BenchmarkQuestion) -> list[BenchmarkQuestion]:
    """The question with its options moved on by 0, 1, 2 … positions."""
    letters, texts = list(question.options), list(question.options.values())
    correct = letters.index(question.truth[0])
    return [
        BenchmarkQuestion(
            id=str(int(question.id) + turn * _TURN_STRIDE),
            image=question.image,
            text=question.text,
            truth=(letters[(correct + turn) % len(letters)],),
            options=dict(zip(letters, texts[-turn:] + texts[:-turn] if turn else texts, strict=True)),
            groups={**question.groups, "turn": str(turn)},
        )
        for turn in range(len(letters))
    ]
