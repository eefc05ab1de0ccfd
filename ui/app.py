"""The page as an ASGI application: theme, header, tabs, middleware, routes beside the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from anyio import CapacityLimiter
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from api.client import ApiError, Client
from ui.addresses import FIRST_TAB, browser_settings, navigation_script
from ui.auth import TOKEN_SESSION_SECONDS, AuthMiddleware, SignIn, build_login_routes, draw_user
from ui.common import SILENT_EVENT, PageTab, html_pane
from ui.event_files import EventFileMiddleware
from ui.file_routes import build_file_routes, error_response
from ui.html import LOGO_SVG, esc
from ui.security import GuardMiddleware, parse_hosts
from ui.session_files import SessionFiles
from ui.sessions import SessionKeyAuth, SessionStore
from ui.settings import UiSettings, default_home, load_or_create_token
from ui.tabs.data import DataTab
from ui.tabs.encoders import EncodersTab
from ui.tabs.map import MapTab
from ui.tabs.playground import PlaygroundTab
from ui.tabs.runs import RunsTab
from ui.tabs.search import SearchTab
from ui.tabs.service import ServiceTab
from ui.uploads import build_upload_routes

SANS_FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
# Theme variables of Gradio that differ from its own: name -> value, or (light, dark).
THEME_VARIABLES: dict[str, str | tuple[str, str]] = {
    "body_background_fill": ("#f6f7f9", "#0c1118"),
    "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
    "background_fill_primary": ("white", "#131a23"),
    "background_fill_secondary": ("*neutral_50", "#18212c"),
    "border_color_primary": ("*neutral_200", "#263241"),
    "block_background_fill": ("white", "#131a23"),
    "block_border_color": ("*neutral_200", "#263241"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_border_width": "0px",
    "block_label_text_color": ("*neutral_600", "*neutral_300"),
    "block_title_text_color": ("*neutral_700", "*neutral_200"),
    "block_title_text_weight": "500",
    "block_title_text_size": "*text_sm",
    "block_info_text_color": ("*neutral_600", "*neutral_400"),
    "input_background_fill": ("white", "#0f151d"),
    "input_border_color": ("*neutral_300", "#324156"),
    "input_border_color_focus": ("*primary_600", "*primary_400"),
    "input_border_width": "1px",
    "input_placeholder_color": ("*neutral_500", "*neutral_400"),
    "button_primary_background_fill": ("*primary_700", "*primary_700"),
    "button_primary_background_fill_hover": ("*primary_800", "*primary_600"),
    "button_secondary_background_fill": ("white", "#1b2532"),
    "button_secondary_background_fill_hover": ("*neutral_100", "#243143"),
    "button_secondary_border_color": ("*neutral_300", "#324156"),
    "button_secondary_text_color": ("*neutral_800", "*neutral_100"),
    "button_border_width": "1px",
    "button_primary_border_color": "transparent",
    "button_large_padding": "9px 18px",
    "button_large_text_size": "*text_md",
    "button_small_text_weight": "500",
    "slider_color": ("*primary_600", "*primary_400"),
    "checkbox_background_color_selected": ("*primary_700", "*primary_500"),
    "checkbox_border_color_selected": "*primary_700",
    "checkbox_label_background_fill_selected": ("*primary_50", "#12312f"),
    "checkbox_label_border_color_selected": ("*primary_600", "*primary_500"),
    "checkbox_label_text_color_selected": ("*primary_900", "*primary_100"),
}


def build_theme() -> gr.themes.Base:
    """Light and dark theme; ``style.css`` uses the same variables."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.amber,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS_FONTS,
        font_mono=MONO_FONTS,
    )
    variables: dict[str, str] = {}
    for name, value in THEME_VARIABLES.items():
        variables[name] = value if isinstance(value, str) else value[0]
        if not isinstance(value, str):
            variables[f"{name}_dark"] = value[1]
    return theme.set(**variables)


HERE = Path(__file__).parent
GUIDE_LINK = '<a href="docs/guide/" target="_blank" rel="noopener">Guide</a>'
TITLE = "LCL · Latent Compression Learning"
CLEANUP_SECONDS = 60.0
MAX_PAGE_STATES = 4000  # open pages whose state Gradio keeps; least recently used first out
EVENT_THREADS = 40
QUEUE_POLL_SECONDS = 1.0
TABS: dict[str, type[PageTab]] = {
    "search": SearchTab,
    "map": MapTab,
    "try": PlaygroundTab,
    "data": DataTab,
    "runs": RunsTab,
    "encoders": EncodersTab,
    "service": ServiceTab,
}
HEADER = f'<header class="lcl-header">{LOGO_SVG}<h1>LCL</h1></header>'
# Shown instead of the state of the service while a call hangs (page.js).
SLOW_PILL = '<p class="lcl-pill lcl-pill--part" role="status" hidden><i aria-hidden="true"></i><b>Slow</b></p>'


def draw_menu(client: Client) -> str:
    """The menu beside the tabs: documentation site, colours, and the user of a team."""
    return (
        '<button type="button" class="lcl-menu-button" popovertarget="lcl-menu" aria-label="Menu">☰</button>'
        f'<div id="lcl-menu" popover>{draw_user()}<button type="button" data-lcl-theme>Light or dark</button>'
        f"{GUIDE_LINK if _has_guide(client) else ''}</div>"
    )


def _has_guide(client: Client) -> bool:
    """Whether the service has a documentation site, as after ``make docs``."""
    try:
        client.guide_file()
    except ApiError:
        return False
    return True


def service_status(client: Client) -> str:
    """Line under the title: whether the service answers and is ready."""
    try:
        health = client.health()
    except ApiError as error:
        return _status_pill("down", "Unreachable", error.message)
    if health.get("ready"):
        return _status_pill("up", "Ready", "")
    bad = [f"{name}: {check.get('detail', '')}" for name, check in health.get("checks", {}).items() if not check["ok"]]
    return _status_pill("part", "Not ready", "; ".join(bad))


def build_page(client: Client) -> gr.Blocks:
    """All tabs on one page; each refreshes when it is opened."""
    tabs = {name: tab_class(client) for name, tab_class in TABS.items()}
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86_400)) as page:
        with gr.Row(elem_id="top"):
            html_pane(HEADER)
            status = html_pane(elem_id="service")
            html_pane(SLOW_PILL, elem_id="service-slow")
            menu = html_pane(elem_id="menu")
        with gr.Tabs(elem_classes="lcl-tabs", selected=FIRST_TAB, overflow_behavior="wrap"):
            items = []
            for name, tab in tabs.items():
                with gr.Tab(name.title(), id=name, elem_id=f"tab-{name}") as item:
                    tab.build()
                items.append(item)
        # outside of gr.Tabs, where every new component counts as a tab
        for (name, tab), item in zip(tabs.items(), items, strict=True):
            tab.wire(page, item, html_pane(js_on_load=navigation_script(name), elem_id=f"navigate-{name}"))
        page.load(lambda: (service_status(client), draw_menu(client)), outputs=[status, menu], **SILENT_EVENT)
        gr.Timer(20).tick(lambda: service_status(client), outputs=status, **SILENT_EVENT)
    return page


def create_app() -> FastAPI:
    """The application of ``python -m ui``; settings, address and key of the service from the environment."""
    settings = UiSettings()
    team = SessionStore(settings.session_hours * 3600) if settings.team else None
    return build_app(Client(key=SessionKeyAuth(team) if team else None, attempts=2), settings, team)


def build_app(client: Client, settings: UiSettings | None = None, team: SessionStore | None = None) -> FastAPI:
    """The page with its routes for files. Without ``team``, whose sessions sign in with API keys, a token opens it."""
    settings = settings or UiSettings()
    sessions = team or SessionStore(TOKEN_SESSION_SECONDS)
    files = SessionFiles(Path(get_upload_folder()), settings, sessions)
    page = build_page(client)
    app = FastAPI(
        title=TITLE, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: _close_expired(sessions)
    )
    app.exception_handler(ApiError)(error_response)
    app.include_router(build_file_routes(client))
    app.include_router(build_upload_routes(files))
    token = None
    if team is None:
        token = load_or_create_token(default_home()) if settings.token is None else settings.token
    sign_in = SignIn(client, sessions, token)
    app.include_router(build_login_routes(sign_in))
    hosts = parse_hosts(settings.hosts)
    # innermost first
    app.add_middleware(EventFileMiddleware, files=files, page=page)
    app.add_middleware(AuthMiddleware, sign_in=sign_in)
    app.add_middleware(GuardMiddleware, hosts=None if team and not hosts else hosts)
    return _mount_page(app, page, settings)


def _mount_page(app: FastAPI, page: gr.Blocks, settings: UiSettings) -> FastAPI:
    page.state_session_capacity = MAX_PAGE_STATES
    parts = [(HERE / name).read_text(encoding="utf-8") for name in ("page.js", "map_points.js", "map.js", "address.js")]
    script = "\n".join((browser_settings(), *parts))
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
    # Gradio checks that the files of an event were uploaded only if the page was launched; mounting does not set this.
    page.has_launched = True
    # Gradio looks for queued events 1,000 times a second, which costs 7 % of a core. No event of the page is queued.
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = QUEUE_POLL_SECONDS
    # Gradio copies the configuration of all components for each open page, half a MB and .1 s, for links that are
    # refused here (ui.security).
    page.state_holder.blocks = SimpleNamespace(default_config=page.default_config, blocks={})  # type: ignore[assignment]
    # A stream of each open page would only tell Gradio that it has closed; its states go with its session.
    page.config["connect_heartbeat"] = False
    page.limiter = CapacityLimiter(EVENT_THREADS)  # type: ignore[assignment] # of their own: no other request takes them
    return app


@asynccontextmanager
async def _close_expired(sessions: SessionStore) -> AsyncIterator[None]:
    """Lifespan: closes expired sessions, and with them their files, every ``CLEANUP_SECONDS``."""

    async def run() -> None:
        while True:
            await asyncio.sleep(CLEANUP_SECONDS)
            await asyncio.to_thread(sessions.close_expired)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()




def _status_pill(kind: str, word: str, detail: str) -> str:
    return (
        f'<p class="lcl-pill lcl-pill--{kind}" role="status" title="{esc(detail)}"><i aria-hidden="true"></i>'
        f"<b>{esc(word)}</b></p>"
    )
