"""MMBench (Liu et al. 2023): multiple choice, asked again with the options turned round.

A question counts when it is answered right in every turn, so that a favourite letter earns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lcl_core.transfer.answers.choices import chosen_options, undecided
from lcl_core.transfer.answers.files import one_file, read_table, reading, refuse, unique
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores, broken_down, means, missing

_LETTERS = "ABCD"
# The official circular files number the turns of question n as n, n + 1,000,000, n + 2,000,000 …
_TURN = 1_000_000


class MMBench(Scorer):
    """``accuracy`` is circular; ``vanilla accuracy`` looks at the first turn alone; by category and ability."""

    name = "mmbench"

    def load(self, path: Path) -> list[Question]:
        """From ``MMBench_*.tsv``. A file that holds no turns gets them here, one for each option."""
        file = one_file(path, "*.tsv")
        rows = [
            _question(row, file, line)
            for line, row in read_table(file, ("index", "question", "A", "B", "answer", "category"))
        ]
        given = any(question.groups["turn"] != "0" for question in rows)
        return unique(rows if given else [turn for question in rows for turn in _turns(question)], file)

    def score(self, records: Iterable[Answered]) -> Scores:
        records = sorted(records, key=lambda record: int(record.question.groups["turn"]))
        chosen = chosen_options(records)
        circular: dict[str, float] = {}
        vanilla: dict[str, float] = {}
        first: dict[str, Answered] = {}
        for record in records:
            circle = record.question.groups["circle"]
            right = float(chosen[record.question.id] == record.question.truth[0])
            circular[circle] = min(circular.get(circle, 1.0), right)
            vanilla.setdefault(circle, right)
            first.setdefault(circle, record)
        heads = list(first.values())
        by_head = {record.question.id: circular[circle] for circle, record in first.items()}
        samples = broken_down("accuracy", by_head, heads, "category", "l2-category")
        samples["vanilla accuracy"] = {record.question.id: vanilla[circle] for circle, record in first.items()}
        absent = missing(records)
        return Scores(means(samples), samples, absent, undecided(chosen, absent))


def _question(row: dict[str, str], file: Path, line: int) -> Question:
    with reading(file, row["index"], line):
        turn, circle = divmod(int(row["index"]), _TURN)
        options = {letter: row[letter] for letter in _LETTERS if row.get(letter, "") not in ("", "nan")}
        if row["answer"] not in options:
            refuse(f'the answer "{row["answer"]}" is no option; test splits are scored by a server', file, line)
        hint = row.get("hint", "")
        return Question(
            id=row["index"],
            image=str(circle),
            text=f"{hint}\n{row['question']}" if hint not in ("", "nan") else row["question"],
            truth=(row["answer"],),
            options=options,
            groups={"circle": str(circle), "turn": str(turn)}
            | {name: row[name] for name in ("category", "l2-category") if row.get(name)},
        )


def _turns(question: Question) -> list[Question]:
    """The question with its options moved on by 0, 1, 2 … places."""
    letters, texts = list(question.options), list(question.options.values())
    right = letters.index(question.truth[0])
    return [
        Question(
            id=str(int(question.id) + turn * _TURN),
            image=question.image,
            text=question.text,
            truth=(letters[(right + turn) % len(letters)],),
            options=dict(zip(letters, texts[-turn:] + texts[:-turn] if turn else texts, strict=True)),
            groups={**question.groups, "turn": str(turn)},
        )
        for turn in range(len(letters))
    ]
