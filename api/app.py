"""The application: routes on a state, inside the middleware."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute

import lcl_core
from api.core.errors import install_error_handlers
from api.core.middleware import AuthenticationMiddleware, RequestContextMiddleware
from api.core.settings import ApiSettings
from api.routes import (
    admin,
    collections,
    datasets,
    docs,
    encoders,
    health,
    inference,
    runs,
    studies,
    uploads,
)
from api.services.search import warm_next_encoder
from api.services.state import AppState
from lcl_core.db import garbage
from lcl_core.db.artifacts import Artifacts, upload_next
from lcl_core.db.session import Database
from lcl_core.db.workers import PeriodicTask

WARM_SECONDS = 5.0  # between two queries for new collections
UPLOAD_SECONDS = 2.0  # between two queries for uploads that are due

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
    admin.keys_router,
    admin.webhooks_router,
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
    app.add_middleware(AuthenticationMiddleware, authenticator=state.authenticator, rate_limiter=state.rate_limiter)
    app.add_middleware(RequestContextMiddleware, observe=state.metrics.observe, home=settings.home)  # outermost
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AppState = app.state.context
    await to_thread.run_sync(state.prepare)
    tasks = home_tasks(state.database, state.settings, state.artifacts)
    if state.settings.warm_encoders:
        tasks.append(warmup_task(state))
    for task in tasks:
        task.start()
    yield
    for task in tasks:
        await to_thread.run_sync(task.stop)
    await to_thread.run_sync(state.close)


def warmup_task(state: AppState) -> PeriodicTask:
    """Encoders of collections get into memory before the first search needs them."""
    return PeriodicTask("lcl-warmup", partial(warm_next_encoder, state, set()), WARM_SECONDS, join_seconds=5.0)


def home_tasks(database: Database, settings: ApiSettings, artifacts: Artifacts) -> list[PeriodicTask]:
    """Uploads and garbage of this home, which may have no worker; none without an artifact store.

    Several processes may have one home: each upload is claimed in the database.
    """
    if artifacts.holder is None:
        return []
    send = partial(upload_next, database, artifacts)
    collect = partial(garbage.collect_garbage, database, settings, artifacts)
    return [
        PeriodicTask("lcl-uploads", send, UPLOAD_SECONDS, join_seconds=5.0),
        PeriodicTask("lcl-garbage", collect, garbage.ROUND_SECONDS, delayed=True, join_seconds=0.0),
    ]
