"""The application: routes, documentation and lifespan around one database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from seerdb.clock import Clock, SystemClock
from seerdb_api.database import open_database
from seerdb_api.keys import Keys
from seerdb_api.metrics import Metrics
from seerdb_api.openapi import DESCRIPTION, TAGS, component_schemas
from seerdb_api.port import Database
from seerdb_api.requests import RequestLog, RouteTable, answer_unrouted
from seerdb_api.routes import (
    admin,
    backups,
    batches,
    checkpoints,
    health,
    history,
    keys,
    ranges,
    replication,
)
from seerdb_api.service import Service
from seerdb_api.settings import ServiceSettings
from seerdb_api.standby import StandbyDatabase, watch

ROUTERS = (
    keys.router,
    ranges.router,
    batches.router,
    admin.router,
    replication.router,
    checkpoints.router,
    history.router,
    backups.router,
    health.router,
)


class App(FastAPI):
    """FastAPI, whose document also holds the schemas that our structs define."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document."""
        document = super().openapi()
        document["components"] = {"schemas": component_schemas()}
        return document


def create_app(
    settings: ServiceSettings, db: Database | None = None, *, clock: Clock | None = None
) -> App:
    """The application over ``db``, which stays the caller's to close.

    Without ``db`` the lifespan opens the database that ``settings`` name, and closes it. Nothing is
    opened before the lifespan starts. Wrap it in ``fast.FastPath`` to serve it.
    """
    service = Service(settings)
    metrics = Metrics(service)
    routes = RouteTable(ROUTERS)
    app = App(
        title="SeerDB",
        summary="A key-value database that lives in a bucket",
        description=DESCRIPTION,
        version=version("seerdb"),
        openapi_tags=TAGS,
        redirect_slashes=False,
        lifespan=partial(_lifespan, service, db),
        middleware=[
            Middleware(
                RequestLog,
                service=service,
                metrics=metrics.requests,
                routes=routes,
                clock=clock or SystemClock(),
            )
        ],
        exception_handlers={HTTPException: partial(answer_unrouted, routes)},
    )
    app.state.service = service
    app.state.keys = Keys(service)
    app.state.metrics = metrics
    for router in ROUTERS:
        app.include_router(router)
    return app


def _stop() -> None:
    """Stop this server as SIGTERM does."""
    signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def _lifespan(service: Service, db: Database | None, app: FastAPI) -> AsyncIterator[None]:
    opened = db
    if opened is None:
        opened = await to_thread.run_sync(open_database, service.settings)
    service.start(opened)
    watching = None
    app.state.standby = opened if isinstance(opened, StandbyDatabase) else None
    if isinstance(opened, StandbyDatabase):
        watching = asyncio.create_task(watch(service, opened, _stop))
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
        if db is None:
            await to_thread.run_sync(opened.close)
