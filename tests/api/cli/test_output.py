"""What commands print: a cell of a table is data."""

from __future__ import annotations

import pytest

from api.cli.output import print_table


def test_a_cell_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["[draft] bird", "see [/b] below", ":red_heart:", "[red]x[/red]"]
    print_table(("name",), [[cell] for cell in cells], "none")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line in cells] == cells
