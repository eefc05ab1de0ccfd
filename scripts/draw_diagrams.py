"""Images of the Mermaid diagrams in the documentation: ``python -m scripts.draw_diagrams MERMAID``.

A forge draws Mermaid by itself; the site shows images, so that it needs no script of several megabytes and no network.
Each image is named by the hash of its diagram's text; a test finds diagrams without an image. ``MERMAID`` is
``mermaid.min.js`` of the npm package: ``npm install mermaid``, then ``node_modules/mermaid/dist/mermaid.min.js``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from scripts.build_docs import DIAGRAMS, ROOT, diagram_file, diagrams

# labels as SVG text: HTML within an image is not shown by every browser
SETTINGS = """{startOnLoad: false, securityLevel: "strict", theme: "neutral", deterministicIds: true, htmlLabels: false,
  fontFamily: "system-ui, sans-serif", flowchart: {htmlLabels: false}, state: {htmlLabels: false}}"""
DRAW = "async text => (await mermaid.render('diagram', text)).svg"


def draw(mermaid: Path, browser_path: str | None, out: Path = ROOT / "docs") -> list[str]:
    """Draw every diagram, and delete images of diagrams that are gone. Returns: names of the images."""
    texts = {diagram_file(text): text for _, text in diagrams()}
    (out / DIAGRAMS).mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content("<!doctype html><body></body>")
        page.add_script_tag(path=mermaid)
        page.evaluate(f"mermaid.initialize({SETTINGS})")
        for name, text in texts.items():
            svg = page.evaluate(DRAW, text)
            background = '<rect width="100%" height="100%" fill="#fff"/>'  # legible on a dark page, too
            opened = svg.index(">") + 1
            (out / name).write_text(svg[:opened] + background + svg[opened:] + "\n", encoding="utf-8")
        browser.close()
    for file in (out / DIAGRAMS).glob("*.svg"):
        if f"{DIAGRAMS}/{file.name}" not in texts:
            file.unlink()
    return sorted(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mermaid", type=Path, help="mermaid.min.js")
    print(*draw(parser.parse_args().mermaid, os.environ.get("LCL_CHROMIUM") or shutil.which("chromium")), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
