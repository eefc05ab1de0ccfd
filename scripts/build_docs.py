"""The documentation site: ``make docs`` builds the pages of ``docs/`` into static files with a search.

The pages stay plain Markdown that a forge shows too. They are staged in one folder together with pages from the root of
the repository and with the reference that ``scripts.reference_pages`` writes from the code; Sphinx builds the site from
there. Nothing is loaded from a network, neither while the site is built nor while it is read, and the search works from
the file system. Scripts are separate files, so that the site's content security policy can forbid inline ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sphinx.cmd.build import build_main

from lcl_core.common.errors import UserError
from scripts.reference_pages import reference_pages

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "site"
DIAGRAMS = "diagrams"
NOTEBOOK = ".ipynb"
# pages outside docs/ by the name that each has in the site
OTHER_PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report_a_vulnerability.md",
}
INDEX = "docs/README.md"
NAVIGATION = {
    "First steps": [
        "why",
        "quickstart_researcher",
        "quickstart_team",
        "quickstart_developer",
        "notebooks/first_hour",
    ],
    "Concepts": ["concepts", "objectives", "architecture"],
    "Tasks": ["recipes"],
    "Data": ["data", "corpora"],
    "Training and evaluation": ["training", "runs", "studies", "evaluation", "interop"],
    "Search and inference": ["collections", "search", "serving", "client", "command_line", "page"],
    "Operation": ["operations", "scale", "security", "load", "performance", "report_a_vulnerability"],
    "Research notes": [
        "results",
        "results/comparison/README",
        "log",
        "changelog",
        "contributing",
    ],
}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def staged_name(source: str) -> str | None:
    """Place of a file of the repository in the site's sources; None: it is no part of the site."""
    if source == INDEX:
        return "index.md"
    if source in OTHER_PAGES:
        return OTHER_PAGES[source]
    if not source.startswith("docs/"):
        return None
    name = source.removeprefix("docs/")
    return f"{name.removesuffix(NOTEBOOK)}.md" if name.endswith(NOTEBOOK) else name


def diagram_file(text: str) -> str:
    """Name of the image of a Mermaid diagram. It changes with the text, so an old image is never shown."""
    return f"{DIAGRAMS}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.svg"


def diagrams(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Page and text of each Mermaid diagram of the site."""
    for source in page_sources(root):
        for fence in FENCE.finditer(page_text(source, root)):
            if fence[2] == "mermaid":
                yield source, fence[3]


def page_sources(root: Path = ROOT) -> list[str]:
    """The Markdown files and notebooks of the site, relative to ``root``."""
    files = (file for suffix in (".md", NOTEBOOK) for file in (root / "docs").rglob(f"*{suffix}"))
    docs = sorted(file.relative_to(root).as_posix() for file in files)
    return [*docs, *(name for name in OTHER_PAGES if (root / name).exists())]


def page_text(source: str, root: Path = ROOT) -> str:
    """A page as Markdown: of a notebook its cells, without outputs."""
    text = (root / source).read_text(encoding="utf-8")
    if not source.endswith(NOTEBOOK):
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{words}\n```" if kind == "code" else words for kind, words in cells) + "\n"


def staged_text(source: str, text: str) -> str:
    """A page as Sphinx reads it: diagrams as images, links to where the pages are staged."""
    title = next(iter(re.findall(r"^# (.*)$", text, re.MULTILINE)), None)
    if title is None:
        title = " ".join(PurePosixPath(source).with_suffix("").parts[-2:]).replace("_", " ").capitalize()
        text = f"# {title}\n\n{text}"
    folder = posixpath.dirname(source)
    here = posixpath.dirname(staged_name(source) or "")

    def image(fence: re.Match[str]) -> str:
        path = posixpath.relpath(diagram_file(fence[3]), here or ".")
        return f"{fence[1]}![Diagram: {title}]({path})"

    def link(found: re.Match[str]) -> str:
        mark, words, target, fragment = found[1], found[2], found[3], found[4] or ""
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        file = posixpath.normpath(posixpath.join(folder, target))
        if file == source:  # the notebook itself, which its page offers for download
            return found[0]
        name = staged_name(file)
        if name is None:
            return words  # a file of the source tree, which the site does not have
        return f"{mark}[{words}]({posixpath.relpath(name, here or '.')}{fragment})"

    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [_outside(text[end : fence.start()], link), image(fence) if fence[2] == "mermaid" else fence[0]]
        end = fence.end()
    return "".join([*parts, _outside(text[end:], link)])


def _outside(text: str, link: object) -> str:
    """Text outside fenced blocks: links are moved, anchors become targets that Sphinx knows."""
    return ANCHOR.sub(r"[]{#\1}", LINK.sub(link, text))  # type: ignore[arg-type]


def navigation(names: dict[str, list[str]]) -> str:
    """Hidden tables of contents: the side bar, and the order of the pages."""
    return "".join(
        "\n```{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(pages) + "\n```\n"
        for title, pages in names.items()
    )


def stage(folder: Path, root: Path = ROOT) -> None:
    """Write the site's sources into ``folder``."""
    shutil.copytree(root / "docs", folder, ignore=shutil.ignore_patterns("*.md"), dirs_exist_ok=True)
    shutil.copy(ROOT / "ui" / "favicon.svg", folder)
    for source in page_sources(root):
        file = folder / str(staged_name(source))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(staged_text(source, page_text(source, root)), encoding="utf-8")
    references = reference_pages()
    for name, text in references.items():
        file = folder / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    index = folder / "index.md"
    everything = {**NAVIGATION, "Reference": list(references)}
    index.write_text(index.read_text(encoding="utf-8") + navigation(everything), encoding="utf-8")


def move_inline_scripts(site: Path) -> None:
    """Inline scripts of the theme become files, which a policy without ``unsafe-inline`` admits."""
    for page in site.rglob("*.html"):
        above = "../" * len(PurePosixPath(page.relative_to(site).as_posix()).parts[1:])

        def moved(found: re.Match[str], above: str = above) -> str:
            name = f"_static/{hashlib.sha256(found[1].encode()).hexdigest()[:16]}.js"
            (site / name).write_text(found[1], encoding="utf-8")
            return f'<script src="{above}{name}"></script>'

        text = page.read_text(encoding="utf-8")
        if (changed := INLINE_SCRIPT.sub(moved, text)) != text:
            page.write_text(changed, encoding="utf-8")


def build(out: Path, root: Path = ROOT) -> None:
    """Build the site into ``out``, which is replaced when the build has succeeded.

    Raises: UserError ``docs_broken`` for a link that leads nowhere, or a page outside the navigation.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".site-") as scratch:
        sources, site = Path(scratch) / "sources", Path(scratch) / "site"
        stage(sources, root)
        strict = ["--fail-on-warning", "--keep-going", "--quiet"]
        arguments = ["-b", "html", "-c", str(sources), "-d", f"{scratch}/doctrees", str(sources), str(site)]
        if build_main([*strict, *arguments]) != 0:
            raise UserError("the documentation has errors; Sphinx names them above", code="docs_broken")
        move_inline_scripts(site)
        for unused in (".buildinfo", "objects.inv"):
            (site / unused).unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        site.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the site; it is replaced")
    out = parser.parse_args().out.resolve()
    try:
        build(out)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(out / "index.html")  # noqa: T201


if __name__ == "__main__":
    main()
