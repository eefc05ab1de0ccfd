"""What is derived from the plain client: up to date, and refused where nobody knows how."""

from __future__ import annotations

import pytest

from api.client.derivation.files import TARGET, all_derived, derived, tidied
from api.client.derivation.waiting import Waiting

ROOT = '''"""Words."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PAGE = 3


class Transport:
    def send(self, path: str) -> str:
        return self._http.request(path).text

    @contextmanager
    def stream(self, path: str) -> Iterator[str]:
        with self._http.stream(path) as response:
            yield response
'''


def from_source(calls: str) -> str:
    """The derived form of a module of calls on a small transport."""
    lines = ['"""Words."""', "", "import time", "from collections.abc import Generator, Iterator", ""]
    head = "\n".join([*lines, "from api.client._sync.transport import Transport", "", "", ""])
    made = derived("calls", Waiting({"transport": ROOT, "calls": head + calls}))
    assert made is not None
    return tidied({"calls.py": made})["calls.py"]


def test_the_asynchronous_client_is_up_to_date() -> None:
    lying = {file.name: file.read_text(encoding="utf-8") for file in TARGET.glob("*.py")}
    made = all_derived()
    assert lying.keys() == made.keys() | {"__init__.py", "blocking.py"}
    old = [name for name, text in made.items() if lying[name] != text]
    assert not old, f"{', '.join(old)}: run `python -m api.client.derivation`"


def test_what_waits_is_awaited_however_far_down() -> None:
    made = from_source(
        "class Calls(Transport):\n"
        "    def one(self) -> str:  # a comment stays\n"
        "        return self.send('é').strip()\n\n"
        "    def two(self) -> list[str]:\n"
        "        return [self.one() for _ in range(2)]\n\n"
        "    def path(self) -> str:\n"
        "        return shortened('x')\n\n\n"
        "def shortened(text: str) -> str:\n"
        "    return text[:PAGE]\n\n\n"
        "PAGE = 4\n\n\n"
        "def patience() -> None:\n"
        "    time.sleep(1)\n"
    )
    assert "class AsyncCalls(AsyncTransport):" in made
    assert "    async def one(self) -> str:  # a comment stays" in made
    assert '(await self.send("é")).strip()' in made
    assert "return [await self.one() for _ in range(2)]" in made
    assert "    def path(self) -> str:" in made
    assert "from api.client.calls import shortened\n" in made
    assert "PAGE" not in made
    assert "    await asyncio.sleep(1)" in made
    assert "from api.client._async.transport import AsyncTransport\n" in made


def test_streams_are_read_piece_by_piece() -> None:
    made = from_source(
        'Lines = Generator["Line", None, None]  # said once\n\n\n'
        "Line = str\n\n\n"
        "class Calls(Transport):\n"
        "    def lines(self) -> Iterator[str]:\n"
        "        with self.stream('x') as response:\n"
        "            yield from upper(response.iter_lines())\n"
        "            yield from ('a', 'b')\n\n"
        "    def same(self) -> Lines:\n"
        "        return self.lines()\n\n"
        "    def first(self) -> str:\n"
        "        for line in self.same():\n"
        "            return line\n"
        "        return ''\n\n\n"
        "def upper(lines: Iterator[str]) -> Iterator[str]:\n"
        "    for line in lines:\n"
        "        yield line.upper()\n"
    )
    for piece in (
        "async def lines(self) -> AsyncGenerator[str]:",
        'async with self.stream("x") as response:',
        "async with aclosing(upper(response.aiter_lines())) as pieces:\n"
        "                async for each in pieces:\n                    yield each",
        'for each in ("a", "b"):\n                yield each',
        'Lines = AsyncGenerator["Line"]  # said once\n',
        "from api.client.calls import Line\n",
        "    def same(self) -> Lines:\n        return self.lines()",
        "        async with aclosing(self.same()) as pieces:\n"
        "            async for line in pieces:\n                return line\n",
        "async def upper(lines: AsyncIterator[str]) -> AsyncGenerator[str]:\n    async for line in lines:",
    ):
        assert piece in made, piece
    compile(made, "made", "exec")


@pytest.mark.parametrize(
    "line",
    ["return list(self.stream('x'))", "with self.stream('x') as response, open('y') as file:\n            pass"],
)
def test_what_nobody_knows_is_refused_by_its_line(line: str) -> None:
    with pytest.raises(SyntaxError, match="cannot be derived") as caught:
        from_source(f"class Calls(Transport):\n    def lines(self) -> list[str]:\n        {line}\n")
    assert caught.value.lineno == 11
