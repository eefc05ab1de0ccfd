"""MMBench (Liu et al. 2023): multiple choice, repeated with the options rotated.

A question counts when it is correct in every turn, so that a favourite letter earns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    BenchmarkQuestion,
    BenchmarkScores,
    Records,
    mean_scores,
    missing_answers,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import check_unique, entry_errors, find_one_file, raise_format_error, read_table
from lcl_core.evaluation.benchmarks.multiple_choice import (
    MultipleChoice,
    chance_by_group,
    parse_options,
    undecided_ids,
)

_LETTERS = "ABCD"
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
