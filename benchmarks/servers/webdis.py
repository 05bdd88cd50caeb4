"""Redis behind webdis: the append-only file is synced before each answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.servers.base import HOST, Pair, Server, ServerFailedError, free_port, http_request

_WEBDIS_THREADS = 2
_PIPELINE = 1_000


class WebdisServer(Server):
    """``appendfsync always``, no snapshots; webdis with two threads, as Debian configures it."""

    name: ClassVar[str] = "webdis"
    programs: ClassVar[tuple[str, ...]] = ("webdis", "redis-server")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._redis_port = free_port()

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port, self._redis_port)

    def start(self) -> None:
        options = {
            "--bind": HOST,
            "--port": str(self._redis_port),
            "--dir": str(self._directory),
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--save": "",
        }
        self.spawn("redis-server", *(word for option in options.items() for word in option))
        config = self._directory / "webdis.json"
        config.write_text(
            json.dumps(
                {
                    "redis_host": HOST,
                    "redis_port": self._redis_port,
                    "http_host": HOST,
                    "http_port": self.port,
                    "threads": _WEBDIS_THREADS,
                    "daemonize": False,
                    "verbosity": 0,
                    "logfile": str(self._directory / "webdis.log"),
                }
            )
        )
        self.spawn("webdis", str(config))

    def load(self, pairs: Sequence[Pair]) -> None:
        """By Redis's own protocol, pipelined."""
        with (
            socket.create_connection((HOST, self._redis_port), timeout=60) as connection,
            connection.makefile("rb") as replies,
        ):
            for start in range(0, len(pairs), _PIPELINE):
                chunk = pairs[start : start + _PIPELINE]
                connection.sendall("".join(_set_command(*pair) for pair in chunk).encode())
                for _ in chunk:
                    if (reply := replies.readline()) != b"+OK\r\n":
                        raise ServerFailedError(f"Redis answered {reply!r} to a SET")

    def get_request(self, key: str) -> str:
        return http_request("GET", f"/GET/{key}.txt")

    def put_request(self, key: str, value: str) -> str:
        return http_request("PUT", f"/SET/{key}", value)


def _set_command(key: str, value: str) -> str:
    words = ("SET", key, value)
    return f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
