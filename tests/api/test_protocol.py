"""Plain requests on real connections: the bytes, the order and the end of each are uvicorn's."""

from __future__ import annotations

import asyncio
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from structlog.typing import EventDict

from seerdb import DB, Batch, Entry
from seerdb.clock import SystemClock
from seerdb.errors import BusyError, PoisonedError
from seerdb.testing.clock import FakeClock
from seerdb_api import server as served
from seerdb_api.app import create_app
from seerdb_api.fast import FastPath
from seerdb_api.protocol import MAX_PLAIN_BODY, KeyProtocol
from seerdb_api.service import Database
from seerdb_api.settings import ServiceSettings
from tests.api.fake_database import FakeDatabase

BODY_LIMIT = 256 << 10
WAIT = 10.0
LARGE = b"v" * (MAX_PLAIN_BODY + 1)
HTTPTOOLS: dict[str, Any] = {"http": "httptools"}


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


class Server(uvicorn.Server):
    """Runs on a thread of its own."""

    def __init__(self, path: CountingPath, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.path = path
        self.port = 0
        self.errors: list[dict[str, Any]] = []
        self.listening = threading.Event()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
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
    for name, value in changes.items():
        setattr(config, name, value)
    server = Server(path, config)
    server.thread.start()
    try:
        assert server.listening.wait(WAIT)
        yield server
    finally:
        server.stop()


class Wire:
    """A client that sends bytes as they are and takes replies one by one."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT)
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


@contextmanager
def connected(server: Server) -> Iterator[Wire]:
    with closing(Wire(server)) as wire:
        yield wire


def test_uvicorn_still_has_what_the_protocol_uses() -> None:
    with serving(FakeDatabase(), http="httptools") as server, connected(server) as wire:
        wire.ask(request("GET", "/livez"))
        [connection] = server.server_state.connections
        for name in (
            "_unset_keepalive_if_required",
            "config",
            "loop",
            "on_message_begin",
            "on_message_complete",
            "shutdown",
            "timeout_keep_alive",
            "timeout_keep_alive_handler",
            "timeout_keep_alive_task",
            "transport",
        ):
            assert hasattr(connection, name), name
        assert connection.cycle.response_complete  # type: ignore[union-attr]
        assert not connection.flow.write_paused  # type: ignore[union-attr]
        assert server.server_state.total_requests == 1


PLAIN = [
    request("GET", "/v1/kv/a"),
    request("HEAD", "/v1/kv/a"),
    request("GET", "/v1/kv/a%2Fb%ff%zz"),
    request("GET", "/v1/kv/missing"),
    request("HEAD", "/v1/kv/missing"),
    request("GET", "/v1/kv/a", "Connection: Keep-Alive", "x-empty:", "Accept: */*"),
    request("GET", "/v1/kv/a", "content-length: 0"),
    b"GET /v1/kv/a HTTP/1.1\r\n\r\n",
    request("PUT", "/v1/kv/b", body=b"1"),
    request("PUT", "/v1/kv/%FF%00", body=b"\r\n\r\n\x00"),
    request("PUT", "/v1/kv/empty"),
    request("PUT", "/v1/kv/full", body=LARGE[1:]),
    request("DELETE", "/v1/kv/b"),
    request("DELETE", "/v1/kv/none"),
]
UNUSUAL = [
    request("GET", "/v1/kv/a?ttl=1"),
    request("GET", "/v1/kv/"),
    request("GET", "/v1/kv/" + "k" * 10_000),
    request("GET", '/v1/kv/"'),
    request("GET", "/v1/kv/a", 'If-None-Match: "1"'),
    request("GET", "/v1/kv/a", 'if-match: "9"'),
    request("GET", "/v1/kv/a", "range: bytes=1-2"),
    request("GET", "/v1/kv/a", "x-spaces:  \t two"),
    request("GET", "/v1/kv/a", "x-text: \xe4"),
    request("GET", "/v1/kv/a", "connection: close"),
    request("GET", "/v1/kv/a", "upgrade: h2c"),
    request("GET", "/v1/kv/a", "x: " + "y" * 5_000),
    request("GET", "/v1/kv/a", body=b"ignored"),
    request("GET", "/v1/kv/cold"),
    request("GET", "/v1/kv/large"),
    b"GET /v1/kv/a HTTP/1.0\r\n\r\n",
    b"GET /v1/kv/a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    request("PUT", "/v1/kv/b", "if-none-match: *", body=b"1"),
    request("PUT", "/v1/kv/b", "if-none-match: *", body=b"2"),
    request("PUT", "/v1/kv/b?durability=object", body=b"1"),
    request("PUT", "/v1/kv/b", "expect: 100-continue", body=b"1"),
    request("PUT", "/v1/kv/b", body=LARGE),
    request("PUT", "/v1/kv/b", "connection: close", body=b"1"),
    request("PUT", "/v1/kv/b", f"content-length: {BODY_LIMIT + 1}"),
    request("PUT", "/v1/kv/b", "transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
    request("DELETE", "/v1/kv/b", body=b"ignored"),
    request("DELETE", "/v1/kv/none", 'if-match: "9"'),
    request("PATCH", "/v1/kv/b"),
    request("GET", "/livez"),
    request("GET", "/v1/kv"),
]
BROKEN = [
    request("PUT", "/v1/kv/b", "content-length: 1", body=b"1"),
    request("PUT", "/v1/kv/b", "transfer-encoding: chunked", "content-length: 1"),
    request("PUT", "/v1/kv/b", "content-length: -1"),
    request("GET", "/v1/kv/a", "no header"),
    request("GET", "/v1/kv/a", "na me: x"),
    b"GET /v1/kv/a HTTP/1.1\r\nhost: x\n\r\n\r\n",
]


def _loaded() -> FakeDatabase:
    db = FakeDatabase()
    db.load(a="0123", cold="1", large=LARGE.decode())
    db.put(b"a/b\xff%zz", b"escaped")
    db.cold.add(b"cold")
    return db


def _played(**changes: Any) -> list[tuple[bytes, int]]:
    """The reply to each request, and how many went through ASGI by then."""
    replies = []
    with serving(_loaded(), **changes) as server:
        for one in (*PLAIN, *UNUSUAL, *BROKEN):
            with connected(server) as wire:
                reply = wire.ask(one.replace(b"host: x", b"x-request-id: r", 1))
                if b"100 Continue" in reply:
                    reply += wire.reply()
                if b"connection: close" in reply:
                    assert wire.ended()
                else:
                    reply += wire.ask(request("GET", "/v1/kv/a"))
                replies.append((reply, server.path.seen))
    return replies


def test_both_paths_answer_the_same_bytes() -> None:
    plain = _played()
    through_asgi = _played(http="httptools")
    for one, (reply, _), (expected, _) in zip(
        (*PLAIN, *UNUSUAL, *BROKEN), plain, through_asgi, strict=True
    ):
        assert reply == expected, one
    seen = [count for _, count in plain]
    assert seen[len(PLAIN) - 1] == 0
    assert seen[len(PLAIN) + len(UNUSUAL) - 1] == len(UNUSUAL)
    assert through_asgi[0][1] == 2


@pytest.mark.parametrize(
    "error", [BusyError("full", retry_after_seconds=7), PoisonedError("sync failed")]
)
@pytest.mark.parametrize("when", ["failure", "fate"])
def test_both_paths_refuse_writes_with_the_same_bytes(error: Exception, when: str) -> None:
    replies = []
    for changes in ({}, HTTPTOOLS):
        db = _loaded()
        setattr(db, when, error)
        with serving(db, **changes) as server, connected(server) as wire:
            replies.append(
                [
                    wire.ask(request(*what, "x-request-id: r7", body=body))
                    for what, body in ((("PUT", "/v1/kv/a"), b"1"), (("DELETE", "/v1/kv/a"), b""))
                ]
            )
    assert replies[0] == replies[1]
    assert b"x-request-id: r7\r\n" in replies[0][0]


def test_a_read_that_fails_is_answered_through_asgi() -> None:
    db = _loaded()
    db.broken_at, db.failure = b"a", PoisonedError("no")
    with serving(db) as server, connected(server) as wire:
        assert wire.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 503 ")
        assert server.path.seen == 1


class WaitingDatabase(FakeDatabase):
    """Commits nothing until told."""

    def __init__(self) -> None:
        super().__init__()
        self.submissions: queue.Queue[Callable[[], None]] = queue.Queue()

    def submit(self, batch: Batch, *, ticket: object, sink: Any, **_: Any) -> None:
        self.submissions.put(lambda: sink([(ticket, self._apply(batch))]))

    def commit_next(self) -> None:
        self.submissions.get(timeout=WAIT)()


@pytest.fixture
def waiting() -> WaitingDatabase:
    db = WaitingDatabase()
    db.load(a="1")
    return db


def test_requests_in_one_packet_are_answered_in_order(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as wire:
        get = request("GET", "/v1/kv/a")
        wire.send(get + request("PUT", "/v1/kv/a", body=b"2") + get)
        assert wire.reply().endswith(b"\r\n\r\n1")
        waiting.commit_next()
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().endswith(b"\r\n\r\n2")


def test_requests_that_come_while_a_write_waits_are_answered_after_it(
    waiting: WaitingDatabase,
) -> None:
    with serving(waiting) as server, connected(server) as wire:
        for value in (b"2", b"3"):
            wire.send(request("PUT", "/v1/kv/a", body=value))
            commit = waiting.submissions.get(timeout=WAIT)
            wire.send(request("GET", "/v1/kv/a"))
            _turn(server)
            commit()
            assert wire.reply().startswith(b"HTTP/1.1 204 ")
            assert wire.reply().endswith(b"\r\n\r\n" + value)
        wire.send(request("PUT", "/v1/kv/a", body=b"4"))
        commit = waiting.submissions.get(timeout=WAIT)
        wire.send(request("DELETE", "/v1/kv/a") + request("GET", "/v1/kv/a"))
        _turn(server)
        commit()
        assert b'etag: "4"' in wire.reply()
        waiting.commit_next()
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().startswith(b"HTTP/1.1 404 ")


def test_a_client_whose_write_waits_is_not_read_without_end(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/a", body=b"2"))
        commit = waiting.submissions.get(timeout=WAIT)
        wire.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.send(bytes(64 << 20))
        [connection] = server.server_state.connections
        assert isinstance(connection, KeyProtocol)
        assert len(connection._after) < 1 << 20
        commit()


def test_plain_requests_wait_for_what_goes_through_asgi(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/a", 'if-match: "1"', body=b"2"))
        commit = waiting.submissions.get(timeout=WAIT)
        wire.send(request("GET", "/v1/kv/a"))
        _turn(server)
        commit()
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().endswith(b"\r\n\r\n2")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("header", ["x-tabs: are\tnot plain", "host: x"])
def test_a_body_that_looks_like_a_request_is_a_body(method: str, header: str) -> None:
    db = FakeDatabase()
    db.load(a="0")
    body = request("DELETE", "/v1/kv/a")
    with serving(db) as server, connected(server) as wire:
        head = request(method, "/v1/kv/a", header, body=body)[: -len(body)]
        wire.send(head)
        refused = wire.reply() if method == "PATCH" else b""  # without waiting for the body
        _turn(server)
        wire.send(body)
        _turn(server)
        reply = refused or wire.reply()
        assert reply.startswith(b"HTTP/1.1 405 " if refused else b"HTTP/1.1 204 ")
        found = wire.ask(request("GET", "/v1/kv/a"))
        assert found.endswith(b"\r\n\r\n" + (b"0" if refused else body))


def _turn(server: Server) -> None:
    """Return when the server has seen what was sent before."""
    with connected(server) as wire:
        wire.ask(request("GET", "/v1/kv/turn"))


def test_requests_split_anywhere_across_packets() -> None:
    db = FakeDatabase()
    with serving(db) as server, connected(server) as wire:
        put = request("PUT", "/v1/kv/a", body=b"0123")
        for cut in range(1, len(put)):
            wire.send(put[:cut])
            _turn(server)
            wire.send(put[cut:])
            assert wire.reply().startswith(b'HTTP/1.1 204 No Content\r\netag: "%d"' % cut)
        before = server.path.seen
        for cuts in ((-2,), (-4,), (-3, -1), (-4, -2)):
            start = 0
            for cut in (*cuts, len(put)):
                wire.send(put[start:cut])
                start = cut
                _turn(server)
            assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert server.path.seen == before + 2  # a body in one further packet is still plain
        wire.send(put[:-1])
        _turn(server)
        wire.send(put[-1:] + request("GET", "/v1/kv/a"))
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().endswith(b"\r\n\r\n0123")


def test_a_client_that_has_finished_sending_gets_its_reply(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/a", body=b"2"))
        commit = waiting.submissions.get(timeout=WAIT)
        wire.socket.shutdown(socket.SHUT_WR)
        _turn(server)
        commit()
        reply = wire.reply()
        assert reply.startswith(b"HTTP/1.1 204 ")
        assert b"connection: close\r\n" in reply
        assert wire.ended()


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_goes_away_stops_nobody(waiting: WaitingDatabase, *, reset: bool) -> None:
    with serving(waiting) as server, connected(server) as stays:
        gone = Wire(server)
        gone.send(request("PUT", "/v1/kv/gone", body=b"1"))
        first = waiting.submissions.get(timeout=WAIT)
        stays.send(request("PUT", "/v1/kv/stays", body=b"1"))
        second = waiting.submissions.get(timeout=WAIT)
        if reset:
            linger = struct.pack("ii", 1, 0)
            gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        gone.close()
        _turn(server)
        first()
        second()
        assert stays.reply().startswith(b"HTTP/1.1 204 ")
        assert {b"gone", b"stays"} <= waiting.entries.keys()
        half = Wire(server)
        half.send(request("PUT", "/v1/kv/half", "content-length: 2") + b"1")
        _turn(server)
        half.close()
        _turn(server)
    assert b"half" not in waiting.entries


def test_a_reader_that_does_not_read_gets_everything_in_order() -> None:
    db = FakeDatabase()
    count, size = 300, MAX_PLAIN_BODY
    for number in range(count):
        db.put(b"%d" % number, b"%d" % number * (size // len(b"%d" % number)))
    with serving(db) as server, connected(server) as wire:
        for number in range(count):
            wire.send(request("GET", f"/v1/kv/{number}"))
            _turn(server)
        for number in range(count):
            assert wire.reply().endswith(b"\r\n\r\n" + db.entries[b"%d" % number].value)
        assert server.path.seen  # which waits for the reader


def test_a_reply_is_never_older_than_its_value() -> None:
    class BusyDatabase(FakeDatabase):
        def get_entry(self, key: bytes) -> Entry | None:
            self.put(key, b"now")
            return super().get_entry(key)

    with serving(BusyDatabase()) as server, connected(server) as wire:
        reply = wire.ask(request("GET", "/v1/kv/a"))
        assert b'etag: "1"\r\nseerdb-seq: 1\r\n' in reply


def test_a_value_that_is_not_in_memory_is_read_through_asgi(tmp_path: Path) -> None:
    with DB.open(str(tmp_path / "db"), background="thread", block_cache_capacity=0) as db:
        db.put(b"k", b"v")
        db.flush()
        with serving(db) as server, connected(server) as wire:
            assert wire.ask(request("GET", "/v1/kv/k")).endswith(b"\r\n\r\nv")
            assert server.path.seen == 1
            assert wire.ask(request("PUT", "/v1/kv/k", body=b"w")).startswith(b"HTTP/1.1 204 ")
            assert wire.ask(request("GET", "/v1/kv/k")).endswith(b"\r\n\r\nw")
            assert server.path.seen == 1


def test_idle_connections_are_closed_and_waiting_ones_kept(waiting: WaitingDatabase) -> None:
    with (
        serving(waiting, timeout_keep_alive=0.2) as server,
        connected(server) as writer,
        connected(server) as half,
        connected(server) as reader,
    ):
        assert writer.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        assert half.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        writer.send(request("PUT", "/v1/kv/a", body=b"2"))
        half.send(request("PUT", "/v1/kv/b", "content-length: 1"))
        assert reader.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        assert reader.ended()
        waiting.commit_next()
        assert writer.reply().startswith(b"HTTP/1.1 204 ")
        half.send(b"3")
        waiting.commit_next()
        assert half.reply().startswith(b"HTTP/1.1 204 ")
        assert writer.ended()
        assert half.ended()


def test_a_stop_waits_for_writes(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as idle, connected(server) as wire:
        half = Wire(server)
        assert idle.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        wire.send(request("PUT", "/v1/kv/a", body=b"2"))
        first = waiting.submissions.get(timeout=WAIT)
        half.send(request("PUT", "/v1/kv/b", "content-length: 1"))
        _turn(server)
        server.should_exit = True
        assert server.stopping.wait(WAIT)
        assert idle.ended()
        first()
        half.send(b"3")
        waiting.commit_next()
        for one in (wire, half):
            reply = one.reply()
            assert reply.startswith(b"HTTP/1.1 204 ")
            assert b"connection: close\r\n" in reply
            assert one.ended()
        half.close()
        server.stop()


def test_plain_requests_are_counted() -> None:
    db = _loaded()
    with serving(db) as server, connected(server) as wire:
        for one in (*PLAIN[:5], request("PUT", "/v1/kv/b", body=b"1")):
            wire.ask(one)
        db.fate = PoisonedError("sync failed")
        wire.ask(request("PUT", "/v1/kv/b", body=b"1"))
        assert server.path.seen == 0
        assert server.server_state.total_requests == 7
        text = wire.ask(request("GET", "/metrics")).decode()
    for method, status, count in (
        ("GET", "2xx", 2),
        ("GET", "4xx", 1),
        ("HEAD", "2xx", 1),
        ("PUT", "2xx", 1),
        ("PUT", "5xx", 1),
    ):
        labels = f'method="{method}",route="/v1/kv/{{key}}",status="{status}"'
        assert f"seerdb_http_requests_total{{{labels}}} {count}.0" in text


def test_slow_plain_requests_are_logged(waiting: WaitingDatabase, logs: list[EventDict]) -> None:
    clock = FakeClock()
    with serving(waiting, clock) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/secret-key", body=b"1"))
        commit = waiting.submissions.get(timeout=WAIT)
        clock.advance(1.5)
        commit()
        wire.reply()
        assert server.path.seen == 0
    [entry] = [entry for entry in logs if entry["event"] == "slow request"]
    assert (entry["method"], entry["status"], entry["seconds"]) == ("PUT", 204, 1.5)
    assert "secret-key" not in str(entry)
