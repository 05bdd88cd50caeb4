"""Making tables for a restored database: of commits from the log, and of the part of a table that
has a prefix.

Nothing that the tables need is held back until the end: log becomes a table for each
``MEMTABLE_BYTES`` of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from seerdb.ids import Epoch, TableId, table_id
from seerdb.options import Options
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.run import CompactionJob, run_compaction
from seerdb.storage.entry import DELETE_RANGE
from seerdb.storage.flush.run import FlushJob, TableFormat, run_flush
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.manifest.version import Run, TableMeta
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import decode_operations, encode_operations
from seerdb.storage.wal.replay import Replay
from seerdb.storage.workers.pace import at_full_speed

MEMTABLE_BYTES = 64 << 20
"""Bytes of commits that become one table."""

ONE_TABLE = 1 << 62


class Rebuilder:
    """Makes tables in ``target``, of an epoch that made no table before. ``start`` and ``end``: the
    keys to be kept; ``None``: no bound. Thread-safe, but for :meth:`replay`."""

    def __init__(
        self, target: ObjectStore, epoch: Epoch, start: bytes | None, end: bytes | None
    ) -> None:
        self._target = target
        self._epoch = epoch
        self._start = start
        self._end = end
        self._counter = itertools.count(1)
        self._format = TableFormat.of(Options(), None)

    def _next_id(self) -> TableId:
        return table_id(self._epoch, next(self._counter))

    def is_within(self, table: TableMeta) -> bool:
        """Whether all of a table is to be kept, as it is."""
        return (self._start is None or self._start <= table.smallest) and (
            self._end is None or table.largest < self._end
        )

    def cut(self, source: ObjectStore, run: Run, table: TableMeta) -> tuple[TableMeta, ...]:
        """What is to be kept of a table of ``source``, as a table of the same run; none when there
        is nothing. It points into the same blobs. Durable when it returns."""
        plan = Plan(
            inputs=(Run(run.level, run.number, (table,)),),
            level=run.level,
            run=run.number,
            table_size=ONE_TABLE,
            bottom=False,
            move=False,
        )
        job = CompactionJob(plan, self._start, self._end, (self._next_id(),), self._format)
        crossing = _Crossing(source, self._target)
        return run_compaction(job, OsFileSystem(), crossing, at_full_speed).tables

    def replay(self, groups: Iterable[Sequence[Record]], run: int) -> Iterator[TableMeta]:
        """Tables of commits, in order, the first of which forms run ``run`` of level 0 and each
        other one a newer run. Durable when yielded."""
        replay, size = Replay(), 0
        for group in groups:
            kept = self._kept(group)
            if kept:
                replay.take(kept)
                size += sum(len(payload) for _, _, payload in kept)
            if size >= MEMTABLE_BYTES:
                yield from self._flush(replay, run)
                replay, size, run = Replay(), 0, run + 1
        if size:
            yield from self._flush(replay, run)

    def _flush(self, replay: Replay, run: int) -> Iterator[TableMeta]:
        job = FlushJob(
            directory="",
            segments=(),
            table=self._next_id(),
            run=run,
            format=self._format,
            memtable=replay.memtable([]),
        )
        table = run_flush(job, OsFileSystem(), self._target, at_full_speed).table
        if table is not None:
            yield table

    def _kept(self, records: Sequence[Record]) -> list[Record]:
        if self._start is None and self._end is None:
            return list(records)
        kept = []
        for seq, time_us, payload in records:
            operations = list(self._inside(decode_operations(payload, f"the batch of seq {seq}")))
            if operations:
                kinds, keys, values = zip(*operations, strict=True)
                kept.append((seq, time_us, encode_operations(bytes(kinds), keys, values)))
        return kept

    def _inside(
        self, operations: Iterable[tuple[int, bytes, bytes]]
    ) -> Iterator[tuple[int, bytes, bytes]]:
        start, end = self._start or b"", self._end
        for kind, key, value in operations:
            if kind == DELETE_RANGE:
                low, high = max(key, start), value if end is None else min(value, end)
                if low < high:
                    yield kind, low, high
            elif start <= key and (end is None or key < end):
                yield kind, key, value


class _Crossing:
    """Reads the inputs of a job, by ranges, from one store; what is put, and read back whole, is in
    another."""

    def __init__(self, source: ObjectStore, target: ObjectStore) -> None:
        self._source = source
        self._target = target
        self.get_range = source.get_range
        self.get = target.get
        self.checksum = target.checksum
        self.put = target.put
        self.put_if_absent = target.put_if_absent
        self.delete = target.delete

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._target.list(prefix)

    def close(self) -> None:
        """Both are somebody else's."""
