"""The application: routes on a context, inside the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI

import lcl_core
from api.core import errors
from api.core.metrics import DatabaseCollector
from api.core.middleware import HeaderCheckMiddleware, RequestContextMiddleware
from api.core.request_bodies import AuthenticatedBodyMiddleware
from api.core.settings import ApiSettings
from api.core.state import AppState
from api.routes import ROUTERS, docs


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """A REST application on ``settings`` (default: from the environment). Nothing is opened before it starts."""
    settings = settings or ApiSettings()
    context = AppState(settings)
    app = FastAPI(
        title="LCL service",
        version=lcl_core.__version__,
        docs_url=None,  # FastAPI's own pages load from a CDN; api.routes.docs serves one that does not
        redoc_url=None,
        redirect_slashes=False,  # the address to redirect to would be made of the request's own Host
        lifespan=_lifespan,
    )
    app.state.context = context
    errors.install_error_handlers(app)
    for router in (*ROUTERS, docs.router):
        app.router.routes.extend(router.routes)  # FastAPI looks into included routers anew with each request, twice
    app.add_middleware(AuthenticatedBodyMiddleware, context=context)
    app.add_middleware(HeaderCheckMiddleware)
    app.add_middleware(
        RequestContextMiddleware, observe=context.metrics.observe, home=settings.home
    )  # added last: outermost
    context.metrics.register(DatabaseCollector(context.database))
    context.metrics.export_slots(context.rate_limiter.in_use)
    context.metrics.export_body_bytes(lambda: context.bodies.in_use)
    context.metrics.export_encoder_bytes(context.encoder_bytes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: AppState = app.state.context
    await to_thread.run_sync(context.prepare)
    yield
    await to_thread.run_sync(context.close)
