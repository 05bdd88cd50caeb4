"""Plain requests on real connections: the bytes, the order and the end of each are uvicorn's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from seerdb import DB, Entry
from seerdb.errors import BusyError, PoisonedError
from seerdb.testing.clock import FakeClock
from tests.api.fake_database import FakeDatabase
from tests.api.wire import (
    BODY_LIMIT,
    HTTPTOOLS,
    LARGE,
    WAIT,
    WaitingDatabase,
    connected,
    request,
    serving,
)


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
    request("GET", "/v1/kv/a%2Fb%ff%25zz"),
    request("GET", "/v1/kv/missing"),
    request("HEAD", "/v1/kv/missing"),
    request("GET", "/v1/kv/a", "Connection: Keep-Alive", "x-empty:", "Accept: */*"),
    request("GET", "/v1/kv/a", "content-length: 0"),
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
    request("GET", "/v1/kv/a%2Fb%zz"),
    request("PUT", "/v1/kv/100%", body=b"1"),
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
    request("PUT", "/v1/kv/b", "x: \xe4", "content-length: 1 \t") + b"1",
    request("PUT", "/v1/kv/b", "expect: 100-continue ", body=b"1"),
    request("GET", "/v1/kv/b", "seerdb-min-seq: 1 \t"),
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
    b"GET /v1/kv/a HTTP/1.1\r\n\r\n",
    request("GET", "/v1/kv/a", "host: y"),
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
                reply = wire.ask(one.replace(b"host: x", b"host: x\r\nx-request-id: r", 1))
                if b"100 Continue" in reply:
                    reply += wire.reply()
                if b"connection: close" in reply:
                    assert wire.ended()
                else:
                    reply += wire.ask(request("GET", "/v1/kv/a"))
                reply = re.sub(rb"(x-request-id: )[0-9a-f]{16}\r", rb"\1new\r", reply)
                replies.append((reply, server.path.seen))
    return replies


@pytest.mark.parametrize("changes", [{}, HTTPTOOLS], ids=["plain", "httptools"])
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("PUT", ['if-match: "9"', 'if-match: "1"'], 400),
        ("PUT", ['if-match: "1"', 'if-match: "1"'], 400),
        ("DELETE", ['if-match: "9"', 'If-Match: "1"'], 400),
        ("PUT", ['if-none-match: "1"', "if-none-match: *"], 400),
        ("GET", ['if-match: "1"', 'if-match: "9"'], 200),
        ("GET", ['if-none-match: "1"', 'if-none-match: "9"'], 304),
        ("GET", ["if-none-match: *", "if-none-match: *"], 304),
        ("GET", ['if-match: "9"', "if-match: *"], 200),
        ("GET", ["range: bytes=0-0", "range: bytes=1-1"], 200),
        ("GET", ["seerdb-min-seq: 1", "seerdb-min-seq: 0"], 400),
    ],
)
def test_a_header_on_several_lines_is_one_list(
    changes: dict[str, Any], method: str, headers: list[str], status: int
) -> None:
    db = FakeDatabase()
    db.load(a="0123")
    with serving(db, **changes) as server, connected(server) as wire:
        reply = wire.ask(request(method, "/v1/kv/a", *headers))
    assert reply.startswith(b"HTTP/1.1 %d " % status), reply
    assert db.entries[b"a"].value == b"0123"


def test_both_paths_answer_the_same_bytes() -> None:
    plain = _played()
    through_asgi = _played(**HTTPTOOLS)
    for one, (reply, _), (expected, _) in zip(
        (*PLAIN, *UNUSUAL, *BROKEN), plain, through_asgi, strict=True
    ):
        assert reply == expected, one
    seen = [count for _, count in plain]
    assert seen[len(PLAIN) - 1] == 0
    assert seen[len(PLAIN) + len(UNUSUAL) - 1] == len(UNUSUAL)
    assert through_asgi[0][1] == 2


@pytest.mark.parametrize("changes", [{}, HTTPTOOLS], ids=["plain", "through asgi"])
def test_whitespace_after_a_value_is_none_of_it(changes: dict[str, Any]) -> None:
    with serving(_loaded(), **changes) as server, connected(server) as wire:
        put = wire.ask(request("PUT", "/v1/kv/b", "content-length: 3 \t") + b"abc")
        assert put.startswith(b"HTTP/1.1 204 ")
        assert wire.ask(request("GET", "/v1/kv/b")).endswith(b"abc")
        fresh = wire.ask(request("GET", "/v1/kv/b", "seerdb-min-seq: 1 ", "seerdb-deadline: 1\t"))
        assert fresh.endswith(b"abc")
        named = wire.ask(request("GET", "/livez", "x-request-id: mine "))
        assert b"x-request-id: mine\r\n" in named


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


def test_a_reply_is_never_older_than_its_value() -> None:
    class BusyDatabase(FakeDatabase):
        def get_entry(self, key: bytes, *, fill_cache: bool = True) -> Entry | None:
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
