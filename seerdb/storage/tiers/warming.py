"""Warming: bringing a new table's blocks into memory before reads look at it.

Without it every flush and every compaction would be a cliff: what was answered from memory a
moment ago would take a request to the bucket. Nothing here changes an answer, and nobody waits for
it long: taking blocks apart is work for the interpreter that answers reads, so it keeps a pace.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from seerdb.ids import TableId
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.block import Block
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.tiers.table_store import TableHandle, TableStore
from seerdb.storage.workers.pace import Pace, at_full_speed

FLUSH_SHARE = 4
"""A flushed table is warmed if it takes at most one part in so many of the spare memory."""

_BLOCKS_AT_ONCE = 64


class Interest:
    """Whether reads look at tables at all. For one thread."""

    def __init__(self, reads: Callable[[], int]) -> None:
        """``reads``: how many have looked at tables so far."""
        self._reads = reads
        self._before = reads()

    def is_fresh(self) -> bool:
        """Whether some have since the last call."""
        before, self._before = self._before, self._reads()
        return self._before != before


KeyRange = tuple[bytes, bytes]
"""From a key up to, not including, another."""


def warm_flushed(
    tables: TableStore, table: TableMeta, pace: Pace = at_full_speed, *, whole: bool
) -> TableHandle:
    """Load all of a table that was a memtable, if ``whole`` and there is room to spare; always its
    tail.

    Keep the handle until the table is in a layout: what is loaded lives with it.
    """
    handle = tables.handle(table)
    reader = tables.open(handle)
    if whole and reader.properties.raw_bytes * FLUSH_SHARE <= tables.spare_memory:
        for _ in _load(tables, handle, range(reader.block_count), pace):
            pass
    return handle


def warm_merged(
    tables: TableStore,
    inputs: Iterable[TableId],
    outputs: Iterable[TableMeta],
    pace: Pace = at_full_speed,
) -> list[TableHandle]:
    """Load what overlaps those blocks of ``inputs`` that are read often, and the tails, if some
    of theirs were in memory; see ``warm_flushed``."""
    readers = [reader for table in inputs if (reader := tables.known_reader(table)) is not None]
    hot = _union(key_range for reader in readers for key_range in _hot_ranges(tables, reader))
    starts = [start for start, _ in hot]
    handles = [tables.handle(table) for table in outputs]
    for handle in handles if readers else ():
        reader = tables.open(handle)
        numbers = range(reader.block_count)
        wanted = [n for n in numbers if _overlaps(hot, starts, _range_of(reader, n))]
        load_hot(tables, handle, wanted, pace)
    return handles


def load_hot(
    tables: TableStore,
    handle: TableHandle,
    numbers: Sequence[int],
    pace: Pace = at_full_speed,
) -> None:
    """Load blocks that are as good as asked for again."""
    for blocks in _load(tables, handle, numbers, pace):
        for block in blocks:
            block.visited = True


def _hot_ranges(tables: TableStore, reader: TableReader) -> Iterator[KeyRange]:
    for number in tables.hot_blocks(reader):
        yield _range_of(reader, number)


def _range_of(reader: TableReader, number: int) -> KeyRange:
    is_last = number + 1 == reader.block_count
    end = reader.largest + b"\0" if is_last else reader.separator(number + 1)
    return reader.separator(number), end


def _union(ranges: Iterable[KeyRange]) -> list[KeyRange]:
    """The same keys as ranges that neither overlap nor touch, in order."""
    united: list[KeyRange] = []
    for start, end in sorted(ranges):
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(united[-1][1], end)
        else:
            united.append((start, end))
    return united


def _overlaps(ranges: list[KeyRange], starts: list[bytes], wanted: KeyRange) -> bool:
    candidate = bisect_left(starts, wanted[1]) - 1
    return candidate >= 0 and ranges[candidate][1] > wanted[0]


def _load(
    tables: TableStore, handle: TableHandle, numbers: Sequence[int], pace: Pace
) -> Iterator[list[Block]]:
    """Load blocks, neighbours by one request; what each brought, before the next is made."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        neighbours = [number for _, number in group]
        for start in range(0, len(neighbours), _BLOCKS_AT_ONCE):
            some = neighbours[start : start + _BLOCKS_AT_ONCE]
            yield tables.load_range(handle, some[0], some[-1] + 1, fill=True, pace=pace)
