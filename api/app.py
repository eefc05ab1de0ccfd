"""The application: routes on a state, inside the middleware."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute

import lcl_core
from api.core.errors import install_error_handlers, writable_folders
from api.core.metrics import DatabaseCollector
from api.core.middleware import AuthenticatedBodyMiddleware, RequestContextMiddleware
from api.core.settings import ApiSettings
from api.routes import (
    admin,
    collections,
    datasets,
    docs,
    encoders,
    health,
    inference,
    keys,
    runs,
    studies,
    uploads,
    webhooks,
)
from api.services.background import EncoderWarmup, home_tasks
from api.services.state import AppState
from lcl_core.db.workers import PeriodicTask

ROUTERS = (
    runs.router,
    runs.specs_router,
    studies.router,
    datasets.router,
    uploads.router,
    encoders.router,
    inference.router,
    collections.router,
    admin.workers_router,
    keys.router,
    webhooks.router,
    admin.audit_router,
    health.router,
)


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """The REST application on ``settings`` (default: from the environment). Opens nothing before its start-up."""
    settings = settings or ApiSettings()
    state = AppState(settings)
    app = FastAPI(
        title="LCL service",
        version=lcl_core.__version__,
        docs_url=None,  # FastAPI's own pages load from a CDN; api.routes.docs serves one that does not
        redoc_url=None,
        redirect_slashes=False,  # the redirect would contain the request's own Host
        lifespan=_lifespan,
    )
    app.state.context = state
    install_error_handlers(app)
    for router in (*ROUTERS, docs.router):
        app.router.routes.extend(router.routes)  # FastAPI would match included routers twice with each request
    docs.mount_documentation(app, settings.docs_dir.expanduser())
    for route in app.routes:
        if isinstance(route, APIRoute) and route.summary:
            route.operation_id = "_".join(re.findall("[a-z]+", route.summary.lower()))  # "List runs": list_runs
    app.add_middleware(
        AuthenticatedBodyMiddleware,
        authenticator=state.authenticator,
        rate_limiter=state.rate_limiter,
    )
    app.add_middleware(RequestContextMiddleware, observe=state.metrics.observe, home=settings.home)  # outermost
    state.metrics.register(DatabaseCollector(state.database))
    state.metrics.export_disks(writable_folders(settings))
    state.metrics.export_gauge("lcl_encoder_memory_bytes", "Memory that loaded encoders take", state.encoder_bytes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AppState = app.state.context
    await to_thread.run_sync(state.prepare)
    warmup = EncoderWarmup(state) if state.settings.warm_encoders else None
    tasks: list[PeriodicTask | EncoderWarmup] = [*home_tasks(state.database, state.settings, state.artifacts)]
    tasks += [warmup] if warmup else []
    for task in tasks:
        task.start()
    yield
    for task in tasks:
        await to_thread.run_sync(task.stop)
    await to_thread.run_sync(state.close)
