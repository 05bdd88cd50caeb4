"""Requests on one connection: answered in order, however their bytes arrive."""

from __future__ import annotations

import pytest

from seerdb_api.protocol import KeyProtocol
from tests.api.fake_database import FakeDatabase
from tests.api.wire import (
    WAIT,
    WaitingDatabase,
    connected,
    request,
    serving,
    turn,
)


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
            turn(server)
            commit()
            assert wire.reply().startswith(b"HTTP/1.1 204 ")
            assert wire.reply().endswith(b"\r\n\r\n" + value)
        wire.send(request("PUT", "/v1/kv/a", body=b"4"))
        commit = waiting.submissions.get(timeout=WAIT)
        wire.send(request("DELETE", "/v1/kv/a") + request("GET", "/v1/kv/a"))
        turn(server)
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
        turn(server)
        commit()
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().endswith(b"\r\n\r\n2")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("header", ["x-tabs: are\tnot plain", "x-text: is plain"])
def test_a_body_that_looks_like_a_request_is_a_body(method: str, header: str) -> None:
    db = FakeDatabase()
    db.load(a="0")
    body = request("DELETE", "/v1/kv/a")
    with serving(db) as server, connected(server) as wire:
        head = request(method, "/v1/kv/a", header, body=body)[: -len(body)]
        wire.send(head)
        refused = wire.reply() if method == "PATCH" else b""  # without waiting for the body
        turn(server)
        wire.send(body)
        turn(server)
        reply = refused or wire.reply()
        assert reply.startswith(b"HTTP/1.1 405 " if refused else b"HTTP/1.1 204 ")
        found = wire.ask(request("GET", "/v1/kv/a"))
        assert found.endswith(b"\r\n\r\n" + (b"0" if refused else body))


def test_requests_split_anywhere_across_packets() -> None:
    db = FakeDatabase()
    with serving(db) as server, connected(server) as wire:
        put = request("PUT", "/v1/kv/a", body=b"0123")
        for cut in range(1, len(put)):
            wire.send(put[:cut])
            turn(server)
            wire.send(put[cut:])
            assert wire.reply().startswith(b'HTTP/1.1 204 No Content\r\netag: "%d"' % cut)
        before = server.path.seen
        for cuts in ((-2,), (-4,), (-3, -1), (-4, -2)):
            start = 0
            for cut in (*cuts, len(put)):
                wire.send(put[start:cut])
                start = cut
                turn(server)
            assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert server.path.seen == before + 2  # a body in one further packet is still plain
        wire.send(put[:-1])
        turn(server)
        wire.send(put[-1:] + request("GET", "/v1/kv/a"))
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().endswith(b"\r\n\r\n0123")
