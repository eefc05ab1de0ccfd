"""Numbers with units as text, for the command line and the page."""

from __future__ import annotations

_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))
_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_bytes(count: float) -> str:
    """``1.5 GiB``, ``73 MiB``, ``12 KiB``."""
    for size, unit in _BINARY:
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1024:.3g} KiB"


def format_si(value: float) -> str:
    """``6411265`` -> ``6.41 M``; the unit follows the prefix, so that a small value ends in a space."""
    for size, prefix in _SI:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "
