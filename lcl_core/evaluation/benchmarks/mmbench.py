"""MMBench (Liu et al. 2023): multiple choice, asked again with the options turned round.

A question counts when it is answered right in every turn, so that a favourite letter earns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    mean_scores,
    missing_answers,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import check_unique, entry_errors, find_one_file, raise_format_error, read_table
from lcl_core.evaluation.benchmarks.parsing import parse_options, undecided_ids

_LETTERS = "ABCD"
# The official circular files number the turns of question n as n, n + 1,000,000, n + 2,000,000 …
_TURN_STRIDE = 1_000_000


class MMBench(Benchmark):
    """``accuracy`` is circular; ``vanilla accuracy`` looks at the first turn alone; by category and ability."""

    name = "mmbench"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``MMBench_*.tsv``. A file that holds no turns gets them here, one for each option."""
        file = find_one_file(path, "*.tsv")
        rows = [
            _question(row, file, line)
            for line, row in read_table(file, ("index", "question", "A", "B", "answer", "category"))
        ]
        given = any(question.groups["turn"] != "0" for question in rows)
        return check_unique(rows if given else [turn for question in rows for turn in _turns(question)], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = sorted(records, key=lambda record: int(record.question.groups["turn"]))
        chosen = parse_options(records)
        circular: dict[str, float] = {}
        vanilla: dict[str, float] = {}
        first: dict[str, AnsweredQuestion] = {}
        for record in records:
            circle = record.question.groups["circle"]
            right = float(chosen[record.question.id] == record.question.truth[0])
            circular[circle] = min(circular.get(circle, 1.0), right)
            vanilla.setdefault(circle, right)
            first.setdefault(circle, record)
        heads = list(first.values())
        by_head = {record.question.id: circular[circle] for circle, record in first.items()}
        samples = scores_by_group("accuracy", by_head, heads, "category", "l2-category")
        samples["vanilla accuracy"] = {record.question.id: vanilla[circle] for circle, record in first.items()}
        absent = missing_answers(records)
        return BenchmarkScores(mean_scores(samples), samples, absent, undecided_ids(chosen, absent))


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


def _turns(question: BenchmarkQuestion) -> list[BenchmarkQuestion]:
    """The question with its options moved on by 0, 1, 2 … places."""
    letters, texts = list(question.options), list(question.options.values())
    right = letters.index(question.truth[0])
    return [
        BenchmarkQuestion(
            id=str(int(question.id) + turn * _TURN_STRIDE),
            image=question.image,
            text=question.text,
            truth=(letters[(right + turn) % len(letters)],),
            options=dict(zip(letters, texts[-turn:] + texts[:-turn] if turn else texts, strict=True)),
            groups={**question.groups, "turn": str(turn)},
        )
        for turn in range(len(letters))
    ]
