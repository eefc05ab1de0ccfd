"""Memory for large images is lent to one owner after the other, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from api.core.errors import Problem
from api.core.limits import PixelBudget


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0)


class Decoding:
    """Who holds memory, in the order in which it was lent, and lets go when told."""

    def __init__(self, budget: PixelBudget) -> None:
        self.budget = budget
        self.lent: list[str] = []
        self._done: dict[str, asyncio.Event] = {}

    def begin(self, name: str, owner: str, amount: int) -> asyncio.Task[None]:
        self._done[name] = asyncio.Event()
        return asyncio.create_task(self._hold(name, owner, amount))

    async def _hold(self, name: str, owner: str, amount: int) -> None:
        async with self.budget.reserve(owner, amount):
            self.lent.append(name)
            await self._done[name].wait()

    def end(self, *names: str) -> None:
        for name in names:
            self._done[name].set()


def run(scene: Awaitable[None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await scene

    asyncio.run(within())


def test_no_more_is_lent_than_there_is() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30)
        decoding = Decoding(budget)
        tasks = [decoding.begin(name, "ada", 40) for name in "abc"]
        await until(lambda: budget.waiting == 1)
        assert decoding.lent == ["a", "b"]
        assert budget.in_use == 80
        decoding.end("a")
        await until(lambda: decoding.lent == ["a", "b", "c"])
        decoding.end("b", "c")
        await asyncio.gather(*tasks)
        assert budget.in_use == budget.waiting == 0

    run(scene())


def test_what_is_kept_is_lent_until_every_future_is_done() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30)
        computed, cancelled = Future[int](), Future[int]()
        async with budget.reserve("ada", 90) as reservation:
            reservation.keep(60, [computed, cancelled])
        assert budget.in_use == 60, "the block's own part is free again"
        waiting = Decoding(budget).begin("b", "bob", 50)
        await until(lambda: budget.waiting == 1)
        await asyncio.to_thread(computed.set_result, 1)
        await asyncio.sleep(0)
        assert (budget.in_use, budget.waiting) == (60, 1)
        cancelled.cancel()
        await until(lambda: budget.waiting == 0)
        assert budget.in_use == 50
        waiting.cancel()
        async with budget.reserve("ada", 10) as reservation:
            reservation.keep(10, [])
        await asyncio.gather(waiting, return_exceptions=True)
        assert budget.in_use == 0

    run(scene())


def test_owners_take_turns() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30)
        decoding = Decoding(budget)
        tasks = [decoding.begin(f"ada{number}", "ada", 100) for number in range(4)]
        await until(lambda: budget.waiting == 3)
        tasks.append(decoding.begin("bob", "bob", 100))
        await until(lambda: budget.waiting == 4)
        for count, name in enumerate(("ada0", "ada1", "bob", "ada2", "ada3"), 1):
            await until(lambda count=count: len(decoding.lent) == count)
            assert decoding.lent[-1] == name
            decoding.end(name)
        await asyncio.gather(*tasks)

    run(scene())


def test_a_large_one_is_not_overtaken_for_ever() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30)
        decoding = Decoding(budget)
        tasks = [decoding.begin("small", "ada", 10)]
        await until(lambda: decoding.lent == ["small"])
        tasks += [decoding.begin("large", "bob", 100), decoding.begin("late", "ada", 10)]
        await until(lambda: budget.waiting == 2)
        assert decoding.lent == ["small"], "the late one would have fitted"
        decoding.end("small")
        await until(lambda: decoding.lent == ["small", "large"])
        decoding.end("large")
        await until(lambda: decoding.lent == ["small", "large", "late"])
        decoding.end("late")
        await asyncio.gather(*tasks)

    run(scene())


def test_who_asks_for_more_than_there_is_gets_all_of_it() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30)
        async with budget.reserve("ada", 1_000):
            assert budget.in_use == 100
        assert budget.in_use == 0

    run(scene())


def test_waiting_ends_with_503_and_gives_the_place_up() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 0.01)
        async with budget.reserve("ada", 100):
            with pytest.raises(Problem) as caught:
                async with budget.reserve("bob", 1):
                    raise AssertionError("nothing was free")
            assert (caught.value.status, caught.value.code) == (503, "overloaded")
            assert caught.value.headers == {"retry-after": "1"}
            assert budget.waiting == 0
        async with budget.reserve("bob", 100):
            assert budget.in_use == 100

    run(scene())


def test_only_so_many_wait() -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30, most_waiting=1)
        decoding = Decoding(budget)
        tasks = [decoding.begin("first", "ada", 100), decoding.begin("second", "ada", 100)]
        await until(lambda: budget.waiting == 1)
        with pytest.raises(Problem) as caught:
            async with budget.reserve("bob", 1):
                raise AssertionError("nothing was free")
        assert caught.value.code == "overloaded"
        decoding.end("first", "second")
        await asyncio.gather(*tasks)

    run(scene())


@pytest.mark.parametrize("lent", [False, True], ids=["while it waits", "in the moment in which it is lent"])
def test_who_is_cancelled_holds_nothing(lent: bool) -> None:
    async def scene() -> None:
        budget = PixelBudget(100, 30)
        decoding = Decoding(budget)
        first = decoding.begin("first", "ada", 100)
        await until(lambda: decoding.lent == ["first"])
        second = decoding.begin("second", "bob", 100)
        await until(lambda: budget.waiting == 1)
        if lent:
            decoding.end("first")
            await until(lambda: budget.waiting == 0)
        second.cancel()
        decoding.end("first")
        await asyncio.gather(first, second, return_exceptions=True)
        assert budget.in_use == budget.waiting == 0

    run(scene())
