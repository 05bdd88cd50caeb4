"""What a connection refuses before it is a request: how it is answered, and that it ends there."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from seerdb.testing.clock import FakeClock
from seerdb_api import intake
from seerdb_api import unread as api_unread
from seerdb_api.head import MAX_LINES
from seerdb_api.intake import MAX_HEAD, MAX_TARGET, GuardedProtocol
from tests.api.client import PROBLEM_JSON, PROBLEM_MEMBERS
from tests.api.fake_database import FakeDatabase
from tests.api.wire import (
    WAIT,
    Server,
    WaitingDatabase,
    Wire,
    connected,
    request,
    serving,
    turn,
    unread,
)

CHUNKED = request("PUT", "/v1/kv/new", "transfer-encoding: chunked")
LONG = MAX_HEAD // 8
MANY = [f"x{n}: {'y' * LONG}" for n in range(8)]


def problem(reply: bytes, status: int, name: str) -> dict[str, Any]:
    """Check that this is the problem ``name``, after which the connection ends."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), reply[:200]
    lines = head.split(b"\r\n")
    assert b"content-type: " + PROBLEM_JSON.encode() in lines
    assert b"connection: close" in lines
    assert [line for line in lines if line.startswith(b"seerdb-seq: ")]
    document: dict[str, Any] = json.loads(body)
    assert document.keys() == PROBLEM_MEMBERS
    assert (document["status"], document["type"]) == (status, f"urn:seerdb:{name}")
    assert document["retryable"] is (status == 408)
    return document


def counted(server: Server) -> Counter[str]:
    """All requests that the metrics have, by class of status."""
    found = Counter[str]()
    for series in server.path._app.state.metrics.requests.series.values():
        found.update({f"{status}xx": count for status, count in enumerate(series.classes) if count})
    return found


def flood(wire: Wire, piece: bytes, most: int) -> None:
    """Send ``piece`` until the server hangs up, and fail if it takes ``most`` bytes."""
    with suppress(ConnectionError):
        for _ in range(most // len(piece)):
            wire.send(piece)
        raise AssertionError(f"the server took {most:,} bytes")


@pytest.mark.parametrize(
    ("sent", "status", "name"),
    [
        (
            request("GET", "/v1/kv/a", *(f"x{n}: y" for n in range(MAX_LINES))),
            431,
            "head-too-large",
        ),
        (request("GET", "/v1/kv/a", *["x: y"] * MAX_LINES), 431, "head-too-large"),
        (request("GET", "/livez", *MANY), 431, "head-too-large"),
        (request("GET", "/v1/kv/a", "x: " + "y" * MAX_HEAD), 431, "head-too-large"),
        (request("GET", "/v1/kv/a", "y" * MAX_HEAD + ": x"), 431, "head-too-large"),
        (CHUNKED + b"0\r\nx: " + b"y" * MAX_HEAD + b"\r\n\r\n", 431, "head-too-large"),
        (CHUNKED + b"0\r\n" + b"x: y\r\n" * MAX_LINES + b"\r\n", 431, "head-too-large"),
        (request("GET", "/v1/kv/" + "k" * MAX_TARGET), 414, "target-too-long"),
        (request("GET", "/v1/kv?prefix=" + "k" * MAX_TARGET), 414, "target-too-long"),
        (request("PUT", "/v1/kv/new#part", body=b"1"), 400, "invalid-request"),
        (request("GET", "/v1/kv?prefix=a#b"), 400, "invalid-request"),
        (request("FETCH", "/v1/kv/a"), 400, "invalid-request"),
        (b"PUT /v1/kv/new\r\n\r\n", 400, "invalid-request"),
        (request("PUT", "/v1/kv/new").replace(b"HTTP/1.1", b"HTTP/2.0"), 400, "invalid-request"),
        (request("GET", "no/path"), 400, "invalid-request"),
        (request("GET", "/v1/kv/\xe4"), 400, "invalid-request"),
        (request("PUT", "/v1/kv/new", "content-length: -1"), 400, "invalid-request"),
        (request("PUT", "/v1/kv/new", "content-length: 9" + "9" * 30), 400, "invalid-request"),
        (request("GET", "/v1/kv/a", "na me: x"), 400, "invalid-request"),
        (b"GET /v1/kv/a HTTP/1.1\r\n\r\n", 400, "invalid-request"),
        (b"GET /livez HTTP/1.1\r\nx: y\r\n\r\n", 400, "invalid-request"),
        (request("PUT", "/v1/kv/new", "Host: x", body=b"1"), 400, "invalid-request"),
        (request("GET", "/livez", "host: y"), 400, "invalid-request"),
        (request("GET", "/v1/kv/a").replace(b"host: x", b"host: x, y"), 400, "invalid-request"),
        (
            request("GET", "/v1/kv/a").replace(b"host: x", b"host: http://x/"),
            400,
            "invalid-request",
        ),
        (CHUNKED + b"zz\r\n", 400, "invalid-request"),
        (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400, "invalid-request"),
        (b"\x16\x03\x01\x02\x00\x01", 400, "invalid-request"),
        (
            request("PUT", "/v1/kv/new", "transfer-encoding: gzip, chunked") + b"0\r\n\r\n",
            501,
            "unknown-coding",
        ),
        (
            request("PUT", "/v1/kv/new", "Transfer-Encoding: gzip", "transfer-encoding: chunked")
            + b"0\r\n\r\n",
            501,
            "unknown-coding",
        ),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_what_is_not_let_in_is_a_problem(sent: bytes, status: int, name: str) -> None:
    db = FakeDatabase()
    db.load(a="1")
    with serving(db) as server, connected(server) as wire:
        with suppress(ConnectionError):
            wire.send(sent)
        problem(wire.reply(), status, name)
        with suppress(ConnectionError):
            assert wire.ended()
        turn(server)
        assert counted(server) == Counter([f"{status // 100}xx", "4xx"])  # it, and the turn
    assert b"new" not in db.entries


@pytest.mark.parametrize("target", ["/livez", "/v1/kv/a"])
@pytest.mark.parametrize(
    "host", ["", "x:", "x:80", "x_y.example", "xn--bcher-kva.example:1", "[::1]:8000", "[fe80::1]"]
)
def test_a_host_may_be_whatever_a_url_may_have_there(host: str, target: str) -> None:
    with serving(FakeDatabase()) as server, connected(server) as wire:
        reply = wire.ask(request("GET", target).replace(b"host: x", b"host: " + host.encode()))
        assert not reply.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("target", ["/livez", "/v1/kv/a"])
def test_a_client_of_http_1_0_need_not_name_a_host(target: str) -> None:
    with serving(FakeDatabase()) as server, connected(server) as wire:
        reply = wire.ask(b"GET %b HTTP/1.0\r\n\r\n" % target.encode())
        assert not reply.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("method", "target"),
    [("CONNECT", "x:80"), ("GET", "http://x:65536/v1/kv/a"), ("GET", "http:///v1/kv/a")],
)
def test_a_target_that_is_no_url_is_told(method: str, target: str) -> None:
    with serving(FakeDatabase()) as server, connected(server) as wire:
        wire.send(request(method, target))
        document = problem(wire.reply(), 400, "invalid-request")
    assert document["detail"].startswith("the request target is neither a path nor a URL")


def is_parsing(server: Server) -> bool:
    connections = list(server.server_state.connections)
    return any(isinstance(each, GuardedProtocol) and each._parsing for each in connections)


@pytest.mark.parametrize(
    "begun",
    [
        b"G",
        request("GET", "/v1/kv/a")[:-2],
        request("PUT", "/v1/kv/new", "content-length: 2"),
        request("PUT", "/v1/kv/new", "content-length: 2") + b"1",
        CHUNKED + b"5\r\n123",
        CHUNKED + b"0\r\n",
        request("PUT", "/v1/kv/new", "x: " + "y" * 5_000, "content-length: 2"),
    ],
    ids=["method", "head", "no body", "half a body", "chunk", "trailer", "not plain"],
)
@pytest.mark.parametrize("served", [False, True], ids=["first", "second"])
def test_what_does_not_come_to_its_end_is_too_slow(
    monkeypatch: pytest.MonkeyPatch, begun: bytes, served: bool
) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 0.01)
    clock, db = FakeClock(), FakeDatabase()
    with serving(db, clock) as server, connected(server) as wire:
        if served:
            wire.ask(request("GET", "/v1/kv/a"))
        wire.send(begun)
        turn(server)
        while not is_parsing(server):
            turn(server)  # until a look has had what is held parsed
        clock.advance(1.0)
        document = problem(wire.reply(), 408, "too-slow")
        assert document["detail"].startswith("the head of a request has to be there within 0.01")
        assert wire.ended()
    assert b"new" not in db.entries


def test_whoever_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 0.01)
    clock = FakeClock()
    with serving(FakeDatabase(), clock) as server, connected(server) as wire:
        turn(server)
        clock.advance(1.0)
        assert wire.ended()


def test_whoever_goes_on_sending_or_waits_for_the_server_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 1e-3)
    clock, db = FakeClock(), WaitingDatabase()
    with (
        serving(db, clock) as server,
        connected(server) as idle,
        connected(server) as plain,
        connected(server) as routed,
        connected(server) as slow,
    ):
        idle.ask(request("GET", "/v1/kv/a"))
        plain.send(request("PUT", "/v1/kv/plain", body=b"1"))
        routed.send(request("PUT", "/v1/kv/routed?durability=memory", body=b"1"))
        commits = [db.submissions.get(timeout=WAIT) for _ in range(2)]
        slow.send(request("PUT", "/v1/kv/slow", "content-length: 20000"))
        for _ in range(20):
            slow.send(b"v" * 1000)
            turn(server)
            clock.advance(0.9e-3)
            turn(server)
        db.commit_next()
        assert slow.reply().startswith(b"HTTP/1.1 204 ")
        clock.advance(1.0)
        turn(server)
        for commit, wire in zip(commits, (plain, routed), strict=True):
            commit()
            assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert idle.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "begun",
    [
        request("GET", "/v1/kv/a")[:-2] + b"x: ",
        request("GET", "/v1/kv/a")[:-2],
        CHUNKED + b"0\r\nx: ",
        CHUNKED + b"1;",
        b"GET /",
        b"",
    ],
    ids=["value", "name", "trailer", "chunk extension", "target", "nothing"],
)
def test_what_has_no_end_is_cut_off(begun: bytes) -> None:
    piece = b"\r\n" * (8 << 10) if not begun else b"y" * (16 << 10)
    with serving(FakeDatabase()) as server, connected(server) as wire:
        wire.send(begun)
        flood(wire, piece, 64 << 20)
        turn(server)


def test_a_large_head_within_the_limits_is_served() -> None:
    db = FakeDatabase()
    db.load(a="1")
    target = "/v1/kv/" + "k" * (MAX_TARGET - 7)
    lines = [f"x{n}: y" for n in range(MAX_LINES - 2)]
    with serving(db) as server, connected(server) as wire:
        assert wire.ask(request("PUT", target, body=b"1")).startswith(b"HTTP/1.1 204 ")
        for _ in range(3):
            for more in (lines, MANY[:6]):
                assert wire.ask(request("GET", "/v1/kv/a", *more)).endswith(b"\r\n\r\n1")
        body = b"b" * (200 << 10)
        wire.ask(request("PUT", "/v1/kv/b", body=body))
        both = request("PUT", "/v1/kv/b", body=body) + request("GET", "/v1/kv/a", *MANY[:6])
        wire.send(both[:-9])
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.ask(both[-9:]).endswith(b"\r\n\r\n1")


def test_a_trailer_is_no_header() -> None:
    db = FakeDatabase()
    db.load(new="1")
    with serving(db) as server, connected(server) as wire:
        assert wire.ask(CHUNKED + b"1\r\n2\r\n0\r\nif-none-match: *\r\n\r\n")[9:12] == b"204"
        assert wire.ask(request("GET", "/v1/kv/new")).endswith(b"\r\n\r\n2")


def test_what_came_whole_before_is_answered_first(waiting: WaitingDatabase) -> None:
    good = request("PUT", "/v1/kv/b", body=b"1") + request("GET", "/v1/kv/b")
    with serving(waiting) as server, connected(server) as wire:
        wire.send(good + request("FETCH", "/v1/kv/b") + good)
        waiting.commit_next()
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.reply().endswith(b"\r\n\r\n1")
        problem(wire.reply(), 400, "invalid-request")
        assert wire.ended()
        assert counted(server) == {"2xx": 2, "4xx": 1}
        assert waiting.submissions.empty()


def test_a_body_that_breaks_off_is_answered_in_its_turn(waiting: WaitingDatabase) -> None:
    with serving(waiting) as server, connected(server) as wire:
        wire.send(request("PUT", "/v1/kv/b", body=b"1") + CHUNKED + b"zz\r\n")
        waiting.commit_next()
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        problem(wire.reply(), 400, "invalid-request")
        assert wire.ended()
        turn(server)
        assert counted(server) == {"2xx": 1, "4xx": 2}
        assert waiting.submissions.empty()


def test_nothing_follows_a_reply_to_a_request_whose_body_is_wrong() -> None:
    begun = request("GET", "/v1/kv/none", "transfer-encoding: chunked")
    with serving(FakeDatabase()) as server, connected(server) as wire:
        assert wire.ask(begun).startswith(b"HTTP/1.1 404 ")
        wire.send(b"zz\r\n")
        assert wire.ended()


LARGE = b"v" * (16 << 20)


@pytest.mark.parametrize("asked", ["/v1/kv/large", "/v1/kv"], ids=["value", "stream"])
def test_whoever_takes_nothing_of_a_reply_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 0.01)
    clock, db = FakeClock(), FakeDatabase()
    db.put(b"large", LARGE)
    with serving(db, clock) as server, connected(server) as wire:
        wire.send(request("GET", asked, "accept: application/x-ndjson"))
        while not unread(server):
            turn(server)
        deadline = time.monotonic() + WAIT / 4
        while unread(server) and time.monotonic() < deadline:
            clock.advance(intake.UNREAD)
            turn(server)
        assert not unread(server)
        with suppress(ConnectionError):
            assert len(wire.read.read()) < len(LARGE)
    assert db.scans_open == 0


def test_nobody_leaves_a_reply_for_long_while_too_much_waits_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each kept its reply for five minutes, however many there were."""
    monkeypatch.setattr(api_unread, "MOST_UNREAD", len(LARGE))
    clock, db = FakeClock(), FakeDatabase()
    db.put(b"large", LARGE)
    with serving(db, clock) as server, ExitStack() as wires:
        for number in range(3):
            wire = wires.enter_context(connected(server))
            wire.send(request("GET", "/v1/kv/large"))
            while len(unread(server)) == number:
                turn(server)
        assert len(unread(server)) == 3, "who has just begun is not dropped for that"
        clock.advance(intake.UNREAD_TOO_MUCH)
        last = wires.enter_context(connected(server))
        last.send(request("GET", "/v1/kv/large"))
        while len(unread(server)) != 1:
            turn(server)


def test_whoever_takes_a_reply_slowly_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 1e-3)
    clock, db = FakeClock(), FakeDatabase()
    db.put(b"large", LARGE)
    with serving(db, clock) as server, connected(server) as wire:
        wire.send(request("GET", "/v1/kv/large"))
        while not unread(server):
            turn(server)
        [slow] = unread(server)
        while wire.read.readline() != b"\r\n":
            pass
        portion = len(LARGE) // 4  # for which there is room then, so that the server sends more
        for _ in range(4):
            waiting = slow.transport.get_write_buffer_size()
            assert len(wire.read.read(portion)) == portion, "it was hung up on"
            while slow.flow.write_paused and slow._untaken == waiting:
                turn(server)  # until a look has seen that
            clock.advance(0.6 * intake.UNREAD)
            turn(server)
        assert clock.monotonic() > intake.UNREAD
        assert wire.ask(request("GET", "/v1/kv/a")).startswith(b"HTTP/1.1 ")


OFFER = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQ")
CHUNKED_OFFER = request("PUT", "/v1/kv/b", *OFFER, "transfer-encoding: chunked")
LIKE_A_REQUEST = request("DELETE", "/v1/kv/a")


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (request("PUT", "/v1/kv/b", *OFFER, body=b"value"), b"value"),
        (request("PUT", "/v1/kv/b", *OFFER, body=LIKE_A_REQUEST), LIKE_A_REQUEST),
        (request("PUT", "/v1/kv/b", *OFFER, body=b"v" * 100_000), b"v" * 100_000),
        (CHUNKED_OFFER + b"1\r\nv\r\n2\r\nal\r\n0\r\nx: y\r\n\r\n", b"val"),
        (request("PUT", "/v1/kv/b", *OFFER), b""),
    ],
)
def test_a_body_is_a_body_also_where_another_protocol_is_offered(
    sent: bytes, value: bytes, pieces: int
) -> None:
    db = FakeDatabase()
    db.load(a="1")
    size = len(sent) // pieces + 1
    with serving(db) as server, connected(server) as wire:
        for at in range(0, len(sent), size):
            wire.send(sent[at : at + size])
            turn(server)
        assert wire.reply().startswith(b"HTTP/1.1 204 ")
        assert wire.ask(request("GET", "/v1/kv/b")).endswith(b"\r\n\r\n" + value)
        assert wire.ask(request("GET", "/v1/kv/a")).endswith(b"\r\n\r\n1")


def test_requests_that_offer_another_protocol_may_follow_each_other() -> None:
    db = FakeDatabase()
    db.load(a="1")
    count = 2_000
    with serving(db) as server, connected(server) as wire:
        wire.send(request("GET", "/v1/kv/a", *OFFER) * count + request("GET", "/livez"))
        for _ in range(count):
            assert wire.reply().endswith(b"\r\n\r\n1")
        assert wire.reply().endswith(b'{"live":true}')


def test_a_body_that_breaks_off_behind_an_offer_is_a_problem() -> None:
    with serving(FakeDatabase()) as server, connected(server) as wire:
        problem(wire.ask(CHUNKED_OFFER + b"zz\r\n"), 400, "invalid-request")
        assert wire.ended()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("sent_next", [b"", LIKE_A_REQUEST])
def test_a_connection_ends_as_asked_where_another_protocol_is_offered(
    version: bytes, sent_next: bytes
) -> None:
    db = FakeDatabase()
    db.load(a="1")
    put = request("PUT", "/v1/kv/b", "connection: close, upgrade", "upgrade: h2c", body=b"value")
    with serving(db) as server:
        with connected(server) as wire:
            reply = wire.ask(put.replace(b"HTTP/1.1", b"HTTP/" + version, 1) + sent_next)
            assert reply.startswith(b"HTTP/1.1 204 ")
            assert b"connection: close" in reply
            assert wire.ended()
        with connected(server) as wire:
            assert wire.ask(request("GET", "/v1/kv/b")).endswith(b"\r\n\r\nvalue")
            assert wire.ask(request("GET", "/v1/kv/a")).endswith(b"\r\n\r\n1")
