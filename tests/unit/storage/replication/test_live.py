"""The replica's side of the live log: its thread goes on whatever a connection ends in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from seerdb.errors import UnavailableError
from seerdb.storage.replication import live
from seerdb.storage.replication.format import (
    Heartbeat,
    Hello,
    encode_heartbeat,
    encode_hello,
)
from seerdb.storage.replication.live import LiveTail
from seerdb.storage.replication.running import Mark
from seerdb.storage.replication.shipped import Piece
from seerdb.testing.clock import FakeClock


class Target:
    """Notes why connections ended, and has the tail close after the second."""

    def __init__(self) -> None:
        self.seq = 0
        self.ended: list[Exception] = []
        self.tail: LiveTail | None = None
        self.clock = FakeClock()
        self.beats = 0

    def now(self) -> float:
        return self.clock.monotonic()

    def greet(self, hello: Hello, first: int) -> None:
        """It is this primary."""

    def take(self, piece: Piece) -> None:
        raise AssertionError("nobody answers")

    def compare(self, mark: Mark) -> None:
        raise AssertionError("nobody answers")

    def heard(self, heartbeat: Heartbeat) -> None:
        self.beats += 1

    def lost(self, error: Exception) -> None:
        self.ended.append(error)
        if len(self.ended) == 2:
            assert self.tail is not None
            self.tail.close()


def ends(url: str) -> list[Exception]:
    target = Target()
    target.tail = LiveTail(url, target)
    target.tail.run()
    return target.ended


@pytest.mark.parametrize("port", ["1", "99999", "no port"])
def test_whatever_a_connection_ends_in_it_is_told_and_tried_again(port: str) -> None:
    """PB-04. The thread ended without a word on what is neither an error of ours nor one of HTTP,
    and the replica waited for it for ever."""
    assert len(ends(f"http://127.0.0.1:{port}")) == 2


class NoPrimary(BaseHTTPRequestHandler):
    """A server that knows no log."""

    def log_message(self, *_: object) -> None:
        """Nothing is to be printed."""


def test_what_is_told_of_a_connection_has_no_password_in_it() -> None:
    """Anybody who reaches a replica is told it."""
    with HTTPServer(("127.0.0.1", 0), NoPrimary) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            ended = ends(f"http://me:hunter2@127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    told = f"http://127.0.0.1:{server.server_port}/v1/replication/log answers 501"
    assert [str(error) for error in ended] == [told, told]


def beating(clock: FakeClock, *, damaged: bool) -> Iterator[bytes]:
    """A greeting, then a heartbeat each second; the first may say that it is longer than it is."""
    yield encode_hello(Hello("0" * 32, 1, 0, 0))
    beat = encode_heartbeat(Heartbeat(0, 0))
    if damaged:
        yield beat[:3] + b"\x40" + beat[4:]
    for _ in range(100):
        clock.advance(1.0)
        yield beat


@pytest.mark.parametrize(("damaged", "why"), [(False, "ended"), (True, "no whole message")])
def test_a_length_that_is_damaged_does_not_swallow_what_follows(damaged: bool, why: str) -> None:
    target = Target()
    tail = LiveTail("http://primary", target)
    stream = beating(target.clock, damaged=damaged)
    with pytest.raises(UnavailableError, match=why):
        tail._take(live._messages(stream, target.now), 1)
    assert target.beats == (0 if damaged else 100)
    assert target.clock.monotonic() == (live.MESSAGE_SECONDS + 1 if damaged else 100.0)
