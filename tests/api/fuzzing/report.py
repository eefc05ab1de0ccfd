"""What a campaign of generated requests came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
SHOWN = 600  # characters of an answer


@dataclass
class Report:
    """Counts, and one example of each thing that was found.

    Attributes:
        seen: answers that showed Ada's mark to those who may see it; without any, no leak could have been found.
    """

    calls: int = 0
    by_role: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    by_operation: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)  # with 2xx, by operation
    seen: int = 0
    found: dict[str, dict[tuple[str, ...], Json]] = field(
        default_factory=lambda: {"server_errors": {}, "violations": {}, "leaks": {}}
    )

    def note(self, what: str, kind: tuple[str, ...], example: Json) -> None:
        """Count something that must not be; the first of a kind is kept as it was."""
        known = self.found[what].setdefault(kind, {**example, "times": 0})
        known["times"] += 1

    @property
    def clean(self) -> bool:
        return not any(self.found.values())

    def facts(self, seconds: float) -> Json:
        """As one JSON object."""
        return {
            "calls": self.calls,
            "operations": len(self.by_operation),
            "operations_answered": len(self.answered),
            "by_role": dict(self.by_role),
            "by_status": dict(sorted(self.by_status.items())),
            **{what: sum(example["times"] for example in kinds.values()) for what, kinds in self.found.items()},
            "marks_seen_by_owner_and_admin": self.seen,
            "seconds": round(seconds, 1),
            "examples": {what: list(kinds.values()) for what, kinds in self.found.items() if kinds},
        }
