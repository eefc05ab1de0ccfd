"""Whoever lacks memory is told so in one form, and nothing of what filled it is kept alive."""

from __future__ import annotations

import gc
import weakref

import pytest

from lcl_core.serving.batched_engine import OutOfMemory, steps_within_memory, within_memory

TORCH = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried …"


class Large:
    """Stands for what fills the memory."""


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(TORCH), RuntimeError("CUDA out of memory. Tried …")])
def test_it_is_one_error_and_keeps_nothing(error):
    kept: list[weakref.ref[Large]] = []

    def fill():
        large = Large()
        kept.append(weakref.ref(large))
        raise type(error)(*error.args)

    with pytest.raises(OutOfMemory) as caught:
        within_memory(fill)
    assert caught.value.code == "out_of_memory"
    assert caught.value.__context__ is None
    gc.collect()
    assert kept[0]() is None


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"):
        within_memory(lambda: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    assert within_memory(lambda: 7) == 7


def test_in_the_middle_of_steps_too():
    def steps():
        yield 1
        raise MemoryError

    found = steps_within_memory(steps())
    assert next(found) == 1
    with pytest.raises(OutOfMemory):
        next(found)
    assert list(steps_within_memory([1, 2])) == [1, 2]
