"""From WAL segments back to a memtable: what recovery does at open and every flush does daily."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

from seerdb.errors import CorruptionError
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT, RangeTombstone
from seerdb.storage.local.files import FileSystem
from seerdb.storage.memtable import ENTRY_OVERHEAD, RANGE_OVERHEAD, Memtable, memory_of
from seerdb.storage.operators import MergeOperator
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.wal.columns import Record, RecordColumns
from seerdb.storage.wal.format import SINGLE, decode_batch
from seerdb.storage.wal.frames import Take
from seerdb.storage.wal.reader import Condition, SegmentScan, classify, scan_segment
from seerdb.storage.wal.singles import packed_singles
from seerdb.storage.workers.pace import Pace

_PLAIN = bytes((PUT, DELETE))
_SIMPLE = bytes((PUT, DELETE, DELETE_RANGE))
"""Kinds that tell the new version without the one before."""


def check_database(scan: SegmentScan, database_id: str) -> None:
    """Raise ``CorruptionError`` if a segment is the log of another database."""
    found = scan.header.database_id.hex()
    if found != database_id:
        raise CorruptionError(
            "a segment of another database's log",
            name=scan.name,
            offset=0,
            expected=database_id,
            found=found,
            hint="how did it get here?",
        )


class Replay:
    """A memtable in the making, from records in the order of the log.

    ``after``: what is not above this seq is left out. ``records`` counts the others, ``last_seq``
    is the last of them, 0 when there are none.
    """

    def __init__(self, after: int = 0, operator: MergeOperator | None = None) -> None:
        self.records = 0
        self.last_seq = 0
        self._after = after
        self._memtable = Memtable([], operator)
        # Not in the memtable yet, which is quicker for many at once.
        self._ranges: list[RangeTombstone] = []

    def take(self, records: Sequence[Record]) -> None:
        """Apply the next records, at least one. Raises: ``CorruptionError``."""
        if records[0][0] <= self._after:
            records = records[bisect_right(records, self._after, key=itemgetter(0)) :]
            if not len(records):
                return
        entries = packed_singles(records) if isinstance(records, RecordColumns) else None
        if entries is not None and not entries.kinds.tobytes().translate(None, _PLAIN):
            self._add(entries)
        else:
            self._take_each(records)
        if not self.records:
            self._memtable.first_us = records[0][1]
        self.records += len(records)
        self.last_seq, self._memtable.last_us, _ = records[-1]

    def _add(self, entries: Packed) -> None:
        """Apply puts and deletes."""
        values: list[bytes | None] = [*entries.values()]
        for place in (entries.kinds == DELETE).nonzero()[0].tolist():
            values[place] = None
        self._memtable.add(entries.keys(), array("Q", entries.seqs.tobytes()), values)

    def _take_each(self, records: Iterable[Record]) -> None:
        memtable, unpack, fixed = self._memtable, SINGLE.unpack_from, SINGLE.size
        newest, seqs, values = memtable.newest, memtable.seqs, memtable.values
        for seq, time_us, payload in records:
            if len(payload) >= fixed:
                # Most records are one put; what ``decode_batch`` does for it, without the call.
                count, kind, key_length, value_length = unpack(payload)
                split = fixed + key_length
                is_single = count == 1 and split + value_length == len(payload)
                if is_single and PUT <= kind <= DELETE and key_length:
                    newest[payload[fixed:split]] = len(values)
                    seqs.append(seq)
                    values.append(payload[split:] if kind == PUT else None)
                    continue
            self._apply(seq, time_us, *decode_batch(payload, f"the batch of seq {seq}"))

    def _apply(
        self, seq: int, time_us: int, kinds: bytes, keys: list[bytes], values: list[bytes]
    ) -> None:
        memtable = self._memtable
        if kinds.count(PUT) == len(kinds):
            memtable.add(keys, repeat(seq, len(keys)), values)
            return
        operations = list(zip(kinds, keys, values, strict=True))
        if kinds.translate(None, _SIMPLE):
            self._add_ranges()  # what is merged must not reach under them
            memtable.add_versions(memtable.prepare(seq, operations, time_us))
            return
        ranges = [RangeTombstone(k, v, seq) for kind, k, v in operations if kind == DELETE_RANGE]
        self._ranges += ranges
        rows = [(k, v if kind == PUT else None) for kind, k, v in operations if kind <= DELETE]
        memtable.add([k for k, _ in rows], repeat(seq, len(rows)), [v for _, v in rows])

    def _add_ranges(self) -> None:
        self._memtable.add_tombstones(self._ranges)
        self._ranges = []

    def memtable(self, segments: list[int]) -> Memtable:
        """What came of it, as the memtable of ``segments``. Call it once, at the end."""
        self._add_ranges()
        memtable = self._memtable
        memtable.segments = segments
        memtable.last_seq = self.last_seq
        memtable.size = _size(memtable)
        return memtable


def _size(memtable: Memtable) -> int:
    size_of: Callable[[Any], int] = memory_of if memtable.special else len
    values = sum(map(size_of, filter(None, memtable.values)))
    ranges = memtable.tombstones.tombstones
    return (
        ENTRY_OVERHEAD * len(memtable.values)
        + sum(map(len, memtable.newest))
        + values
        + sum(RANGE_OVERHEAD + len(start) + len(end) for start, end, _ in ranges)
    )


def replay_sealed(
    files: FileSystem,
    directory: str,
    segments: Iterable[int],
    pace: Pace,
    operator: MergeOperator | None = None,
) -> Memtable:
    """The memtable of a run of sealed segments.

    Raises: ``CorruptionError`` for anything but whole, sealed segments.
    """
    replay = Replay(operator=operator)
    replayed: list[int] = []

    def take(records: Sequence[Record]) -> None:
        replay.take(records)
        pace()

    for segment in segments:
        scan_sealed(files, directory, segment, take)
        replayed.append(segment)
    return replay.memtable(replayed)


def scan_sealed(files: FileSystem, directory: str, segment: int, take: Take) -> None:
    """Give ``take`` the records of a segment, some at a time.

    Raises: ``CorruptionError`` for anything but a whole, sealed segment, when the records before
    the damage were taken.
    """
    scan = scan_segment(files, directory, segment, take=take)
    if classify(scan, is_last=False) is not Condition.SOUND:
        raise scan.error()
