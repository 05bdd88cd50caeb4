"""SQLite: one table without row ids, WAL journal, one connection per thread, autocommit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from benchmarks.engines.base import Pair, Sync, SyncEngine

_LOCK_WAIT_SECONDS = 60
_PUT = "INSERT OR REPLACE INTO kv VALUES (?, ?)"


class Sqlite3Engine(SyncEngine):
    """``synchronous=NORMAL`` (no sync per commit) for the memory class, ``FULL`` for durable."""

    name: ClassVar[str] = "sqlite3"
    limits: ClassVar[dict[str, int]] = {"put": 200_000}

    def __init__(self, path: Path, sync: Sync) -> None:
        path.mkdir(exist_ok=True)
        self._file = str(path / "kv.sqlite")
        self._level = "FULL" if sync is Sync.DURABLE else "NORMAL"
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._connection().execute(
            "CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
        )

    def put(self, key: bytes, value: bytes) -> None:
        self._connection().execute(_PUT, (key, value))

    def get(self, key: bytes) -> bytes | None:
        row = self._connection().execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return row[0] if row else None

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        marks = ",".join("?" * len(keys))
        query = f"SELECT k, v FROM kv WHERE k IN ({marks})"
        found: dict[bytes, bytes] = dict(self._connection().execute(query, keys))
        return [found.get(key) for key in keys]

    def batch_put(self, pairs: list[Pair]) -> None:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_PUT, pairs)
        connection.execute("COMMIT")

    def pairs(self) -> Iterable[Pair]:
        return self._connection().execute("SELECT k, v FROM kv ORDER BY k")

    def pairs_reverse(self) -> Iterable[Pair]:
        return self._connection().execute("SELECT k, v FROM kv ORDER BY k DESC")

    def flush(self) -> None:
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            return existing
        connection = sqlite3.connect(
            self._file, timeout=_LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute(f"PRAGMA synchronous={self._level}")
        self._opened.append(connection)
        self._local.connection = connection
        return connection
