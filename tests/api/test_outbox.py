"""Replies of one pass of the loop: sent at its end, in order, and before anything else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from seerdb_api.outbox import MOST_WAITING, Outbox
from seerdb_api.protocol import KeyProtocol
from tests.api.fake_database import FakeDatabase
from tests.api.wire import WAIT, Server, connected, request, serving

GET = request("GET", "/v1/kv/a")


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing


def test_replies_leave_at_the_end_of_the_pass() -> None:
    async def passes() -> None:
        outbox, first, second = Outbox(), Transport(), Transport()
        for number in (b"1", b"2"):
            outbox.post(first, number)
            outbox.post(second, number)
            assert len(first.written) == len(second.written) == int(number) - 1
            await asyncio.sleep(0)
            assert first.written[-1] == second.written[-1] == number

    asyncio.run(passes())


def test_no_more_than_so_many_replies_wait() -> None:
    async def passes() -> None:
        outbox, transport = Outbox(), Transport()
        for number in range(MOST_WAITING):
            assert transport.written == []
            outbox.post(transport, b"%d" % number)
        assert len(transport.written) == MOST_WAITING
        outbox.post(transport, b"last")
        await asyncio.sleep(0)
        assert transport.written == [b"%d" % number for number in range(MOST_WAITING)] + [b"last"]

    asyncio.run(passes())


def test_who_is_gone_keeps_nobody_from_a_reply() -> None:
    async def passes() -> None:
        outbox, gone, stays = Outbox(), Transport(), Transport()
        outbox.post(gone, b"1")
        outbox.post(stays, b"1")
        gone.closing = True
        await asyncio.sleep(0)
        assert (gone.written, stays.written) == ([], [b"1"])

    asyncio.run(passes())


def _in_one_pass(server: Server, act: Callable[[KeyProtocol], None]) -> None:
    done: Future[None] = Future()
    [connection] = server.server_state.connections
    assert isinstance(connection, KeyProtocol)

    def acting() -> None:
        try:
            act(connection)
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - it is the test's
            done.set_exception(error)

    connection.loop.call_soon_threadsafe(acting)
    done.result(WAIT)


def _garbage(connection: KeyProtocol) -> None:
    connection.data_received(b"no request\r\n\r\n")


def _end(connection: KeyProtocol) -> None:
    assert not connection.eof_received()
    connection.transport.close()


def _stop(connection: KeyProtocol) -> None:
    connection.shutdown()


@pytest.mark.parametrize(
    ("after", "then"), [(_garbage, b"HTTP/1.1 400 "), (_end, b""), (_stop, b"")]
)
def test_a_reply_is_sent_before_what_comes_after_it(
    after: Callable[[KeyProtocol], None], then: bytes
) -> None:
    db = FakeDatabase()
    db.load(a="1")

    def act(connection: KeyProtocol) -> None:
        connection.data_received(GET)
        after(connection)

    with serving(db) as server, connected(server) as wire:
        wire.ask(GET)
        _in_one_pass(server, act)
        assert wire.reply().endswith(b"\r\n\r\n1")
        rest = wire.read.read()
        assert rest.startswith(then)
        assert bool(rest) == bool(then)
