"""Find a Chromium that runs, or fetch one: ``python -m tests.browser.chromium`` prints its path.

In this order: ``LCL_CHROMIUM``, an installed one, Playwright's own download, Debian's package when root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

INSTALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DOWNLOAD_SECONDS = 300


def runs(path: str | None) -> bool:
    """Does this program start at all? A download may lack libraries of the system."""
    if not path or not os.access(path, os.X_OK):
        return False
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=180, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def candidates() -> Iterator[Callable[[], str | None]]:
    """Ways to come by one, cheapest first; a later one is tried only when the earlier ones gave none that runs."""
    yield lambda: os.environ.get("LCL_CHROMIUM")
    for name in INSTALLED:
        yield partial(shutil.which, name)
    yield playwrights_own
    yield downloaded
    yield from_debian


def find_chromium() -> str | None:
    return next((path for candidate in candidates() if (path := candidate()) and runs(path)), None)


def playwrights_own() -> str | None:
    """Where Playwright keeps the one that it downloads, whether or not it is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def downloaded() -> str | None:
    return playwrights_own() if _did(sys.executable, "-m", "playwright", "install", "chromium") else None


def from_debian() -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    installed = _did("apt-get", "update") and _did("apt-get", "install", "-y", "--no-install-recommends", "chromium")
    return shutil.which("chromium") if installed else None


def _did(*command: str) -> bool:
    """Run a command without a terminal; False if it failed or took too long."""
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    found = find_chromium()
    sys.stdout.write(found or "")
    sys.exit(0 if found else 1)
