"""The page as an ASGI application: theme, header, tabs, middleware, routes beside the page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from api.client import ApiError, Client
from ui.auth import (
    TOKEN_SESSION_SECONDS,
    ApiKeySignIn,
    AuthMiddleware,
    SignInMethod,
    TokenSignIn,
    build_login_routes,
    build_session_check,
    draw_user,
)
from ui.common import SILENT_EVENT, PageTab
from ui.event_files import EventFileMiddleware
from ui.file_routes import build_file_routes
from ui.html import LOGO_SVG, TAGLINE, esc
from ui.security import CsrfMiddleware, HostMiddleware, RouteAllowlistMiddleware, SecurityHeadersMiddleware, parse_hosts
from ui.session_files import SessionFiles
from ui.sessions import SessionStore
from ui.settings import UiSettings
from ui.tabs.caption import CaptionTab
from ui.tabs.documents import DocumentsTab
from ui.tabs.embed import EmbedTab
from ui.tabs.encoder_comparison import CompareTab
from ui.tabs.encoders import EncodersTab
from ui.tabs.runs import RunsTab
from ui.tabs.search import SearchTab
from ui.tabs.studies import StudiesTab
from ui.token_file import default_home, load_or_create_token
from ui.uploads import build_upload_routes

SANS_FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
# Names of gradio's theme variables; the twin with _dark is the dark mode's.
THEME_VARIABLES = {
    "body_background_fill": "#f6f7f9",
    "body_background_fill_dark": "#0c1118",
    "body_text_color": "*neutral_800",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "background_fill_primary": "white",
    "background_fill_primary_dark": "#131a23",
    "background_fill_secondary": "*neutral_50",
    "background_fill_secondary_dark": "#18212c",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "#263241",
    "block_background_fill": "white",
    "block_background_fill_dark": "#131a23",
    "block_border_width": "1px",
    "block_border_color": "*neutral_200",
    "block_border_color_dark": "#263241",
    "block_shadow": "none",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_border_width": "0px",
    "block_label_text_color": "*neutral_600",
    "block_label_text_color_dark": "*neutral_300",
    "block_title_text_color": "*neutral_700",
    "block_title_text_color_dark": "*neutral_200",
    "block_title_text_weight": "500",
    "block_title_text_size": "*text_sm",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_400",
    "input_background_fill": "white",
    "input_background_fill_dark": "#0f151d",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "#324156",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_400",
    "input_border_width": "1px",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_600",
    "button_primary_text_color": "white",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_dark": "#1b2532",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_hover_dark": "#243143",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "#324156",
    "button_secondary_text_color": "*neutral_800",
    "button_secondary_text_color_dark": "*neutral_100",
    "button_border_width": "1px",
    "button_primary_border_color": "transparent",
    "button_large_padding": "9px 18px",
    "button_large_text_size": "*text_md",
    "button_large_text_weight": "600",
    "button_small_text_weight": "500",
    "slider_color": "*primary_600",
    "slider_color_dark": "*primary_400",
    "checkbox_background_color_selected": "*primary_700",
    "checkbox_background_color_selected_dark": "*primary_500",
    "checkbox_border_color_selected": "*primary_700",
    "checkbox_label_background_fill_selected": "*primary_50",
    "checkbox_label_background_fill_selected_dark": "#12312f",
    "checkbox_label_border_color_selected": "*primary_600",
    "checkbox_label_border_color_selected_dark": "*primary_500",
    "checkbox_label_text_color_selected": "*primary_900",
    "checkbox_label_text_color_selected_dark": "*primary_100",
}


def build_theme() -> gr.themes.Base:
    """A quiet light theme with its dark twin; ``style.css`` builds on the same variables."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.amber,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS_FONTS,
        font_mono=MONO_FONTS,
    )
    return theme.set(**THEME_VARIABLES)


# Before gradio is imported: nothing is reported to anyone and nothing is fetched.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

HERE = Path(__file__).parent
TITLE = "LCL · Latent Compression Learning"
SWEEP_SECONDS = 60.0
MAX_PAGE_STATES = 500  # open pages whose state Gradio keeps, half a MB each; the longest unused give way
TABS: dict[str, type[PageTab]] = {
    "search": SearchTab,
    "caption": CaptionTab,
    "embed": EmbedTab,
    "documents": DocumentsTab,
    "runs": RunsTab,
    "studies": StudiesTab,
    "encoders": EncodersTab,
    "compare": CompareTab,
}
TAB_OF_PARAMETER = {  # what an address names -> the tab that shows it
    "run": "runs", "study": "studies", "collection": "search", "q": "search", "item": "search",
}  # fmt: skip
HEADER = f'<header class="lcl-header">{LOGO_SVG}<div><h1>LCL</h1><p>{TAGLINE}</p></div></header>'
THEME_SWITCH = """<button type="button" class="lcl-theme" data-lcl-theme aria-label="Switch between light and dark">
<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8.5"/>
<path d="M12 3.5a8.5 8.5 0 0 1 0 17z"/></svg></button>"""


def service_status(client: Client) -> str:
    """One line under the title: does the service answer, and are its jobs consumed?"""
    try:
        health = client.health()
    except ApiError as error:
        return _status_pill("down", "Service unreachable", error.message)
    if health.get("ready"):
        return _status_pill("up", "Service ready", "")
    bad = [f"{name}: {check.get('detail', '')}" for name, check in health.get("checks", {}).items() if not check["ok"]]
    return _status_pill("part", "Service not ready", "; ".join(bad))


def build_page(client: Client, visitors: SessionStore | None = None) -> gr.Blocks:
    """All tabs on one page; each refreshes itself when it is entered. With ``visitors`` it says who is signed in."""
    tabs = {name: place(client) for name, place in TABS.items()}
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86_400)) as page:
        with gr.Row(elem_id="top"):
            gr.HTML(HEADER, apply_default_css=False)
            pill = gr.HTML(apply_default_css=False, elem_id="service")
            visitor = gr.HTML(apply_default_css=False, elem_id="visitor", visible=visitors is not None)
            gr.HTML(THEME_SWITCH, apply_default_css=False, elem_id="theme")
        with gr.Tabs(elem_classes="lcl-tabs", selected="search", overflow_behavior="wrap") as bar:
            places = [_build_tab(name, tab) for name, tab in tabs.items()]
        for tab, place in zip(tabs.values(), places, strict=True):
            # Out here: whatever is made between two tabs would count as one.
            tab.wire(page, place)
        clock = gr.Timer(20)
        for event in (page.load, clock.tick):
            event(lambda: service_status(client), outputs=pill, **SILENT_EVENT)
        page.load(_linked_tab, outputs=bar, **SILENT_EVENT)
        if visitors:
            page.load(lambda: draw_user(visitors), outputs=visitor, **SILENT_EVENT)
    return page


def build_app(client: Client, settings: UiSettings | None = None, visitors: SessionStore | None = None) -> FastAPI:
    """The page as an ASGI application, with the files it serves beside it.

    With ``visitors`` (a team) one signs in first; ``client`` must then ask with their keys (``OwnKey``). Without, the
    page opens with the token of the settings; ``None`` there is the one that is kept in the home folder.
    """
    settings = settings or UiSettings()
    sessions = visitors or SessionStore(TOKEN_SESSION_SECONDS)
    root = Path(get_upload_folder())
    files = SessionFiles(root, settings.upload_bounds, is_open=lambda session: sessions.find(session) is not None)
    page = build_page(client, visitors)
    app = FastAPI(
        title=TITLE, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: _sweep_sessions(sessions)
    )
    app.include_router(build_file_routes(client, visitors))
    app.include_router(build_session_check(sessions))
    app.include_router(build_upload_routes(files, sessions))
    if visitors:
        app.include_router(build_login_routes(client, visitors))
    _add_session_middleware(
        app, page, sessions, files, ApiKeySignIn() if visitors else TokenSignIn(sessions, _token(settings))
    )
    hosts = parse_hosts(settings.hosts)
    app.add_middleware(CsrfMiddleware, hosts=hosts)
    app.add_middleware(HostMiddleware, hosts=hosts, any_host=visitors is not None)
    app.add_middleware(SecurityHeadersMiddleware)
    return _mount_page(app, page, settings)


def _add_session_middleware(
    app: FastAPI, page: gr.Blocks, sessions: SessionStore, files: SessionFiles, entry: SignInMethod
) -> None:
    """From within: what events may bring along, which routes there are, who may ask at all."""
    events = {number for number, event in page.fns.items() if event.fn is not None}
    app.add_middleware(
        EventFileMiddleware,
        files=files,
        visitors=sessions,
        events=events,
        forget=lambda name: _drop_page_state(page, name),
    )
    app.add_middleware(RouteAllowlistMiddleware, sign_in=isinstance(entry, ApiKeySignIn))
    app.add_middleware(AuthMiddleware, visitors=sessions, entry=entry)


def _mount_page(app: FastAPI, page: gr.Blocks, settings: UiSettings) -> FastAPI:
    page.state_session_capacity = MAX_PAGE_STATES
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
async def _sweep_sessions(sessions: SessionStore) -> AsyncIterator[None]:
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


def _drop_page_state(page: gr.Blocks, name: str) -> None:
    """Drop what Gradio keeps for one open page."""
    holder = page.state_holder
    with holder.lock:
        holder.session_data.pop(name, None)
        holder.time_last_used.pop(name, None)


def _token(settings: UiSettings) -> str:
    return settings.token if settings.token is not None else load_or_create_token(default_home())


def _build_tab(name: str, tab: PageTab) -> gr.Tab:
    with gr.Tab(tab.title, id=name, elem_id=f"tab-{name}") as place:
        tab.build()
    return place


def _linked_tab(request: gr.Request) -> gr.Tabs:
    """``?tab=embed`` opens that tab; without one ``?run=ID`` the one with runs, ``?item=ID`` the one that searches …"""
    linked = next((tab for name, tab in TAB_OF_PARAMETER.items() if name in request.query_params), "")
    wanted = request.query_params.get("tab", linked)
    return gr.Tabs(selected=wanted) if wanted in TABS else gr.skip()


def _status_pill(kind: str, word: str, detail: str) -> str:
    more = f"<span>{esc(detail)}</span>" if detail else ""
    return f'<p class="lcl-pill lcl-pill--{kind}" role="status"><i aria-hidden="true"></i><b>{esc(word)}</b>{more}</p>'
