"""The synchronous client is the one that its source generates."""

from __future__ import annotations

from scripts.generate_sync_client import outdated


def test_the_synchronous_client_is_up_to_date() -> None:
    assert not outdated(), "run python scripts/generate_sync_client.py"
