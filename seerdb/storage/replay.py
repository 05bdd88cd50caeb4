"""From WAL segments back to a memtable: what recovery does at open and every flush does daily."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from operator import itemgetter

from seerdb.errors import CorruptionError
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT, RangeTombstone
from seerdb.storage.files import FileSystem
from seerdb.storage.memtable import ENTRY_OVERHEAD, Memtable, memory_of
from seerdb.storage.operators import MergeOperator
from seerdb.storage.pace import Pace
from seerdb.storage.wal.format import SINGLE, decode_columns
from seerdb.storage.wal.reader import Condition, SegmentScan, classify, scan_segment

WalRecord = tuple[int, int, bytes]
"""Seq, timestamp in microseconds, payload."""

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

    def take(self, records: list[WalRecord]) -> None:
        """Apply the next records, at least one. Raises: ``CorruptionError``."""
        if records[0][0] <= self._after:
            records = [record for record in records if record[0] > self._after]
        entries, unpack, fixed = self._memtable.entries, SINGLE.unpack_from, SINGLE.size
        for seq, time_us, payload in records:
            if len(payload) >= fixed:
                # Most records are one put; what ``decode_columns`` does for it, without the call.
                count, kind, key_length, value_length = unpack(payload)
                split = fixed + key_length
                if count == 1 and split + value_length == len(payload):
                    if kind == PUT:
                        entries[payload[fixed:split]] = (seq, payload[split:])
                        continue
                    if kind == DELETE:
                        entries[payload[fixed:split]] = (seq, None)
                        continue
            self._apply(seq, time_us, *decode_columns(payload, f"the batch of seq {seq}"))
        if records:
            if not self.records:
                self._memtable.first_us = records[0][1]
            self.records += len(records)
            self.last_seq, self._memtable.last_us, _ = records[-1]

    def _apply(
        self, seq: int, time_us: int, kinds: bytes, keys: list[bytes], values: list[bytes]
    ) -> None:
        entries = self._memtable.entries
        if kinds.count(PUT) == len(kinds):
            entries.update(zip(keys, zip(repeat(seq), values, strict=False), strict=False))
            return
        operations = list(zip(kinds, keys, values, strict=True))
        if kinds.translate(None, _SIMPLE):
            self._add_ranges()  # what is merged must not reach under them
            entries.update(self._memtable.prepare(seq, operations, time_us))
            return
        for kind, key, value in operations:
            if kind == DELETE_RANGE:
                self._ranges.append(RangeTombstone(key, value, seq))
            else:
                entries[key] = (seq, value if kind == PUT else None)

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
    entries = memtable.entries
    values = filter(None, map(itemgetter(1), entries.values()))
    size_of = memory_of if memtable.special else len
    return ENTRY_OVERHEAD * len(entries) + sum(map(len, entries)) + sum(map(size_of, values))


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

    def take(records: list[WalRecord]) -> None:
        replay.take(records)
        pace()

    for segment in segments:
        scan = scan_segment(files, directory, segment, take=take)
        if classify(scan, is_last=False) is not Condition.SOUND:
            raise scan.error()
        replayed.append(segment)
    return replay.memtable(replayed)
