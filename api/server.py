"""Running the service: one process, one event loop, until SIGTERM, SIGINT or SIGHUP."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from seerdb import SeerDBError
from seerdb.clock import SystemClock
from seerdb.options import without_password
from seerdb_api.app import create_app
from seerdb_api.database import open_database
from seerdb_api.fast import FastPath
from seerdb_api.intake import GuardedProtocol
from seerdb_api.logs import configure_logging
from seerdb_api.process import prepare
from seerdb_api.protocol import KeyProtocol
from seerdb_api.service import Service
from seerdb_api.settings import ServiceSettings

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.server")

BACKLOG = 2048
"""Connections that the kernel holds while the loop is busy."""
GRACEFUL_SECONDS = 20
"""How long a stop waits for requests that are still being answered."""
HANGING_UP_SECONDS = 1
"""The end of that, which is for hanging up on clients that do not take their replies."""
FENCED = 4
"""The exit code of a conflict, as for all commands."""


def serve(settings: ServiceSettings) -> int:
    """Serve the database until told to stop; 0 after a clean stop, 1 when it cannot start, 4 when
    a standby that had taken over was taken over from: start it again.

    On SIGTERM, SIGINT or SIGHUP: stop accepting, finish requests, flush and close the database;
    while that is still being opened, give that up. Another one while it closes ends the process at
    once. A SIGHUP that is ignored, as under ``nohup``, stays so.
    Raises what opening the database raises; and ``SeerDBError`` before that, when it cannot listen,
    for an opening fences whoever writes. Requires: the main thread.
    """
    configure_logging(settings.log_format)
    stop = _Stop()
    with ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in _bound(settings.host, settings.port)]
        prepare()
        try:
            with stop.on_signals():
                db = stack.enter_context(closing(open_database(settings)))
                clock = SystemClock()
                app = FastPath(create_app(settings, db, clock=clock), clock)
                server = _Server(_config(app, settings), settings, app.service)
                stop.begin_serving(server)
                server.run(sockets)
        except _Told:
            logger.info("told to stop while the database was being opened")
            return 0
        except SystemExit:  # uvicorn could not start, and has logged why
            return 1
        return FENCED if settings.standby and app.service.db.is_fenced else 0


def _bound(host: str, port: int) -> list[socket.socket]:
    """Sockets that have the addresses of ``host``, and to which nobody can connect yet."""
    with _listening(host, port), ExitStack() as stack:
        sockets = []
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            bound = stack.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
            sockets.append(bound)
        stack.pop_all()
    return sockets


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Errors of the operating system in here are about listening."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # the latter for what can be the name of no host
        why = error.strerror if isinstance(error, OSError) else error
        raise SeerDBError(f"cannot listen on {host} port {port}: {why}") from error


def _config(app: FastPath, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=KeyProtocol,
        ws="none",
        interface="asgi3",
        lifespan="on",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, settings: ServiceSettings, service: Service) -> None:
        super().__init__(config)
        self._settings = settings
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; first, streams without end and merges are told to end. uvicorn gives up
        waiting for a request, but a thread that serves it is always waited for. Of plain writes it
        does not know. Before it cancels the rest, whoever has not taken a reply is hung up on."""
        self._service.stop()
        patience = self.config.timeout_graceful_shutdown or 0
        loop = asyncio.get_running_loop()
        hanging_up = loop.call_later(max(0, patience - HANGING_UP_SECONDS), self._hang_up)
        await super().shutdown(sockets)
        hanging_up.cancel()
        for connection in self.server_state.connections.copy():
            if isinstance(connection, KeyProtocol):
                connection.give_up()

    def _hang_up(self) -> None:
        for connection in self.server_state.connections.copy():
            if isinstance(connection, GuardedProtocol):
                connection.drop_if_replying()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        settings = self._settings
        with _listening(settings.host, settings.port):
            for each in sockets or ():
                each.listen(BACKLOG)  # uvloop would not raise what goes wrong
        await super().startup(sockets)
        # All that was made so far stays: the collector need not walk through it again, which
        # would keep every request waiting for some 50 ms each time.
        gc.collect()
        gc.freeze()
        port = self.servers[0].sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        what = "replica, cache" if settings.replica else "data"
        where = f"{what} {settings.data_dir}, bucket {without_password(settings.bucket)}"
        _say(f"serving http://{host}:{port} ({where})")


def _say(line: str) -> None:
    """Print a line; where nobody takes it, nothing is printed any more, and that is all."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:  # else what is kept of it fails at the end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Told(BaseException):
    """A signal came before there was a server to be stopped."""


class _Stop:
    """What signals do: until there is a server they raise :class:`_Told`, then they stop it."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._is_told = False

    def begin_serving(self, server: uvicorn.Server) -> None:
        """From now on, stop this one. Raises: ``_Told`` if a signal came and nobody heard, as what
        a destructor raises is dropped."""
        self._server = server
        if self._is_told:
            raise _Told

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Heed signals, also those that come when uvicorn does not handle them itself: it raises
        each again when it has stopped, and that must not be death by signal."""
        heeded: dict[signal.Signals, Any] = {
            signal.SIGTERM: signal.SIG_DFL,
            signal.SIGINT: signal.default_int_handler,
        }
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            heeded[signal.SIGHUP] = signal.SIG_DFL
        for number in heeded:
            signal.signal(number, self._tell)
        try:
            yield
        finally:
            for number, handler in heeded.items():
                signal.signal(number, handler)

    def _tell(self, _signal: int, _frame: object) -> None:
        is_first, self._is_told = not self._is_told, True
        if self._server is not None:
            self._server.should_exit = True
        elif is_first:
            raise _Told
