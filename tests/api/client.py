"""An ASGI client that hands over exactly the bytes a test names, and keeps one loop per test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

PROBLEM_JSON = "application/problem+json"
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "retryable"}


@dataclass
class Answer:
    """A reply as it came: status, headers, and the chunks of its body."""

    status: int
    headers: dict[str, str]
    chunks: list[bytes]
    ended: bool
    """Whether the app said that this is all."""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    def problem(self, status: int, name: str) -> dict[str, Any]:
        """Check that this is the problem ``name`` and return its document."""
        assert self.status == status, self.body
        assert self.headers["content-type"] == PROBLEM_JSON
        document: dict[str, Any] = self.json
        assert document.keys() >= PROBLEM_MEMBERS
        assert document["type"] == f"urn:seerdb:{name}"
        assert document["status"] == status
        return document


class Connection:
    """One request on its way: gives the app its body in parts and takes what it sends."""

    def __init__(self, parts: Sequence[bytes], *, cut: bool = False, leave_after: int = 0) -> None:
        self._parts = list(parts)
        self._cut = cut
        self._leave_after = leave_after
        self._left = asyncio.Event()
        self.received = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self._parts:
            body = self._parts.pop(0)
            self.received += len(body)
            return {
                "type": "http.request",
                "body": body,
                "more_body": bool(self._parts or self._cut),
            }
        if not self._cut:
            await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) == self._leave_after:
            self._left.set()
            await asyncio.sleep(0)

    def answer(self) -> Answer:
        start, *bodies = self.sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        ended = bool(bodies) and not bodies[-1].get("more_body", False)
        chunks = [message.get("body", b"") for message in bodies]
        return Answer(start["status"], headers, chunks, ended)


class Client:
    """Calls an app on a loop of its own, inside its lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.runner = asyncio.Runner()
        self._events: asyncio.Queue[Message]
        self._told: asyncio.Queue[Message]
        self._lifespan: asyncio.Task[None]

    def __enter__(self) -> Self:
        self.runner.__enter__()
        self.runner.run(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.runner.run(self._stop())
        self.runner.__exit__(kind, error, trace)

    async def _start(self) -> None:
        self._events, self._told = asyncio.Queue(), asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._lifespan = asyncio.create_task(
            self.app(scope, self._events.get, self._told.put)  # type: ignore[arg-type]
        )
        await self._events.put({"type": "lifespan.startup"})
        told = await self._told.get()
        assert told["type"] == "lifespan.startup.complete", told

    async def _stop(self) -> None:
        await self._events.put({"type": "lifespan.shutdown"})
        await self._told.get()
        await self._lifespan

    def request(
        self,
        method: str,
        target: str | bytes,
        body: bytes | Sequence[bytes] = b"",
        *,
        cut: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; ``target`` is the raw path and query, ``_`` in header names is ``-``.

        A body in parts has no content-length. ``cut``: the client goes away instead of ending the
        body.
        """
        connection = self.connect(body, cut=cut)
        answer = self.runner.run(self.call(connection, method, target, body, headers))
        assert answer.ended
        return answer

    def connect(self, body: bytes | Sequence[bytes], **how: Any) -> Connection:
        """A connection for one request, to look at later."""

        async def make() -> Connection:
            return self.connect_now(body, **how)

        return self.runner.run(make())

    @staticmethod
    def connect_now(body: bytes | Sequence[bytes], **how: Any) -> Connection:
        """As :meth:`connect`, from inside the loop."""
        return Connection([body] if isinstance(body, bytes) else body, **how)

    async def call(
        self,
        connection: Connection,
        method: str,
        target: str | bytes,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run one request over ``connection``."""
        raw = target.encode() if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        sent = [(name.replace("_", "-"), value) for name, value in (headers or {}).items()]
        if isinstance(body, bytes) and body and "content_length" not in (headers or {}):
            sent.append(("content-length", str(len(body))))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": _encoded(sent),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        await self.app(scope, connection.receive, connection.send)
        return connection.answer()

    def get(self, target: str | bytes, **headers: str) -> Answer:
        return self.request("GET", target, headers=headers)

    def put(self, target: str | bytes, body: bytes = b"", **headers: str) -> Answer:
        return self.request("PUT", target, body, headers=headers)

    def delete(self, target: str | bytes, **headers: str) -> Answer:
        return self.request("DELETE", target, headers=headers)

    def post(self, target: str | bytes, document: Any, **headers: str) -> Answer:
        """POST ``document`` as JSON, or as it stands when it is bytes."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.request("POST", target, body, headers=headers)


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers]
