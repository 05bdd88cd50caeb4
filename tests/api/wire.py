"""A server on a thread, the bytes of a connection to it, and a database whose writes wait."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from seerdb import Batch
from seerdb.clock import SystemClock
from seerdb.testing.clock import FakeClock
from seerdb_api import server as served
from seerdb_api.app import create_app
from seerdb_api.fast import FastPath
from seerdb_api.intake import GuardedProtocol
from seerdb_api.port import Database, Sink, Submission, Ticket
from seerdb_api.protocol import MAX_PLAIN_BODY
from seerdb_api.settings import ServiceSettings
from tests.api.fake_database import FakeDatabase

BODY_LIMIT = 256 << 10


WAIT = 60.0


LARGE = b"v" * (MAX_PLAIN_BODY + 1)
RECEIVED = 1 << 18
"""Bytes of replies that the system keeps for a client."""


HTTPTOOLS: dict[str, Any] = {"http": GuardedProtocol}
"""Changes of the configuration with which every request goes through uvicorn's parser."""


def request(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: x", *headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class CountingPath(FastPath):
    """Knows how many requests came through ASGI."""

    seen = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen += scope["type"] == "http"
        await super().__call__(scope, receive, send)


class Server(served._Server):
    """Runs on a thread of its own, and prints nothing."""

    def __init__(
        self, path: CountingPath, config: uvicorn.Config, settings: ServiceSettings
    ) -> None:
        super().__init__(config, settings, path.service)
        self.path = path
        self.port = 0
        self.errors: list[dict[str, Any]] = []
        self.listening = threading.Event()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await uvicorn.Server.startup(self, sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        self.listening.set()

    async def _wait_tasks_to_complete(self) -> None:
        self.stopping.set()
        await super()._wait_tasks_to_complete()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, error: self.errors.append(error))
            runner.run(self.serve())

    def stop(self) -> None:
        self.should_exit = True
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        assert self.errors == []


@contextmanager
def serving(
    db: Database, clock: SystemClock | FakeClock | None = None, **changes: Any
) -> Iterator[Server]:
    settings = ServiceSettings(body_limit=BODY_LIMIT, port=0)
    clock = clock or SystemClock()
    path = CountingPath(create_app(settings, db, clock=clock), clock)
    config = served._config(path, settings)
    patient = {"timeout_keep_alive": WAIT, "timeout_graceful_shutdown": WAIT}
    for name, value in (patient | changes).items():
        setattr(config, name, value)
    server = Server(path, config, settings)
    server.thread.start()
    try:
        assert server.listening.wait(WAIT)
        yield server
    finally:
        server.stop()


class Wire:
    """A client that sends bytes as they are and takes replies one by one."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT)
        # Systems that are tuned for it keep 32 MiB for who does not read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, *, head: bool = False) -> bytes:
        lines = [self.read.readline()]
        while lines[-1] not in (b"\r\n", b""):
            lines.append(self.read.readline())
        lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        return b"".join(lines) + (self.read.read(lengths[0]) if lengths and not head else b"")

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.reply(head=data.startswith(b"HEAD"))

    def ended(self) -> bool:
        return self.read.read() == b""

    def close(self) -> None:
        self.read.close()
        self.socket.close()


def unread(server: Server) -> list[GuardedProtocol]:
    """Connections whose clients take less than there is for them."""
    every = list(server.server_state.connections)
    return [each for each in every if isinstance(each, GuardedProtocol) and each.flow.write_paused]


@contextmanager
def connected(server: Server) -> Iterator[Wire]:
    with closing(Wire(server)) as wire:
        yield wire


class WaitingDatabase(FakeDatabase):
    """Commits nothing until told."""

    def __init__(self) -> None:
        super().__init__()
        self.submissions: queue.Queue[Callable[[], None]] = queue.Queue()

    def submit_all(self, submissions: Sequence[Submission], sink: Sink) -> list[Any]:
        for batch, _, _, ticket in submissions:
            self.submissions.put(partial(self._commit, batch, ticket, sink))
        return []

    def _commit(self, batch: Batch, ticket: Ticket, sink: Sink) -> None:
        sink([(ticket, self._apply(batch))])

    def commit_next(self) -> None:
        self.submissions.get(timeout=WAIT)()


def turn(server: Server) -> None:
    """Return when the server has seen what was sent before."""
    with connected(server) as wire:
        wire.ask(request("GET", "/v1/kv/turn"))
