"""Sealed segments that hold nothing but puts and deletes, straight from their records to packed
entries. Most logs do, and a memtable of them would cost a sixth to a half of a flush elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.local.files import FileSystem
from seerdb.storage.sstable.packed import Packed, join, pack
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.entries import Batch, by_shape, even_batches
from seerdb.storage.wal.format import decode_columns
from seerdb.storage.wal.replay import scan_sealed
from seerdb.storage.wal.singles import packed_singles
from seerdb.storage.workers.pace import Pace

_PLAIN = bytes((PUT, DELETE))
_FEWEST = 8
"""Records that are worth the calls: those of compressed frames come one by one."""
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
    pass


def read_plain(
    files: FileSystem, directory: str, segments: Iterable[int], pace: Pace
) -> PlainLog | None:
    """What a run of sealed segments holds; ``None`` where it holds something else, or nothing.

    Raises: ``CorruptionError`` for anything but whole, sealed segments.
    """
    log = _Log()

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

    def __init__(self) -> None:
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
            _check(singles.kinds.tobytes())
            self._pieces.append(singles)
        self._first, self._last = self._first or records[0], records[-1]

    def _pack(self) -> None:
        self._pieces.extend(_batches(self._batches))
        self._batches, self._size = [], 0

    def packed(self) -> PlainLog | None:
        """All of them; ``None`` if there is nothing."""
        self._pack()
        first, last = self._first, self._last
        if first is None or last is None or not self._pieces:
            return None
        return PlainLog(join(self._pieces), first[1], last[1], last[0])


def _batches(records: Iterable[Record]) -> Iterator[Packed]:
    """Records of any number of operations."""
    for shape, batches in by_shape((seq, payload) for seq, _, payload in records):
        if shape is None:
            yield from _one_by_one(batches)
        else:
            found = even_batches(batches, shape)
            _check(found.kinds.tobytes())
            yield Packed(found.data, found.seqs, found.kinds, shape=shape)


def _one_by_one(batches: Iterable[Batch]) -> list[Packed]:
    kinds: list[bytes] = []
    seqs: list[int] = []
    keys: list[bytes] = []
    values: list[bytes] = []
    for seq, payload in batches:
        found = decode_columns(payload, f"the batch of seq {seq}")
        kinds.append(found[0])
        seqs += [seq] * len(found[1])
        keys += found[1]
        values += found[2]
    if not keys:
        return []
    joined = b"".join(kinds)
    _check(joined)
    return [pack(keys, seqs, joined, values)]


def _check(kinds: bytes) -> None:
    if kinds.translate(None, _PLAIN):
        raise _NotPlain
