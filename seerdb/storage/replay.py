"""From WAL segments back to a memtable: what recovery does at open and every flush does daily."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from seerdb.errors import CorruptionError
from seerdb.storage.entry import DELETE_RANGE, PUT, RangeTombstone
from seerdb.storage.files import FileSystem
from seerdb.storage.memtable import ENTRY_OVERHEAD, Memtable
from seerdb.storage.wal.format import SINGLE, decode_operations
from seerdb.storage.wal.reader import Condition, SegmentScan, classify, scan_segment

WalRecord = tuple[int, int, bytes]
"""Seq, timestamp in microseconds, payload."""


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


def replay(memtable: Memtable, records: Iterable[WalRecord]) -> None:
    """Apply records in the order of the log.

    Requires: nobody else uses the memtable yet; seqs above what it holds.
    """
    entries = memtable.entries
    ranges: list[RangeTombstone] = []
    seq = memtable.last_seq
    unpack, fixed = SINGLE.unpack_from, SINGLE.size
    for seq, _, payload in records:
        if len(payload) >= fixed:
            # Most records are one put; what ``decode_operations`` does for it, without the call.
            count, kind, key_length, value_length = unpack(payload)
            split = fixed + key_length
            if count == 1 and kind == PUT and split + value_length == len(payload):
                entries[payload[fixed:split]] = (seq, payload[split:])
                continue
        for kind, key, value in decode_operations(payload):
            if kind == PUT:
                entries[key] = (seq, value)
            elif kind == DELETE_RANGE:
                ranges.append(RangeTombstone(key, value, seq))
            else:
                entries[key] = (seq, None)
    if ranges:
        memtable.add_tombstones(ranges)
    memtable.last_seq = seq
    memtable.size = _size(memtable)


def _size(memtable: Memtable) -> int:
    size = sum(map(len, memtable.entries))
    size += sum(len(value) for _, value in memtable.entries.values() if value)
    return size + ENTRY_OVERHEAD * len(memtable.entries)


def replay_sealed(
    files: FileSystem, directory: str, segments: Iterable[int]
) -> tuple[Memtable, int, int]:
    """The memtable of a run of sealed segments, and its first and last timestamp.

    Raises: ``CorruptionError`` for anything but whole, sealed segments.
    """
    memtable = Memtable(list(segments))
    stamps: list[int] = []
    with many_objects():
        for segment in memtable.segments:
            scan = scan_segment(files, directory, segment)
            if classify(scan, is_last=False) is not Condition.SOUND:
                raise scan.error()
            if scan.records:
                stamps += (scan.records[0][1], scan.records[-1][1])
                replay(memtable, scan.records)
    return memtable, min(stamps, default=0), max(stamps, default=0)


@contextmanager
def many_objects() -> Iterator[None]:
    """Suspend the cyclic collector while millions of objects without cycles are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
