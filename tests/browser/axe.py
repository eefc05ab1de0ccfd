"""What axe finds on a page as it stands."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe

# A pane that waits for its event is pale (style.css), and a colour on its way from light to dark is neither.
NOTHING_PENDING = "() => !document.querySelector('.gradio-container .html-container.pending')"
SETTLED = """Promise.allSettled(document.getAnimations()
  .filter(motion => Number.isFinite(motion.effect.getComputedTiming().endTime)).map(motion => motion.finished))"""


def serious(page: Any, scheme: str) -> list[str]:
    """Findings that are serious or critical, each with where it is and what to do."""
    page.wait_for_function(NOTHING_PENDING)
    page.evaluate(SETTLED)
    results = Axe().run(page).response
    return [
        f"{scheme}: {finding['id']}: {node['target']}: {node['failureSummary']}"
        for finding in results["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]
