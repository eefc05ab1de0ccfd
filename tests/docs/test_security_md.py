"""What docs/security.md promises names the tests that show it, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", GUIDE)))


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_is_there(name: str) -> None:
    assert re.search(r"^(?:async )?def test_", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def test_each_attacker_is_kept_out_by_some_test() -> None:
    section = GUIDE.partition("## Attackers")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| who ")]
    assert len(rows) >= 8
    for row in rows:
        assert "`tests/" in row, f"no test shows: {row[:60]}"
