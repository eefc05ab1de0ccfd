"""The application: routes on a context, inside the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI

import lcl_core
from api import docs, errors
from api.census import Census
from api.context import Context
from api.middleware import Envelope, HeaderGuard
from api.request_bodies import AuthenticatedBodies
from api.routes import ROUTERS
from api.settings import ApiSettings


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """A REST application on ``settings`` (default: from the environment). Nothing is opened before it starts."""
    settings = settings or ApiSettings()
    context = Context(settings)
    app = FastAPI(
        title="LCL service",
        version=lcl_core.__version__,
        docs_url=None,  # FastAPI's own pages load from a CDN; api.docs serves one that does not
        redoc_url=None,
        redirect_slashes=False,  # the address to redirect to would be made of the request's own Host
        lifespan=_lifespan,
    )
    app.state.context = context
    errors.install(app)
    for router in (*ROUTERS, docs.router):
        app.router.routes.extend(router.routes)  # FastAPI looks into included routers anew with each request, twice
    app.add_middleware(AuthenticatedBodies, context=context)
    app.add_middleware(HeaderGuard)
    app.add_middleware(Envelope, observe=context.telemetry.observe, home=settings.home)  # added last: outermost
    context.telemetry.watch(Census(context.database))
    context.telemetry.watch_places(context.throttle.held)
    context.telemetry.watch_bodies(lambda: context.bodies.held)
    context.telemetry.watch_encoders(context.encoder_bytes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    await to_thread.run_sync(context.prepare)
    yield
    await to_thread.run_sync(context.close)

