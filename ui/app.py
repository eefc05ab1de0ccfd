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
from ui.html import esc
from ui.settings import UiSettings
from ui.tabs.caption import CaptionTab
from ui.tabs.documents import DocumentsTab
from ui.tabs.embed import EmbedTab
from ui.tabs.encoders import EncodersTab
from ui.tabs.runs import RunsTab
from ui.tabs.search import SearchTab
from ui.theme import build_theme

HERE = Path(__file__).parent
TITLE = "LCL · Latent Compression Learning"
PLACES: dict[str, type[Place]] = {
    "search": SearchTab,
    "caption": CaptionTab,
    "embed": EmbedTab,
    "documents": DocumentsTab,
    "runs": RunsTab,
    "encoders": EncodersTab,
}
MARK = """<svg class="lcl-mark" viewBox="0 0 40 40" aria-hidden="true">
<rect x="3" y="5" width="14" height="14" rx="3"/><path d="M21 8h16M21 15h11"/>
<path d="M3 26h11M3 33h16"/><circle cx="30" cy="29" r="7"/></svg>"""
TAGLINE = "Vision encoders learned from documents of pictures and text: search, caption, embed, train."
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


def build_page(client: Client) -> gr.Blocks:
    """All tabs on one page; each refreshes itself when it is entered."""
    tabs = {name: place(client) for name, place in PLACES.items()}
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86_400)) as page:
        with gr.Row(elem_id="top"):
            gr.HTML(HEADER, apply_default_css=False)
            pill = gr.HTML(apply_default_css=False, elem_id="service")
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
    page.queue(default_concurrency_limit=16)
    return page


def build_app(client: Client, settings: UiSettings | None = None) -> FastAPI:
    """The page as an ASGI application, with the files it serves beside it."""
    settings = settings or UiSettings()
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(files.build_router(client))
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        app,
        build_page(client),
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
    """``?tab=embed`` opens that tab, ``?run=ID`` the one with runs."""
    wanted = "runs" if "run" in request.query_params else request.query_params.get("tab", "")
    return gr.Tabs(selected=wanted) if wanted in PLACES else gr.skip()


def _pill(kind: str, word: str, detail: str) -> str:
    more = f"<span>{esc(detail)}</span>" if detail else ""
    return f'<p class="lcl-pill lcl-pill--{kind}" role="status"><i aria-hidden="true"></i><b>{esc(word)}</b>{more}</p>'
