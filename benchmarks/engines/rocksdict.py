"""RocksDB by rocksdict: raw bytes; default options, and a second set with our filter and cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

from benchmarks.engines.base import Pair, Sync, SyncEngine

_ROOMY = 4 << 30
"""A memtable that nothing fills."""

_CACHE_BYTES = 256 << 20
_FILTER_BITS = 10


class RocksdictEngine(SyncEngine):
    """RocksDB's own defaults: 4 KiB blocks, Snappy, 32 MiB of block cache, no filter."""

    name: ClassVar[str] = "rocksdict"
    replays_log: ClassVar[bool] = True
    has_tables: ClassVar[bool] = True
    merges: ClassVar[bool] = True

    def __init__(self, path: Path, sync: Sync, options: Options | None = None) -> None:
        options = options or self._options()
        # On opening again, rocksdict gives a column family its own defaults unless it is named.
        families = {"default": options} if path.exists() else None
        self._db = Rdict(str(path), options, column_families=families)
        if sync is Sync.DURABLE:
            write_options = WriteOptions()
            write_options.sync = True
            self._db.set_write_options(write_options)
        self.put = self._db.put
        self.get = self._db.get
        self.multi_get = cast("Callable[[list[bytes]], list[bytes | None]]", self._db.get)

    @staticmethod
    def _options() -> Options:
        return Options(raw_mode=True)

    @classmethod
    def quiet(cls, path: Path) -> Self:
        options = cls._options()
        options.set_write_buffer_size(_ROOMY)
        options.set_disable_auto_compactions(True)
        return cls(path, Sync.MEMORY, options)

    def merge(self) -> None:
        self._db.compact_range(None, None)

    def table_bytes(self) -> int:
        return sum(file["size"] for file in self._db.live_files())

    def batch_put(self, pairs: list[Pair]) -> None:
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in pairs:
            put(key, value)
        self._db.write(batch)

    def pairs(self) -> Any:
        return self._db.items()

    def pairs_reverse(self) -> Any:
        return self._db.items(backwards=True)

    def flush(self) -> None:
        self._db.flush()

    def close(self) -> None:
        self._db.close()


class TunedRocksdictEngine(RocksdictEngine):
    """The same with what SeerDB has by default: a filter of 10 bits per key, 256 MiB of cache."""

    name: ClassVar[str] = "rocksdict_tuned"

    @staticmethod
    def _options() -> Options:
        blocks = BlockBasedOptions()
        blocks.set_bloom_filter(_FILTER_BITS, block_based=False)
        blocks.set_block_cache(Cache(_CACHE_BYTES))
        options = Options(raw_mode=True)
        options.set_block_based_table_factory(blocks)
        return options
