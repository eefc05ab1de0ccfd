"""Following metrics.jsonl while it grows and when it is cut back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lcl_core.common.run_dir import RunDir
from workers.job_output import MetricsTail, PendingMetrics


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def tail(run_dir: RunDir) -> Iterator[MetricsTail]:
    tail = MetricsTail(run_dir.metrics_file)
    yield tail
    tail.close()


def steps(tail: MetricsTail) -> tuple[list[int], bool]:
    lines, rewound = tail.read()
    return [line["step"] for line in lines], rewound


def test_new_lines_come_once(run_dir: RunDir, tail: MetricsTail) -> None:
    assert steps(tail) == ([], False)
    run_dir.append_metrics(step=1)
    assert steps(tail) == ([1], True)  # all that the file holds
    assert steps(tail) == ([], False)
    run_dir.append_metrics(step=2)
    run_dir.append_metrics(step=3)
    assert steps(tail) == ([2, 3], False)


def test_a_half_written_line_waits_for_its_end(run_dir: RunDir, tail: MetricsTail) -> None:
    with run_dir.metrics_file.open("w") as file:
        file.write('{"step": 1}\n{"st')
        file.flush()
        assert steps(tail) == ([1], True)
        file.write('ep": 2}\n')
        file.flush()
        assert steps(tail) == ([2], False)


def test_lines_that_are_no_metric_are_left_out(run_dir: RunDir, tail: MetricsTail) -> None:
    run_dir.metrics_file.write_bytes(b'nonsense\n[1]\n{"loss": 1}\n\n{"step": "x"}\n\xff\xfe\n{"step": 5}\n')
    assert steps(tail) == ([5], True)


def test_a_file_that_was_cut_back_is_read_again(run_dir: RunDir, tail: MetricsTail) -> None:
    for step in range(1, 6):
        run_dir.append_metrics(step=step)
    assert steps(tail) == ([1, 2, 3, 4, 5], True)
    run_dir.truncate_metrics(3)
    assert steps(tail) == ([1, 2, 3], True)
    run_dir.append_metrics(step=4)
    assert steps(tail) == ([4], False)


def test_what_could_not_be_saved_is_kept_until_it_is(run_dir: RunDir, tail: MetricsTail) -> None:
    unsaved = PendingMetrics()
    unsaved.read_from(tail)
    assert not unsaved
    for step in (1, 2):
        run_dir.append_metrics(step=step)
        unsaved.read_from(tail)
    assert ([line["step"] for line in unsaved.lines], unsaved.rewound) == ([1, 2], True)
    run_dir.truncate_metrics(0)
    unsaved.read_from(tail)
    assert unsaved
    assert unsaved.lines == []
