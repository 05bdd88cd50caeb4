"""LMDB: one write transaction per put or batch, one read transaction per read request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import lmdb

from benchmarks.engines.base import Pair, Sync, SyncEngine

_MAP_SIZE = 8 << 30


class LmdbEngine(SyncEngine):
    """``sync=False, metasync=False`` for the memory class, both true for the durable one."""

    name: ClassVar[str] = "lmdb"
    limits: ClassVar[dict[str, int]] = {"put": 200_000}

    def __init__(self, path: Path, sync: Sync) -> None:
        durable = sync is Sync.DURABLE
        self._env = lmdb.open(str(path), map_size=_MAP_SIZE, sync=durable, metasync=durable)

    def put(self, key: bytes, value: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(key)
        return value

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        with self._env.begin() as transaction:
            get = transaction.get
            return [get(key) for key in keys]

    def batch_put(self, pairs: list[Pair]) -> None:
        with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs)

    def pairs(self) -> Iterator[Pair]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            yield from cursor.iternext()

    def pairs_reverse(self) -> Iterable[Pair]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            yield from cursor.iterprev()

    def flush(self) -> None:
        self._env.sync(force=True)

    def close(self) -> None:
        self._env.close()
