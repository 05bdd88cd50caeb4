"""The thin path: single keys are answered without the web framework.

With an in-memory database a framework route costs more than all the rest of such a request. So the
outermost ASGI callable answers ``/v1/kv/{key}`` itself, with the same :class:`keys.Keys` that the
documented routes use, and passes all else on.
"""

from __future__ import annotations

import structlog
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from seerdb.clock import Clock
from seerdb_api import keys
from seerdb_api.errors import reply_to
from seerdb_api.metrics import Series
from seerdb_api.outbox import Outbox
from seerdb_api.reply import Reply, send_reply
from seerdb_api.requests import OTHER, SLOW_SECONDS, request_id_for
from seerdb_api.service import Service
from seerdb_api.unread import Unread

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.http")


class FastPath:
    """Wraps the app of :func:`app.create_app`."""

    def __init__(self, app: FastAPI, clock: Clock) -> None:
        self.service: Service = app.state.service
        self.now = clock.monotonic
        self.outbox = Outbox()
        """Of the connections that are served without the framework."""
        self.unread = Unread(self.now)
        self._app = app
        self._keys: keys.Keys = app.state.keys
        metrics = app.state.metrics.requests
        self._refused: Series = metrics.of(OTHER, OTHER)
        self._other: Series = metrics.of(OTHER, keys.ROUTE)
        self._series: dict[str, Series] = {
            method: metrics.of(method, keys.ROUTE) for method in keys.METHODS
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or whatever else the server asks."""
        if scope["type"] != "http" or not scope["raw_path"].startswith(keys.PREFIX):
            await self._app(scope, receive, send)
            return
        started = self.now()
        method = scope["method"]
        try:
            with self.service.given_up_when_stopping():
                reply = await self._keys.answer(scope, receive)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a reply
            reply = self._refuse(scope, error)
        lag = self.service.lag_headers()
        if lag:
            reply = reply[0], [*reply[1], *lag], reply[2]
        await send_reply(reply, method, send)
        self.record(method, reply[0], self.now() - started)

    def record(self, method: str, status: int, seconds: float) -> None:
        """Count a request for a single key, and log it if it was slow."""
        self._series.get(method, self._other).observe(status, seconds)
        if seconds > SLOW_SECONDS:
            logger.warning(
                "slow request", method=method, route=keys.ROUTE, status=status, seconds=seconds
            )

    def record_refused(self, status: int, seconds: float) -> None:
        """Count what was refused before anybody knew what it asks."""
        self._refused.observe(status, seconds)

    def _refuse(self, scope: Scope, error: Exception) -> Reply:
        request_id = request_id_for(dict(scope["headers"]))
        return reply_to(error, request_id, self.service.db.visible_seq)
