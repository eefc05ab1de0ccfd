"""Work done ahead: in order, bounded, errors at their turn, and no thread left behind."""

import threading

import pytest

from lcl_core.common.processes import prefetch_map


def test_without_threads_nothing_is_done_before_it_is_asked_for():
    done: list[int] = []
    stream = prefetch_map(done.append, range(9), threads=0)
    next(stream)
    assert done == [0]


def test_it_runs_only_a_few_items_ahead():
    requested: list[int] = []

    def items():
        for number in range(100):
            requested.append(number)
            yield number

    stream = prefetch_map(lambda x: x, items(), threads=2)
    assert next(stream) == 0
    assert len(requested) == 3
    before = threading.active_count()
    stream.close()
    assert threading.active_count() < before


def test_an_error_comes_at_its_item_s_turn():
    def work(number):
        if number == 2:
            raise KeyError(number)
        return number

    stream = prefetch_map(work, range(9), threads=3)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(KeyError):
        next(stream)
