"""Connections: clients that leave, do not read or say nothing, and servers that stop."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from seerdb.testing.clock import FakeClock
from seerdb_api.protocol import MAX_PLAIN_BODY
from tests.api.fake_database import FakeDatabase
from tests.api.wire import (
    HTTPTOOLS,
    WAIT,
    WaitingDatabase,
    Wire,
    connected,
    request,
    serving,
    turn,
    unread,
)


@pytest.mark.parametrize("changes", [{}, HTTPTOOLS], ids=["plain", "httptools"])
@pytest.mark.parametrize(
    ("sent", "count"),
    [
        (request("GET", "/v1/kv"), 1),
        (request("GET", "/v1/kv", "accept: application/x-ndjson"), 1),
        (request("POST", "/v1/admin/flush"), 1),
        (request("PUT", "/v1/kv/b", body=b"2") + request("GET", "/v1/kv") * 3, 4),
    ],
    ids=["page", "stream", "flush", "several"],
)
def test_who_has_finished_sending_gets_all_replies(
    changes: dict[str, Any], sent: bytes, count: int
) -> None:
    """The connection was closed under all but a plain write."""
    db = FakeDatabase()
    db.load(a="1")
    with serving(db, **changes) as server, connected(server) as wire:
        wire.send(sent)
        wire.socket.shutdown(socket.SHUT_WR)
        replies = wire.read.read()
    assert replies.count(b"HTTP/1.1 20") == count
    assert replies.count(b"connection: close") == 1


@pytest.mark.parametrize("changes", [{}, HTTPTOOLS], ids=["plain", "httptools"])
@pytest.mark.parametrize(
    "rest",
    [
        b"GET /v1/kv/a HTTP/1.1\r\nho",
        request("PUT", "/v1/kv/new", "x-not: pl\tain", body=b"12")[:-1],
        b"NONSENSE\r\n\r\n",
    ],
    ids=["head", "body", "nonsense"],
)
@pytest.mark.parametrize("first", [1, 2])
def test_who_finishes_within_a_request_gets_the_replies_to_those_before_it(
    changes: dict[str, Any], rest: bytes, first: int
) -> None:
    """The connection was closed under them."""
    db = FakeDatabase()
    with serving(db, **changes) as server, connected(server) as wire:
        wire.send(request("POST", "/v1/admin/flush") * first + rest)
        wire.socket.shutdown(socket.SHUT_WR)
        replies = wire.read.read()
    assert replies.count(b"HTTP/1.1 200 ") == first
    assert replies.count(b"HTTP/1.1 400 ") == replies.count(b"connection: close") <= 1
    assert db.entries == {}


def test_who_finishes_within_a_request_gets_no_reply() -> None:
    db = FakeDatabase()
    with serving(db) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/a", "x-not: pl\tain", body=b"12")[:-1])
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.ended()
    assert db.entries == {}


def test_a_client_that_has_finished_sending_gets_its_reply(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/a", body=b"2"))
        commit = waiting.submissions.get(timeout=WAIT)
        wire.socket.shutdown(socket.SHUT_WR)
        turn(server)
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
        turn(server)
        first()
        second()
        assert stays.reply().startswith(b"HTTP/1.1 204 ")
        assert {b"gone", b"stays"} <= waiting.entries.keys()
        half = Wire(server)
        half.send(request("PUT", "/v1/kv/half", "content-length: 2") + b"1")
        turn(server)
        half.close()
        turn(server)
    assert b"half" not in waiting.entries


def test_a_client_that_goes_away_with_requests_behind_its_first_is_no_error(
    waiting: WaitingDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(waiting) as server:
        with connected(server) as gone:
            first = request("PUT", "/v1/kv/a?durability=memory", body=b"2")
            gone.send(first + request("GET", "/v1/kv/a") * 3)
            commit = waiting.submissions.get(timeout=WAIT)
        turn(server)
        commit()
        turn(server)
        counted = server.path._series["PUT"]
    assert not caplog.records
    assert counted.classes[2] == 1


def test_a_reader_that_does_not_read_gets_everything_in_order() -> None:
    db = FakeDatabase()
    count, size = 300, MAX_PLAIN_BODY
    for number in range(count):
        db.put(b"%d" % number, b"%d" % number * (size // len(b"%d" % number)))
    with serving(db) as server, connected(server) as wire:
        for number in range(count):
            wire.send(request("GET", f"/v1/kv/{number}"))
            turn(server)
        for number in range(count):
            assert wire.reply().endswith(b"\r\n\r\n" + db.entries[b"%d" % number].value)
        assert server.path.seen  # which waits for the reader


def test_idle_connections_are_closed_and_waiting_ones_kept(waiting: WaitingDatabase) -> None:
    clock = FakeClock()
    with (
        serving(waiting, clock, timeout_keep_alive=0.2) as server,
        connected(server) as writer,
        connected(server) as half,
        connected(server) as reader,
    ):
        assert writer.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        assert half.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        writer.send(request("PUT", "/v1/kv/a", body=b"2"))
        commit = waiting.submissions.get(timeout=WAIT)
        half.send(request("PUT", "/v1/kv/b", "content-length: 1"))
        turn(server)
        assert reader.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        clock.advance(0.3)
        assert reader.ended()
        commit()
        assert writer.reply().startswith(b"HTTP/1.1 204 ")
        half.send(b"3")
        waiting.commit_next()
        assert half.reply().startswith(b"HTTP/1.1 204 ")
        clock.advance(0.3)
        assert writer.ended()
        assert half.ended()


def test_a_stop_waits_for_writes(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as idle, connected(server) as wire:
        half = Wire(server)
        assert idle.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 200 ")
        wire.send(request("PUT", "/v1/kv/a", body=b"2"))
        first = waiting.submissions.get(timeout=WAIT)
        half.send(request("PUT", "/v1/kv/b", "content-length: 1"))
        turn(server)
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


def test_a_plain_write_that_a_stop_gives_up_is_told_so(waiting: WaitingDatabase) -> None:
    """Its connection was closed without a word."""
    with serving(waiting, timeout_graceful_shutdown=0) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/a", body=b"2"))
        commit = waiting.submissions.get(timeout=WAIT)
        turn(server)
        server.stop()
        reply = wire.reply()
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"urn:seerdb:closed" in reply
        assert wire.ended()
        commit()  # nobody is told any more


@pytest.mark.parametrize(
    "sent",
    [
        request("GET", "/v1/kv", "accept: application/x-ndjson"),
        request("GET", "/v1/kv"),
        request("GET", "/v1/kv/large") + request("GET", "/v1/kv") * 2,
    ],
    ids=["stream", "page", "several"],
)
def test_a_stop_hangs_up_on_who_takes_nothing_of_a_reply(
    caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """Each was an error in the log, with a stack."""
    db = FakeDatabase()
    db.put(b"large", b"v" * (16 << 20))
    with serving(db, timeout_graceful_shutdown=1) as server, connected(server) as wire:
        wire.send(sent)
        while not unread(server):
            turn(server)
        server.stop()
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []
    assert db.scans_open == 0
