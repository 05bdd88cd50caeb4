"""SeerDB: default settings; bucket and log in one directory; flush and compaction in a thread."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from benchmarks.engines.base import Pair, Sync, SyncEngine
from seerdb import DB

_DURABILITY = {Sync.MEMORY: "memory", Sync.DURABLE: "local"}


class SeerDBEngine(SyncEngine):
    """``durability="memory"`` where others do not sync, ``"local"`` where they do."""

    name: ClassVar[str] = "seerdb"
    replays_log: ClassVar[bool] = True
    has_tables: ClassVar[bool] = True

    def __init__(self, path: Path, sync: Sync) -> None:
        self._db = DB.open(str(path), durability=_DURABILITY[sync])
        self.put = self._db.put
        self.get = self._db.get
        self.multi_get = self._db.multi_get

    def batch_put(self, pairs: list[Pair]) -> None:
        with self._db.batch() as batch:
            put = batch.put
            for key, value in pairs:
                put(key, value)

    def pairs(self) -> Iterable[Pair]:
        return self._db.scan()

    def pairs_reverse(self) -> Iterable[Pair]:
        return self._db.scan(reverse=True)

    def store_requests(self) -> int:
        return sum(row.requests for row in self._db.statistics().store_requests)

    def replayed_records(self) -> int:
        return self._db.statistics().recovery.records

    def flush(self) -> None:
        self._db.flush()

    def close(self) -> None:
        self._db.close()
