"""The API's own description at ``/docs``, and the documentation site at ``/docs/guide``: no CDN, no inline script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from api.core.errors import Problem

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parents[1] / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
)
# Furo sets styles on elements; its scripts are files of the site
GUIDE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
GUIDE_LINE = 'How-tos and reference: the <a href="/docs/guide/">guide</a>.\n'  # of docs.html


class SiteFiles(StaticFiles):
    """Files of a folder with a content security policy. A folder that is not there has no files."""

    def __init__(self, directory: Path, policy: str) -> None:
        super().__init__(directory=directory, html=True, check_dir=False)
        self._headers = {"content-security-policy": policy, "cache-control": "private, max-age=60"}

    async def check_config(self) -> None:
        """A site that is not built is no error."""

    def file_response(self, *arguments: Any, **more: Any) -> Response:
        response = super().file_response(*arguments, **more)
        response.headers.update(self._headers)
        return response


def mount_documentation(app: FastAPI, guide: Path) -> None:
    """After the routes, which come first. ``guide``: folder of the site."""
    app.mount("/docs/guide", SiteFiles(guide, GUIDE_POLICY))
    app.mount("/docs", SiteFiles(STATIC, POLICY))


@router.get("/")
def root() -> Response:
    return RedirectResponse("/docs")


@router.get("/docs")
def page(request: Request) -> Response:
    text = (STATIC / "docs.html").read_text(encoding="utf-8")
    if not _has_guide(request):
        text = text.replace(GUIDE_LINE, "")
    return HTMLResponse(text, headers={"content-security-policy": POLICY})


@router.get("/docs/guide")
def guide_without_slash(request: Request) -> Response:
    """The site's links are relative to the folder."""
    if not _has_guide(request):
        message = "the guide is not built here: run `make docs` in the source tree, or set LCL_DOCS_DIR to a built site"
        raise Problem(404, "not_found", message)
    return RedirectResponse("/docs/guide/")


def _has_guide(request: Request) -> bool:
    return bool((request.app.state.context.settings.docs_dir / "index.html").is_file())
