"""A small HTTP client over connections that stay open: one request at a time on each.

It parses no more than it needs, so that 5,000 requests a second take a part of one processor.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

IDLE_SECONDS = 2.0
"""So long a connection may be left alone and be used again; the server closes it after 5."""
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """Status, headers with small letters as one text, and body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """The value of a header; empty where there is none."""
        return _header(self.head, name)

    @property
    def seq(self) -> int:
        """Of the commit, in the reply to a write."""
        return int(self.header(b"etag").strip(b'"'))


def _header(head: bytes, name: bytes) -> bytes:
    at = head.find(b"\r\n%b:" % name)
    if at < 0:
        return b""
    return head[at + len(name) + 3 : head.index(b"\r\n", at + 2)].strip()


class Connection(asyncio.Protocol):
    """One connection. Belongs to its event loop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._answer: asyncio.Future[Reply] | None = None

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect. Raises: ``OSError``."""
        place = urlsplit(url)
        loop = asyncio.get_running_loop()
        assert place.hostname is not None
        _, connection = await loop.create_connection(cls, place.hostname, place.port or 80)
        return connection

    def request(self, data: bytes) -> asyncio.Future[Reply]:
        """Send a request; its reply comes later, or ``ConnectionError``. Requires: no other one is
        under way."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(data)
        return self._answer

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        head = self._received[: end + 2].lower()
        body_at = end + len(_HEAD_END)
        whole = body_at + int(_header(head, b"content-length") or 0)
        if len(self._received) < whole:
            return
        body, self._received = self._received[body_at:whole], self._received[whole:]
        status = int(head.split(b" ", 2)[1])
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(status, head, body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server hung up"))


class Pool:
    """Connections to one server, as many as there are requests at once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[tuple[Connection, float]] = []

    async def request(self, data: bytes) -> Reply:
        """The reply. Raises: ``OSError``."""
        now = asyncio.get_running_loop().time
        connection = self._take(now())
        if connection is not None:
            try:
                reply = await connection.request(data)
            except ConnectionError:
                connection = None  # the server was about to close it
        if connection is None:
            connection = await Connection.open(self._url)
            reply = await connection.request(data)
        self._idle.append((connection, now()))
        return reply

    def close(self) -> None:
        """Hang up. Requires: no request is under way."""
        for connection, _ in self._idle:
            connection.close()

    def _take(self, now: float) -> Connection | None:
        """The one used last; older ones may be about to be closed by the server."""
        if not self._idle:
            return None
        connection, used = self._idle.pop()
        if now - used < IDLE_SECONDS:
            return connection
        connection.close()
        return None


def put(key: str, value: str, durability: str = "local") -> bytes:
    """A write, as it goes over the wire; ``local`` is what servers do unless they are asked."""
    asked = "" if durability == "local" else f"?durability={durability}"
    return (
        f"PUT /v1/kv/{key}{asked} HTTP/1.1\r\nHost: benchmark\r\n"
        f"Content-Length: {len(value)}\r\n\r\n{value}"
    ).encode()


def get(key: str, **headers: object) -> bytes:
    """A read; an underscore in the name of a header stands for a hyphen."""
    lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
    return f"GET /v1/kv/{key} HTTP/1.1\r\nHost: benchmark\r\n{lines}\r\n".encode()
