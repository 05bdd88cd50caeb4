"""SeerDB's own server as it is started by users: ``seerdb serve``, durability ``local``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.servers.base import Pair, Server, ServerFailedError, http_client, http_request

_BATCH = 1_000


class SeerDBServer(Server):
    """Default settings, but for those given."""

    name: ClassVar[str] = "seerdb"

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None) -> None:
        super().__init__(directory)
        self._settings = settings or {}

    @classmethod
    def missing(cls) -> str | None:
        return None if cls._command().exists() else "the seerdb command is not installed"

    @staticmethod
    def _command() -> Path:
        return Path(sys.executable).parent / "seerdb"

    @property
    def process_id(self) -> int:
        """Of the serving process; its worker processes are its children."""
        return self.processes[0].pid

    def start(self) -> None:
        config = self._directory / "settings.toml"
        config.write_text(
            "".join(f"{name} = {json.dumps(value)}\n" for name, value in self._settings.items())
        )
        self.spawn(
            str(self._command()),
            "serve",
            str(self._directory / "data"),
            "--port",
            str(self.port),
            "--config",
            str(config),
        )

    def load(self, pairs: Sequence[Pair]) -> None:
        with http_client(self.url) as client:
            for start in range(0, len(pairs), _BATCH):
                ops = [
                    {"op": "put", "key": key, "value": value}
                    for key, value in pairs[start : start + _BATCH]
                ]
                client.post("/v1/batch", json={"ops": ops}).raise_for_status()
            status = client.get("/readyz")
            if status.is_error:
                raise ServerFailedError(f"SeerDB is not ready: {status.text}")

    def status(self) -> dict[str, Any]:
        """Everything it counts."""
        with http_client(self.url) as client:
            answer: dict[str, Any] = client.get("/v1/admin/status").raise_for_status().json()
        return answer

    def is_ready(self) -> bool:
        """Whether it serves all that it is there for."""
        with http_client(self.url) as client:
            return client.get("/readyz").is_success

    def maintenance(self) -> dict[str, float]:
        """How many flushes and compactions there were since the start."""
        status = self.status()
        return {name: status[name][name] for name in ("flushes", "compactions")}

    def kill(self) -> None:
        """End it as a crash does."""
        self.processes[0].kill()
        self.processes[0].wait()

    def get_request(self, key: str) -> str:
        return http_request("GET", f"/v1/kv/{key}")

    def put_request(self, key: str, value: str) -> str:
        return http_request("PUT", f"/v1/kv/{key}", value)
