"""What surrounds every request but the hot ones: its id, its log line, its count, its failure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

import structlog
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seerdb.clock import Clock
from seerdb_api import keys
from seerdb_api.errors import METHOD_NOT_ALLOWED, NO_SUCH_PATH, Problem, problem_reply, reply_to
from seerdb_api.metrics import RequestMetrics
from seerdb_api.reply import Header, send_reply, seq_header, to_response
from seerdb_api.service import Service

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.http")

SLOW_SECONDS = 1.0
"""A request that takes longer is logged even on the hot path."""
OTHER = "other"
"""The method or route, in metrics and logs, of what the service does not know."""
METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE"))
QUIET_ROUTES = frozenset(("/livez", "/readyz", "/metrics"))
"""Asked every few seconds; logged only when they fail."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SCOPE_KEY = "seerdb.request_id"
DROP = "seerdb.drop"
"""In the scope of a request: what ends its connection at once, with all that was not sent."""


def request_id_for(headers: Mapping[bytes, bytes]) -> str:
    """The id that the client gave in ``x-request-id``, if it is plain and short; else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()


def request_id_of(request: Request) -> str:
    """The id of a request that came through :class:`RequestLog`."""
    request_id: str = request.scope[_SCOPE_KEY]
    return request_id


def drop_of(request: Request) -> Callable[[], None]:
    """What ends the connection of a request at once; nothing where it came over none."""
    drop: Callable[[], None] = request.scope.get(DROP, _stay)
    return drop


def _stay() -> None:
    """There is no connection."""


class RouteTable:
    """Which paths there are, and with which methods."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._methods: dict[str, set[str]] = {keys.ROUTE: set(keys.METHODS)}
        self._patterns: dict[str, re.Pattern[str]] = {}
        for router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute):
                    name = route.path_format
                    self._methods.setdefault(name, set()).update(route.methods or ())
                    if "{" in name:
                        self._patterns[name] = route.path_regex

    def name_of(self, path: str) -> str:
        """The route that serves ``path``, as metrics and logs name it."""
        if path.startswith(keys.PREFIX.decode()):
            return keys.ROUTE
        if path in self._methods:
            return path
        return next((name for name, each in self._patterns.items() if each.match(path)), OTHER)

    def allowed(self, path: str) -> str:
        """The methods that ``path`` takes, as the ``Allow`` header says it; empty if unknown."""
        return ", ".join(sorted(self._methods.get(self.name_of(path), ())))


class RequestLog:
    """ASGI middleware: gives each request an id, logs and counts it, and answers what it raises."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        metrics: RequestMetrics,
        routes: RouteTable,
        clock: Clock,
    ) -> None:
        self._app = app
        self._service = service
        self._metrics = metrics
        self._routes = routes
        self._now = clock.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_for(dict(scope["headers"]))
        scope[_SCOPE_KEY] = request_id
        started = self._now()
        own = [(b"x-request-id", request_id.encode()), *self._service.lag_headers()]
        outgoing = _Outgoing(send, own)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                with self._service.given_up_when_stopping():
                    await self._app(scope, receive, outgoing.send)
            except Exception as error:
                if outgoing.status:
                    raise
                reply = reply_to(error, request_id, self._service.db.visible_seq)
                await send_reply(reply, scope["method"], outgoing.send)
            finally:
                if outgoing.status:
                    self._record(scope, outgoing.status, self._now() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        route = self._routes.name_of(scope["path"])
        self._metrics.of(method, route).observe(status, seconds)
        if route not in QUIET_ROUTES or status >= HTTPStatus.BAD_REQUEST:
            logger.info("request", method=method, route=route, status=status, seconds=seconds)


class _Outgoing:
    """Passes a reply on with headers of its own, and notes its status."""

    def __init__(self, send: Send, headers: list[Header]) -> None:
        self.status = 0
        self._send = send
        self._headers = headers
        self._names = {name for name, _ in headers}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message["headers"] if pair[0] not in self._names]
            message = {**message, "headers": [*headers, *self._headers]}
        await self._send(message)


async def answer_unrouted(routes: RouteTable, request: Request, error: HTTPException) -> Response:
    """The problem for a request that no route takes."""
    path = request.scope["path"]
    headers: tuple[Header, ...] = (seq_header(request.app.state.service.db.visible_seq),)
    problem: Problem = NO_SUCH_PATH
    detail = "there is nothing under this path; /docs lists what there is"
    if error.status_code == METHOD_NOT_ALLOWED.status:
        allowed = routes.allowed(path) or (error.headers or {})["Allow"]
        problem, detail = METHOD_NOT_ALLOWED, f"this path takes {allowed}"
        headers = ((b"allow", allowed.encode()), *headers)
    return to_response(problem_reply(problem, detail, headers))
