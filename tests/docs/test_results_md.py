"""The page of results: its tables are what the committed values by seed come to."""

import re

import pytest

from benchmarks.tables import PAGE, TABLES, build


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_what_the_values_by_seed_come_to(name):
    shown = re.search(rf"<!-- table {name} -->\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[1].splitlines() == build(name), "python -m benchmarks tables --write"
