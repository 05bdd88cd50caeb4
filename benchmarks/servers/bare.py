"""What an ASGI server can reach in one process: an app that answers 100 bytes to everything."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from benchmarks.servers.base import HOST, Pair, Server, http_request
from benchmarks.workload import VALUE_SIZE

_BODY = b"x" * VALUE_SIZE
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", str(VALUE_SIZE).encode())],
}
_END = {"type": "http.response.body", "body": _BODY}


async def app(
    _scope: dict[str, Any],
    _receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer without looking at the request."""
    await send(_START)
    await send(_END)


class BareServer(Server):
    """One uvicorn worker with uvloop and httptools, without access log."""

    name: ClassVar[str] = "bare"
    writes: ClassVar[bool] = False

    def start(self) -> None:
        options = (
            *("--host", HOST, "--port", str(self.port), "--lifespan", "off"),
            *("--loop", "uvloop", "--http", "httptools", "--log-level", "error"),
            *("--no-access-log", "--no-server-header", "--no-date-header"),
        )
        self.spawn(sys.executable, "-m", "uvicorn", "benchmarks.servers.bare:app", *options)

    def load(self, pairs: Sequence[Pair]) -> None:
        """Nothing: it stores nothing."""

    def get_request(self, key: str) -> str:
        return http_request("GET", f"/{key}")
