"""The page: header, tabs, and what they share."""

from __future__ import annotations

import os
from pathlib import Path

# Before gradio is imported: nothing is reported to anyone and nothing is fetched.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI

from api.client import ApiError, Client
from ui import files
from ui.common import QUIET, Place
from ui.gate import Gate
from ui.headers import PageHeaders
from ui.html import MARK, TAGLINE, esc
from ui.login import build_login, draw_visitor
from ui.origins import OwnOrigin
from ui.settings import UiSettings
from ui.tabs.caption import CaptionTab
from ui.tabs.compare import CompareTab
from ui.tabs.documents import DocumentsTab
from ui.tabs.embed import EmbedTab
from ui.tabs.encoders import EncodersTab
from ui.tabs.runs import RunsTab
from ui.tabs.search import SearchTab
from ui.tabs.studies import StudiesTab
from ui.theme import build_theme
from ui.visitors import Visitors

HERE = Path(__file__).parent
TITLE = "LCL · Latent Compression Learning"
PLACES: dict[str, type[Place]] = {
    "search": SearchTab,
    "caption": CaptionTab,
    "embed": EmbedTab,
    "documents": DocumentsTab,
    "runs": RunsTab,
    "studies": StudiesTab,
    "encoders": EncodersTab,
    "compare": CompareTab,
}
LINKS = {  # what an address names -> the tab that shows it
    "run": "runs", "study": "studies", "collection": "search", "q": "search", "item": "search",
}  # fmt: skip
HEADER = f'<header class="lcl-header">{MARK}<div><h1>LCL</h1><p>{TAGLINE}</p></div></header>'
THEME_SWITCH = """<button type="button" class="lcl-theme" data-lcl-theme aria-label="Switch between light and dark">
<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8.5"/>
<path d="M12 3.5a8.5 8.5 0 0 1 0 17z"/></svg></button>"""


def service_state(client: Client) -> str:
    """One line under the title: does the service answer, and are its jobs consumed?"""
    try:
        health = client.health()
    except ApiError as error:
        return _pill("down", "Service unreachable", error.message)
    if health.get("ready"):
        return _pill("up", "Service ready", "")
    bad = [f"{name}: {check.get('detail', '')}" for name, check in health.get("checks", {}).items() if not check["ok"]]
    return _pill("part", "Service not ready", "; ".join(bad))


def build_page(client: Client, visitors: Visitors | None = None) -> gr.Blocks:
    """All tabs on one page; each refreshes itself when it is entered. With ``visitors`` it says who is signed in."""
    tabs = {name: place(client) for name, place in PLACES.items()}
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86_400)) as page:
        with gr.Row(elem_id="top"):
            gr.HTML(HEADER, apply_default_css=False)
            pill = gr.HTML(apply_default_css=False, elem_id="service")
            visitor = gr.HTML(apply_default_css=False, elem_id="visitor", visible=visitors is not None)
            gr.HTML(THEME_SWITCH, apply_default_css=False, elem_id="theme")
        with gr.Tabs(elem_classes="lcl-tabs", selected="search", overflow_behavior="wrap") as bar:
            places = [_built(name, tab) for name, tab in tabs.items()]
        for tab, place in zip(tabs.values(), places, strict=True):
            # Out here: whatever is made between two tabs would count as one.
            tab.wire(page, place)
        clock = gr.Timer(20)
        for event in (page.load, clock.tick):
            event(lambda: service_state(client), outputs=pill, **QUIET)
        page.load(_wanted_tab, outputs=bar, **QUIET)
        if visitors:
            page.load(lambda: draw_visitor(visitors), outputs=visitor, **QUIET)
    return page


def build_app(client: Client, settings: UiSettings | None = None, visitors: Visitors | None = None) -> FastAPI:
    """The page as an ASGI application, with the files it serves beside it.

    With ``visitors`` one signs in first; ``client`` must then ask with their keys (``OwnKey``).
    """
    settings = settings or UiSettings()
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(files.build_router(client, visitors))
    if visitors:
        app.include_router(build_login(client, visitors))
        app.add_middleware(Gate, visitors=visitors)
    app.add_middleware(OwnOrigin)
    app.add_middleware(PageHeaders)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        app,
        build_page(client, visitors),
        path="/",
        root_path=settings.root_path or None,
        theme=build_theme(),
        css_paths=HERE / "style.css",
        head=f'<meta name="description" content="{esc(TITLE)}"><script>{script}</script>',
        favicon_path=str(HERE / "favicon.svg"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size=settings.max_upload,
        show_error=False,
    )


def _built(name: str, tab: Place) -> gr.Tab:
    with gr.Tab(tab.title, id=name, elem_id=f"tab-{name}") as place:
        tab.build()
    return place


def _wanted_tab(request: gr.Request) -> gr.Tabs:
    """``?tab=embed`` opens that tab; without one ``?run=ID`` the one with runs, ``?item=ID`` the one that searches …"""
    linked = next((tab for name, tab in LINKS.items() if name in request.query_params), "")
    wanted = request.query_params.get("tab", linked)
    return gr.Tabs(selected=wanted) if wanted in PLACES else gr.skip()


def _pill(kind: str, word: str, detail: str) -> str:
    more = f"<span>{esc(detail)}</span>" if detail else ""
    return f'<p class="lcl-pill lcl-pill--{kind}" role="status"><i aria-hidden="true"></i><b>{esc(word)}</b>{more}</p>'
