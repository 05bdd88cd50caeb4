"""SlateDB: its object store is a local directory, its asynchronous calls run in one event loop.

Each bulk operation is one coroutine, so the loop is entered once and not once per operation.
Not measured as durable: its local object store does not sync the files it writes, so waiting
for its "durable" gives less than the others' sync gives.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import slatedb.uniffi as slatedb

from benchmarks.engines.base import Engine, Pair, Sync

T = TypeVar("T")

_PUTS = 20_000
_ENTRIES = 50_000
_READS = 20_000
_ROWS_PER_CALL = 1_000

_ROOMY = 512 << 20
"""A memtable that nothing fills."""

_MANY = "1000000"
_POLL = 0.01
_ENDED = (slatedb.CompactionStatus.COMPLETED, slatedb.CompactionStatus.FAILED)


class SlateDBEngine(Engine):
    """Writes are not awaited to be durable; scans fetch 1,000 rows per call."""

    name: ClassVar[str] = "slatedb"
    durable: ClassVar[bool] = False
    has_tables: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    limits: ClassVar[dict[str, int]] = {"put": _PUTS, "load": _ENTRIES, "read": _READS}
    codec: ClassVar[str | None] = None

    def __init__(self, path: Path, sync: Sync, settings: dict[str, Any] | None = None) -> None:
        if sync is Sync.DURABLE:
            raise ValueError("SlateDB on a local directory has no synced writes")
        path.mkdir(exist_ok=True)
        self._loop = asyncio.new_event_loop()
        self._at = (str(path.resolve()).lstrip("/"), slatedb.ObjectStore.resolve("file:///"))
        self._db: slatedb.Db = self._run(self._open(settings or _defaults()))

    async def _open(self, settings: dict[str, Any]) -> slatedb.Db:
        settings["compression_codec"] = self.codec
        settings["compactor_options"]["worker"]["compression_codec"] = self.codec
        builder = slatedb.DbBuilder(*self._at)
        builder.with_settings(slatedb.Settings.from_json_string(json.dumps(settings)))
        return await builder.build()

    @classmethod
    def quiet(cls, path: Path) -> Self:
        """Its compactor looks for what was asked for every few seconds by default; here it does so
        every few milliseconds, so that a merge is timed and not the wait for it."""
        settings = _defaults()
        settings["l0_sst_size_bytes"] = _ROOMY
        compactor = settings["compactor_options"]
        compactor["scheduler_options"] = {"min_compaction_sources": _MANY}
        compactor["scheduler_options"]["max_compaction_sources"] = _MANY
        often = f"{_POLL * 1e3:.0f}ms"
        compactor["poll_interval"] = compactor["commit_compacted_interval"] = often
        compactor["worker"]["compactions_poll_interval"] = often
        return cls(path, Sync.MEMORY, settings)

    def merge(self) -> None:
        self._run(self._merge())

    async def _merge(self) -> None:
        admin = slatedb.AdminBuilder(*self._at).build()
        manifest = (await admin.read_compactor_state_view()).manifest
        sources = [slatedb.SourceId.SST_VIEW(view.id) for view in manifest.l0]
        sources += [slatedb.SourceId.SORTED_RUN(run.id) for run in manifest.compacted]
        spec = slatedb.CompactionSpec.TIERED(b"", sources, 0)
        asked = await admin.submit_compaction(spec)
        while (job := await admin.read_compaction(asked.id, None)).status not in _ENDED:
            await asyncio.sleep(_POLL)
        if job.status is slatedb.CompactionStatus.FAILED:
            raise OSError("SlateDB's compaction failed")

    def table_bytes(self) -> int:
        admin = slatedb.AdminBuilder(*self._at).build()
        manifest = self._run(admin.read_compactor_state_view()).manifest
        tables = [*manifest.l0, *manifest.compacted]
        return sum(table.estimated_size_bytes for table in tables)

    def put_each(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        async def loop() -> None:
            put = self._db.put
            for key, value in zip(keys, values, strict=True):
                await put(key, value)

        self._run(loop())

    def put_batches(self, batches: Iterable[list[Pair]]) -> None:
        async def loop() -> None:
            for pairs in batches:
                batch = slatedb.WriteBatch()
                put = batch.put
                for key, value in pairs:
                    put(key, value)
                await self._db.write(batch)

        self._run(loop())

    def read(self, key: bytes) -> bytes | None:
        value: bytes | None = self._run(self._db.get(key))
        return value

    def get_each(self, keys: Sequence[bytes]) -> int:
        async def loop() -> int:
            get = self._db.get
            found = 0
            for key in keys:
                if await get(key) is not None:
                    found += 1
            return found

        return self._run(loop())

    def multi_get_each(self, groups: Sequence[list[bytes]]) -> int:
        async def loop() -> int:
            get = self._db.get
            found = 0
            for group in groups:
                values = await asyncio.gather(*map(get, group))
                found += sum(value is not None for value in values)
            return found

        return self._run(loop())

    def scan(self) -> int:
        return self._run(self._scan(slatedb.IterationOrder.ASCENDING))

    def scan_reverse(self) -> int:
        return self._run(self._scan(slatedb.IterationOrder.DESCENDING))

    async def _scan(self, order: slatedb.IterationOrder) -> int:
        everything = slatedb.KeyRange(
            start=None, start_inclusive=False, end=None, end_inclusive=False
        )
        options = slatedb.ScanOptions(
            durability_filter=slatedb.DurabilityLevel.MEMORY,
            dirty=False,
            read_ahead_bytes=1,
            cache_blocks=False,
            max_fetch_tasks=1,
            order=order,
        )
        rows = await self._db.scan_with_options(everything, options)
        count = 0
        while chunk := await rows.next_batch(_ROWS_PER_CALL):
            for row in chunk:
                _key, _value = row.key, row.value
                count += 1
        return count

    def flush(self) -> None:
        options = slatedb.FlushOptions(flush_type=slatedb.FlushType.MEM_TABLE)
        self._run(self._db.flush_with_options(options))

    def close(self) -> None:
        self._run(self._db.shutdown())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)


class ZstdSlateDBEngine(SlateDBEngine):
    """Compresses its tables as SeerDB does by default."""

    name: ClassVar[str] = "slatedb_zstd"
    codec: ClassVar[str | None] = "Zstd"


def _defaults() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(slatedb.Settings.default().to_json_string())
    return settings
