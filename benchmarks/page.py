"""The page in a browser: a first start up to the first right hit, searches, the map, and a folder up to a queued run.

Starts the whole service as ``make up`` does, in an empty home, and drives Chromium. Times are those a visitor sees:
from a key or a click to a change on the screen, by the browser's own clock.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from benchmarks.chromium import find_chromium
from deploy.process import PROJECT
from lcl_core.common.errors import UserError
from ui.tabs.search_view import INVITATION

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
START_SECONDS = 300
MAP_POINTS, DRAG_SECONDS, DETAILS = 50_000, 5.0, 10
FIRST_WORDS = "umbrella"
WORDS = ("tree", "airplane", "heart", "guitar", "castle", "apple", "house", "flower", "moon", "fruit", "ant", "train")
# milliseconds from now to the next frame after something below the selector has changed
_UNTIL_CHANGE = """selector => new Promise(resolve => {
  const start = performance.now();
  const observer = new MutationObserver(() => requestAnimationFrame(() => {
    observer.disconnect();
    resolve(performance.now() - start);
  }));
  const everything = { subtree: true, childList: true, characterData: true, attributes: true };
  observer.observe(document.querySelector(selector), everything);
})"""
# to the frame in which the selector is there with these words
_UNTIL_SHOWN = """([selector, words]) => new Promise(resolve => {
  const start = performance.now();
  const check = () => {
    const found = document.querySelector(selector);
    if (found && found.textContent.includes(words)) resolve(performance.now() - start);
    else requestAnimationFrame(check);
  };
  check();
})"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chromium", help="its path; default: one that is found or downloaded")


def main(options: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    chromium = options.chromium or find_chromium()
    if chromium is None:
        raise UserError("there is no Chromium; install one, or name it with --chromium", code="chromium_missing")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        started = time.monotonic()
        with _service(Path(folder, "home")) as url:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(START_SECONDS * 1000)
            report = {
                **_first_hit(page, url, started),
                **_searches(page),
                **_map(page),
                **_folder(page, Path(folder)),
            }
            browser.close()
    print(json.dumps(report, indent=1))


@contextmanager
def _service(home: Path) -> Iterator[str]:
    """Address of the page of a service that is about to start."""
    command = [sys.executable, "-m", "deploy.local", "up", "--home", str(home)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LCL_")}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.match(r"page\s+(\S+)", line):
                    yield found[1]
                    return
            raise UserError("the service did not start; its messages are above", code="service_failed")
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()


def _first_hit(page: Any, url: str, started: float) -> dict[str, float]:
    """A visitor opens the printed address, waits for what the page says, and clicks the first example."""
    page.goto(url)
    page.locator("#search-results").get_by_text(_first_words(INVITATION)).wait_for()
    ready = time.monotonic() - started
    page.get_by_role("button", name=FIRST_WORDS).click()
    page.locator("#search-results").get_by_text(f"“{FIRST_WORDS}”").wait_for()
    first = page.get_by_role("region", name="Search results").get_by_role("listitem").first
    first.wait_for()
    if FIRST_WORDS not in first.inner_text().lower():
        raise UserError(f"the first hit for {FIRST_WORDS} is {first.inner_text()!r}", code="wrong_hit")
    return {"ready_seconds": round(ready, 1), "first_hit_seconds": round(time.monotonic() - started, 1)}


def _first_words(html: str) -> str:
    """The first text of a piece of the page."""
    return re.sub(r"<[^>]*>", "\n", html).strip().splitlines()[0]


def _searches(page: Any) -> dict[str, Any]:
    box = page.get_by_placeholder("Describe an image")
    changes, answers = [], []
    for words in WORDS:
        box.fill(words)
        box.focus()
        page.evaluate(f"() => {{ window.change = ({_UNTIL_CHANGE})('#search-results') }}")
        page.evaluate(f"() => {{ window.answer = ({_UNTIL_SHOWN})(['#search-results', '“{words}”']) }}")
        page.keyboard.press("Enter")
        answers.append(page.evaluate("window.answer"))
        changes.append(page.evaluate("window.change"))
    return {
        "searches": len(WORDS),
        "change_p95_ms": _percentile(changes, 95),
        "first_answer_ms": round(answers[0], 1),
        "answer_p50_ms": _percentile(answers, 50),
        "answer_p95_ms": _percentile(answers, 95),
    }


def _map(page: Any) -> dict[str, Any]:
    """Details of the shipped collection by a click on its map, then frames while a larger one is dragged."""
    page.get_by_role("tab", name="Embed").click()
    canvas = page.locator("#map canvas")
    page.locator("#map .lcl-map__facts").get_by_text("images").wait_for()
    canvas.focus()
    details = []
    for number in range(DETAILS):
        box = canvas.bounding_box()
        across = (0.3 + 0.04 * number) * box["width"]
        page.mouse.move(box["x"] + across, box["y"] + 0.5 * box["height"])
        page.locator("#map .lcl-tip span").wait_for()
        page.evaluate(f"() => {{ window.change = ({_UNTIL_CHANGE})('#map-detail') }}")
        page.mouse.down()
        page.mouse.up()
        details.append(page.evaluate("window.change"))
        page.locator("#map-detail").get_by_role("heading", level=2).wait_for()
    return {"detail_p50_ms": _percentile(details, 50), "detail_p95_ms": _percentile(details, 95), **_frames(page)}


def _frames(page: Any) -> dict[str, Any]:
    body = _points_file()
    page.route("**/map/*", lambda route: route.fulfill(body=body, content_type="application/octet-stream"))
    page.route("**/item/**", lambda route: route.fulfill(json={"caption": "a point"}))
    page.reload()
    page.get_by_role("tab", name="Embed").click()
    page.locator("#map .lcl-map__facts").get_by_text(f"{MAP_POINTS:,} of").wait_for()
    page.evaluate(
        "window.drawn = 0; document.querySelector('#map canvas').addEventListener('lcl-drawn', () => window.drawn++)"
    )
    canvas = page.locator("#map canvas")
    canvas.focus()
    page.keyboard.press("+")
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    begun, before, step = time.monotonic(), page.evaluate("window.drawn"), 0
    while time.monotonic() - begun < DRAG_SECONDS:
        step += 1
        page.mouse.move(x + 40 * np.sin(step / 9), y + 30 * np.cos(step / 9))
    frames = page.evaluate("window.drawn") - before
    seconds = time.monotonic() - begun
    page.mouse.up()
    page.unroute_all()
    return {"map_points": MAP_POINTS, "frames_per_second": round(frames / seconds, 1)}


def _points_file() -> bytes:
    """A map as the service sends it."""
    places = np.random.default_rng(7).normal(scale=0.2, size=(MAP_POINTS, 2)).clip(-1, 1).astype(np.float32)
    groups = (np.arange(MAP_POINTS) % 14 - 1).astype(np.int16)
    tensors: dict[str, Any] = {"points": places, "ids": np.arange(MAP_POINTS, dtype=np.uint64), "label.group": groups}
    labels = json.dumps({"group": [f"kind {number}" for number in range(13)]})
    metadata = {"method": "pca", "total": str(MAP_POINTS), "variance": "0.05", "labels": labels}
    return save(tensors, metadata | {"neighbours": "10", "neighbours_kept": "0.03"})


def _folder(page: Any, folder: Path) -> dict[str, Any]:
    """Markdown pages from the choice of their folder to a queued training."""
    notes, clicks = _write_notes(folder / "notes"), 0

    def click(element: Any) -> None:
        nonlocal clicks
        element.click()
        clicks += 1

    page.goto(re.sub(r"\?.*", "", page.url) + "?tab=documents&new=corpus")
    started = time.monotonic()
    with page.expect_file_chooser() as chooser:
        click(page.get_by_role("button", name="Choose a folder"))
    chooser.value.set_files(str(notes))
    page.get_by_label("Name of the dataset").fill("notes")
    click(page.get_by_role("button", name="Check and convert"))
    click(page.get_by_role("link", name="Train on it"))
    form = page.locator("#new-run")
    form.get_by_text("The spec is valid.").wait_for()
    click(form.get_by_role("button", name="Submit run"))
    form.get_by_text("Submitted as run_").wait_for()
    return {"folder_to_queued_seconds": round(time.monotonic() - started, 1), "folder_clicks": clicks}


def _write_notes(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(("red", "green", "blue", "yellow", "black")):
        image = io.BytesIO()
        Image.new("RGB", (64, 64), name).save(image, "PNG")
        (folder / "images" / f"{name}.png").write_bytes(image.getvalue())
        text = f"# Page {number}\n\nThis page is about {name} squares.\n\n![a {name} square](images/{name}.png)\n"
        (folder / f"{number}.md").write_text(text)
    return folder


def _percentile(values: Sequence[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 1)
