"""The API's own description at ``/docs``, and the documentation site at ``/docs/guide``: no CDN, no inline script."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.core.errors import Problem
from lcl_core.common.errors import UserError
from lcl_core.common.paths import resolve_allowed

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LCL service: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/docs.css">
<script src="/docs/docs.js" defer></script>
</head>
<body>
<header>
<h1>LCL service</h1>
<p>Every call with its parameters, fields and responses, a form to try it, and the same call for curl, Python
and JavaScript.
<a href="/docs#errors">Errors</a> have one form. How-tos and reference: the
<a href="/docs/guide/">guide</a>. The description itself: <a href="/openapi.json">openapi.json</a></p>
<div class="tools">
<label for="filter">Filter the calls</label>
<input id="filter" type="search" autocomplete="off" placeholder="such as: list runs">
<p id="count" role="status"></p>
<label for="key">API key (kept in this tab only)</label>
<input id="key" type="password" autocomplete="off">
</div>
</header>
<main><p class="empty">Loading the description…</p></main>
</body>
</html>
"""

# Furo sets styles on elements; its scripts are files of the site
GUIDE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
GUIDE_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".csv": "text/csv",
    ".ipynb": "application/json",
}
NOT_BUILT = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>LCL service: guide</title><link rel="stylesheet" href="/docs/docs.css"></head>
<body><main><h1>The guide is not built here</h1>
<p>Run <code>make docs</code> in the source tree and reload this page, or set <code>LCL_DOCS_DIR</code> to a folder with
a built site and restart the service. The same pages are Markdown files in <code>docs/</code>. The calls of the service
are described at <a href="/docs">/docs</a>.</p></main></body>
</html>
"""


@router.get("/")
def root() -> Response:
    return RedirectResponse("/docs")


@router.get("/docs")
def page() -> HTMLResponse:
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/docs.js")
def script() -> Response:
    return _static("docs.js", "text/javascript")


@router.get("/docs/docs.css")
def style() -> Response:
    return _static("docs.css", "text/css")


@router.get("/docs/guide")
def guide_without_slash() -> Response:
    return RedirectResponse("/docs/guide/")  # its links are relative to the folder


@router.get("/docs/guide/{path:path}")
def guide(request: Request, path: str) -> Response:
    """A file of the documentation site. Only files inside its folder with a type of the site are served."""
    root: Path = request.app.state.context.settings.docs_dir.expanduser().resolve()
    if not (root / "index.html").is_file():
        return HTMLResponse(NOT_BUILT, status_code=404, headers={"content-security-policy": POLICY})
    file = _find_guide_file(root, path or "index.html")
    if file is None:
        raise Problem(404, "not_found", f"the guide has no {path}; its pages are listed at /docs/guide/")
    headers = {"content-security-policy": GUIDE_POLICY, "cache-control": "private, max-age=60"}
    return Response(file.read_bytes(), media_type=GUIDE_TYPES[file.suffix], headers=headers)


def _find_guide_file(root: Path, path: str) -> Path | None:
    """None: there is no such file, or it is not one that may be served."""
    try:
        file = resolve_allowed(root / path, [root])
    except UserError:  # also for names that no file can have
        return None
    return file if isinstance(file, Path) and file.is_file() and file.suffix in GUIDE_TYPES else None


def _static(name: str, media_type: str) -> Response:
    content = (resources.files("api") / "static" / name).read_text(encoding="utf-8")
    return Response(content, media_type=media_type)
