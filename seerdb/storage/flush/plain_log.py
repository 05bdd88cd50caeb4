"""Sealed segments that hold nothing but puts and deletes, straight from their records to packed
entries. Most logs do. To make a memtable of them would cost a sixth to a half of a flush elsewhere;
and where there is one, its objects are looked at one by one, in which time no other thread runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.local.files import FileSystem
from seerdb.storage.sstable.packed import Packed, join, pack
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.entries import Batch, by_shape, count_of, even_batches
from seerdb.storage.wal.format import decode_batch
from seerdb.storage.wal.replay import scan_sealed
from seerdb.storage.wal.singles import packed_singles
from seerdb.storage.workers.pace import Pace

_PLAIN = {PUT, DELETE}
_FEWEST = 8
"""Records that are worth the calls: those of compressed frames come one by one."""
_ONE_BY_ONE = 1024
"""Entries that may be, where there is a memtable."""
_TOGETHER = 1 << 20
"""Bytes of batches that are packed by few calls."""


class PlainLog(NamedTuple):
    """``entries`` are all puts and deletes as they were logged, one at least; the last of a key
    counts. Times are those of the first and the last commit, in microseconds."""

    entries: Packed
    first_us: int
    last_us: int
    last_seq: int


class _NotPlain(Exception):
    """What there is has to come from a memtable."""


def read_plain(
    files: FileSystem,
    directory: str,
    segments: Iterable[int],
    pace: Pace,
    *,
    below: int = 0,
    in_bulk: bool = False,
) -> PlainLog | None:
    """What a run of sealed segments holds; ``None`` where it holds something else, or nothing, or a
    value of ``below`` bytes or more, unless that is 0; with ``in_bulk`` also where more than
    a few entries would have to be looked at one by one.

    Raises: ``CorruptionError`` for anything but whole, sealed segments.
    """
    log = _Log(below, _ONE_BY_ONE if in_bulk else sys.maxsize)

    def take(records: Sequence[Record]) -> None:
        log.take(records)
        pace()

    try:
        for segment in segments:
            scan_sealed(files, directory, segment, take)
        return log.packed()
    except _NotPlain:
        return None


class _Log:
    """Records in their order, as entries. Raises ``_NotPlain`` where they hold something else."""

    def __init__(self, below: int, one_by_one: int) -> None:
        self._below = below
        self._one_by_one = one_by_one
        """How many more may be looked at so."""
        self._pieces: list[Packed] = []
        # Not packed yet, and how many bytes that are:
        self._batches: list[Record] = []
        self._size = 0
        self._first: Record | None = None
        self._last: Record | None = None

    def take(self, records: Sequence[Record]) -> None:
        """Add the next ones, at least one."""
        singles = packed_singles(records) if len(records) >= _FEWEST else None
        if singles is None:
            self._batches.extend(records)
            self._size += sum(len(payload) for _, _, payload in records)
        if singles is not None or self._size >= _TOGETHER:
            self._pack()
        if singles is not None:
            self._keep(singles)
        self._first, self._last = self._first or records[0], records[-1]

    def _pack(self) -> None:
        for shape, batches in by_shape((seq, payload) for seq, _, payload in self._batches):
            if shape is not None:
                found = even_batches(batches, shape)
                self._keep(Packed(found.data, found.seqs, found.kinds, shape=shape))
                continue
            self._one_by_one -= sum(map(count_of, batches))
            if self._one_by_one < 0:
                raise _NotPlain
            if entries := _one_by_one(batches):
                self._keep(entries)
        self._batches, self._size = [], 0

    def _keep(self, entries: Packed) -> None:
        largest = entries.shape[1] if entries.shape else int(entries.lengths[:, 1].max())
        if (self._below and largest >= self._below) or set(entries.kinds.tobytes()) - _PLAIN:
            raise _NotPlain
        self._pieces.append(entries)

    def packed(self) -> PlainLog | None:
        """All of them; ``None`` if there is nothing."""
        self._pack()
        first, last = self._first, self._last
        if first is None or last is None or not self._pieces:
            return None
        return PlainLog(join(self._pieces), first[1], last[1], last[0])


def _one_by_one(batches: Iterable[Batch]) -> Packed | None:
    """Batches of any shape; ``None`` where there is nothing in them."""
    kinds: list[bytes] = []
    seqs: list[int] = []
    keys: list[bytes] = []
    values: list[bytes] = []
    for seq, payload in batches:
        found = decode_batch(payload, f"the batch of seq {seq}")
        kinds.append(found[0])
        seqs += [seq] * len(found[1])
        keys += found[1]
        values += found[2]
    return pack(keys, seqs, b"".join(kinds), values) if keys else None
