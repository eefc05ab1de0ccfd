"""A clock that nobody sets, and that goes on while the machine sleeps."""

from __future__ import annotations

import time

# macOS has no CLOCK_BOOTTIME, its CLOCK_MONOTONIC does the same
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since the boot, those in which the machine slept included."""
    return time.clock_gettime(_BOOT_CLOCK)
