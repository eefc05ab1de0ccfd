"""The page: header, tabs, and what they share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# Before gradio is imported: nothing is reported to anyone and nothing is fetched.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from api.client import ApiError, Client
from ui.access_token import SECONDS, PrintedAddress, build_signed_in
from ui.common import QUIET, Place
from ui.event_files import EventFiles
from ui.files import build_router
from ui.gate import Entry, Gate, SignIn
from ui.headers import PageHeaders
from ui.host_check import HostCheck, parse_hosts
from ui.html import MARK, TAGLINE, esc
from ui.login import build_login, draw_visitor
from ui.origins import OwnOrigin
from ui.page_routes import PageRoutes
from ui.session_files import SessionFiles
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
from ui.token_file import default_home, kept_token
from ui.uploads import build_uploads
from ui.visitors import Visitors

HERE = Path(__file__).parent
TITLE = "LCL · Latent Compression Learning"
SWEEP_SECONDS = 60.0
MOST_PAGES = 500  # open pages whose state Gradio keeps, half a MB each; the longest unused give way
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

    With ``visitors`` (a team) one signs in first; ``client`` must then ask with their keys (``OwnKey``). Without, the
    page opens with the token of the settings; ``None`` there is the one that is kept in the home folder.
    """
    settings = settings or UiSettings()
    sessions = visitors or Visitors(SECONDS)
    root = Path(get_upload_folder())
    files = SessionFiles(root, settings.upload_bounds, is_open=lambda session: sessions.find(session) is not None)
    page = build_page(client, visitors)
    app = FastAPI(
        title=TITLE, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: _sweeping(sessions)
    )
    app.include_router(build_router(client, visitors))
    app.include_router(build_signed_in(sessions))
    app.include_router(build_uploads(files, sessions))
    if visitors:
        app.include_router(build_login(client, visitors))
    _guard(app, page, sessions, files, SignIn() if visitors else PrintedAddress(sessions, _token(settings)))
    hosts = parse_hosts(settings.hosts)
    app.add_middleware(OwnOrigin, hosts=hosts)
    app.add_middleware(HostCheck, hosts=hosts, any_host=visitors is not None)
    app.add_middleware(PageHeaders)
    return _mounted(app, page, settings)


def _guard(app: FastAPI, page: gr.Blocks, sessions: Visitors, files: SessionFiles, entry: Entry) -> None:
    """From within: what events may bring along, which routes there are, who may ask at all."""
    events = {number for number, event in page.fns.items() if event.fn is not None}
    app.add_middleware(
        EventFiles, files=files, visitors=sessions, events=events, forget=lambda name: _forget(page, name)
    )
    app.add_middleware(PageRoutes, sign_in=isinstance(entry, SignIn))
    app.add_middleware(Gate, visitors=sessions, entry=entry)


def _mounted(app: FastAPI, page: gr.Blocks, settings: UiSettings) -> FastAPI:
    page.state_session_capacity = MOST_PAGES
    script = (HERE / "page.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        page,
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
    # Gradio looks whether an event's file was uploaded only in a page that was launched, which mounting does not say.
    page.has_launched = True
    return app


@asynccontextmanager
async def _sweeping(sessions: Visitors) -> AsyncIterator[None]:
    """While the page is served, sessions whose time is over end, and their files with them."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await asyncio.to_thread(sessions.sweep)

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()


def _forget(page: gr.Blocks, name: str) -> None:
    """Drop what Gradio keeps for one open page."""
    holder = page.state_holder
    with holder.lock:
        holder.session_data.pop(name, None)
        holder.time_last_used.pop(name, None)


def _token(settings: UiSettings) -> str:
    return settings.token if settings.token is not None else kept_token(default_home())


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
