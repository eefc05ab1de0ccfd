"""How a database would go about a query."""

from __future__ import annotations

from sqlalchemy import text

from lcl_core.db.session import Database


def check_read_in_order(database: Database, query: str, index: str) -> None:
    """``query`` is answered from ``index`` and nothing is sorted for it."""
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))  # an empty table would be read whole
            plan = connection.execute(text(f"EXPLAIN {query}"))
        else:
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))
        told = str(plan.fetchall())
    assert index in told
    assert "sort" not in told.lower()
    assert "temp b-tree" not in told.lower()
