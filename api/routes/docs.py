"""The API's own description at ``/docs``. Everything comes from this package: no CDN, no inline script."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

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
<p>Every call with its parameters, fields and responses, a form to try it, and the same call for curl and Python.
<a href="/docs#errors">Errors</a> have one form. The description itself: <a href="/openapi.json">openapi.json</a></p>
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


@router.get("/docs")
def page() -> HTMLResponse:
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/docs.js")
def script() -> Response:
    return _static("docs.js", "text/javascript")


@router.get("/docs/docs.css")
def style() -> Response:
    return _static("docs.css", "text/css")


def _static(name: str, media_type: str) -> Response:
    content = (resources.files("api") / "static" / name).read_text(encoding="utf-8")
    return Response(content, media_type=media_type)
