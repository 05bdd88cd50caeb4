"""etcd through its JSON gateway: one member, default settings, synced by default."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.servers.base import HOST, Pair, Server, free_port, http_client, http_request

_TRANSACTION_OPS = 128
"""etcd's default limit."""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _put(key: str, value: str) -> dict[str, Any]:
    return {"key": _base64(key), "value": _base64(value)}


class EtcdServer(Server):
    """Reads are linearizable, as its gateway answers them unless asked otherwise."""

    name: ClassVar[str] = "etcd"
    programs: ClassVar[tuple[str, ...]] = ("etcd",)

    def start(self) -> None:
        peer = f"http://{HOST}:{free_port()}"
        options = {
            "--data-dir": str(self._directory / "etcd"),
            "--listen-client-urls": self.url,
            "--advertise-client-urls": self.url,
            "--listen-peer-urls": peer,
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": f"default={peer}",
            "--log-level": "error",
        }
        self.spawn("etcd", *(word for option in options.items() for word in option))

    def load(self, pairs: Sequence[Pair]) -> None:
        with http_client(self.url) as client:
            for start in range(0, len(pairs), _TRANSACTION_OPS):
                chunk = pairs[start : start + _TRANSACTION_OPS]
                puts = [{"request_put": _put(key, value)} for key, value in chunk]
                client.post("/v3/kv/txn", json={"success": puts}).raise_for_status()

    def get_request(self, key: str) -> str:
        return http_request("POST", "/v3/kv/range", json.dumps({"key": _base64(key)}))

    def put_request(self, key: str, value: str) -> str:
        return http_request("POST", "/v3/kv/put", json.dumps(_put(key, value)))

    def in_answer(self, value: str) -> str:
        return _base64(value)
