"""From a plot's name to the bytes of a picture."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lcl_core.errors import UserError
from lcl_core.studies.plots.material import Material
from lcl_core.studies.plots.over_cost import draw_pareto, draw_scaling
from lcl_core.studies.plots.over_rows import draw_rows
from lcl_core.studies.plots.over_steps import draw_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "PLOTS", "Material", "draw"]

PLOTS: dict[str, Callable[[Material, Figure], None]] = {
    "rows": draw_rows,
    "pareto": draw_pareto,
    "curves": draw_curves,
    "scaling": draw_scaling,
}
KINDS = {"svg": "image/svg+xml", "png": "image/png"}
# Texts stay texts; ids and dates do not make two pictures of the same differ.
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "lcl",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "legend.frameon": False,
}
_LOCK = threading.Lock()  # matplotlib's settings belong to the whole process


def draw(name: str, material: Material, kind: str = "svg") -> bytes:
    """Raises: UserError ``unknown_plot`` naming those that there are."""
    if name not in PLOTS or kind not in KINDS:
        known = ", ".join(f"{plot}.{ending}" for plot in PLOTS for ending in KINDS)
        raise UserError(f"there is no plot {name}.{kind}; choose from {known}", code="unknown_plot")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with _LOCK, mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        PLOTS[name](material, figure)
        figure.savefig(out, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
