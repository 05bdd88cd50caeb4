"""SeerDB: default settings; bucket and log in one directory; flush and compaction in a thread."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from benchmarks.engines.base import Pair, Sync, SyncEngine
from seerdb import DB

_ROOMY = 8 << 30
"""A memtable that nothing fills, so that only ``flush`` flushes. What is merged when follows from
its size: runs far below that are left alone, up to four of them."""

_DURABILITY = {Sync.MEMORY: "memory", Sync.DURABLE: "local"}


class SeerDBEngine(SyncEngine):
    """``durability="memory"`` where others do not sync, ``"local"`` where they do."""

    name: ClassVar[str] = "seerdb"
    replays_log: ClassVar[bool] = True
    has_tables: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    compression: ClassVar[str] = "zstd"

    def __init__(self, path: Path, sync: Sync, **settings: Any) -> None:
        settings |= {"durability": _DURABILITY[sync], "compression": self.compression}
        self._db = DB.open(str(path), **settings)
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

    @classmethod
    def quiet(cls, path: Path, background: str = "thread") -> Self:
        return cls(path, Sync.MEMORY, memtable_capacity=_ROOMY, background=background)

    def merge(self) -> None:
        self._db.compact()

    def table_bytes(self) -> int:
        return self._db.statistics().table_bytes

    def store_requests(self) -> int:
        # Not what the warm-up reads, beside whatever comes after the opening.
        rows = self._db.statistics().store_requests
        return sum(row.requests for row in rows if row.purpose != "read")

    def replayed_records(self) -> int:
        return self._db.statistics().recovery.records

    def flush(self) -> None:
        self._db.flush()

    def close(self) -> None:
        self._db.close()


class PlainSeerDBEngine(SeerDBEngine):
    """Compresses nothing, as SlateDB does by default."""

    name: ClassVar[str] = "seerdb_plain"
    compression: ClassVar[str] = "none"
