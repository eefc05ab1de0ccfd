"""Table that database triggers fill: every state and every lease token that a run has had."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rows = Callable[[str], list[dict[str, Any]]]  # what a query gives, column by column

TABLE = {
    "postgresql": """CREATE TABLE chaos_ledger (
        id bigserial PRIMARY KEY, run_id text, old text, new text, old_token text, new_token text)""",
    "sqlite": """CREATE TABLE chaos_ledger (
        id integer PRIMARY KEY, run_id text, old text, new text, old_token text, new_token text)""",
}
_COLUMNS = "INSERT INTO chaos_ledger (run_id, old, new, old_token, new_token) VALUES"
_CHANGED = "OLD.state IS DISTINCT FROM NEW.state OR OLD.lease_token IS DISTINCT FROM NEW.lease_token"
# what each event leaves behind, by the verb
INSERTS = {
    "INSERT": f"{_COLUMNS} (NEW.id, NULL, NEW.state, NULL, NEW.lease_token);",
    "UPDATE": f"{_COLUMNS} (NEW.id, OLD.state, NEW.state, OLD.lease_token, NEW.lease_token);",
    "DELETE": f"{_COLUMNS} (OLD.id, OLD.state, NULL, OLD.lease_token, NULL);",
}


@dataclass(frozen=True)
class StateChange:
    """A change of a run's state or lease; ``place`` grows with the order of changes."""

    place: int
    run: str
    old: str | None  # None: it was made
    new: str | None  # None: it was deleted
    old_token: str | None
    new_token: str | None


def statements(dialect: str) -> list[str]:
    """The table, and a trigger for each event; no path of the product's leads around them. For a migrated database."""
    made = [TABLE[dialect]]
    for event, note in INSERTS.items():
        when = f"WHEN ({_CHANGED})" if event == "UPDATE" else ""
        name = f"chaos_{event.lower()}"
        if dialect == "sqlite":
            made.append(f"CREATE TRIGGER {name} AFTER {event} ON run {when} BEGIN {note} END")
            continue
        body = f"BEGIN {note} RETURN NULL; END"
        made.append(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        made.append(f"CREATE TRIGGER {name} AFTER {event} ON run FOR EACH ROW {when} EXECUTE FUNCTION {name}()")
    return made


def read_history(rows: Rows) -> dict[str, list[StateChange]]:
    """Each run's story."""
    query = "SELECT id AS place, run_id AS run, old, new, old_token, new_token FROM chaos_ledger ORDER BY id"
    histories: dict[str, list[StateChange]] = defaultdict(list)
    for row in rows(query):
        histories[row["run"]].append(StateChange(**row))
    return dict(histories)
