"""LevelDB by plyvel: default options (4 KiB blocks, Snappy, 8 MiB of cache, no filter)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import plyvel

from benchmarks.engines.base import Pair, Sync, SyncEngine


class PlyvelEngine(SyncEngine):
    """``multi_get`` is a loop of gets: LevelDB has no such request.

    No recovery case: of 200,000 writes its 4 MiB write buffer leaves only the last in the log.
    """

    name: ClassVar[str] = "plyvel"

    def __init__(self, path: Path, sync: Sync) -> None:
        self._db = plyvel.DB(str(path), create_if_missing=True)
        durable = sync is Sync.DURABLE
        self.put = partial(self._db.put, sync=True) if durable else self._db.put
        self.get = self._db.get
        self._sync = durable

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        get = self._db.get
        return [get(key) for key in keys]

    def batch_put(self, pairs: list[Pair]) -> None:
        with self._db.write_batch(sync=self._sync) as batch:
            put = batch.put
            for key, value in pairs:
                put(key, value)

    def pairs(self) -> Iterable[Pair]:
        return cast("Iterable[Pair]", self._db.iterator())

    def pairs_reverse(self) -> Iterable[Pair]:
        return cast("Iterable[Pair]", self._db.iterator(reverse=True))

    def flush(self) -> None:
        """Nothing: opening the database again makes tables of what is still in the log."""

    def close(self) -> None:
        self._db.close()
