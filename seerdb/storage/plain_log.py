"""Sealed segments that hold nothing but puts and deletes, straight from their records to packed
entries. Most logs do, and a memtable of them would cost a sixth to a half of a flush elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.files import FileSystem
from seerdb.storage.pace import Pace
from seerdb.storage.replay import scan_sealed
from seerdb.storage.singles import packed_singles
from seerdb.storage.sstable.packed import Packed, join, pack
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.entries import even_batch
from seerdb.storage.wal.format import decode_columns

_PLAIN = bytes((PUT, DELETE))
_FEWEST = 8
"""Records that are worth the calls: those of compressed frames come one by one."""


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
    pieces: list[Packed] = []
    first: Record | None = None
    last: Record | None = None

    def take(records: Sequence[Record]) -> None:
        nonlocal first, last
        singles = packed_singles(records) if len(records) >= _FEWEST else None
        if singles is None:
            pieces.extend(_batches(records))
        else:
            _check(singles.kinds.tobytes())
            pieces.append(singles)
        first, last = first or records[0], records[-1]
        pace()

    try:
        for segment in segments:
            scan_sealed(files, directory, segment, take)
    except _NotPlain:
        return None
    if first is None or last is None or not pieces:
        return None
    return PlainLog(join(pieces), first[1], last[1], last[0])


def _batches(records: Sequence[Record]) -> list[Packed]:
    """Records of any number of operations: each large even one by a few calls, and all between two
    of these together."""
    pieces: list[Packed] = []
    others: list[Record] = []
    for record in records:
        seq, _, payload = record
        even = even_batch(payload, seq)
        if even is None or even.rows is None:
            others.append(record)
            continue
        pieces += _one_by_one(others)
        others = []
        _check(even.kinds.tobytes())
        key_size, size = int(even.key_sizes[0]), even.rows.shape[1]
        shape = key_size, size - key_size
        pieces.append(Packed(even.rows.ravel(), even.seqs, even.kinds, shape=shape))
    return pieces + _one_by_one(others)


def _one_by_one(records: Sequence[Record]) -> list[Packed]:
    kinds: list[bytes] = []
    seqs: list[int] = []
    keys: list[bytes] = []
    values: list[bytes] = []
    for seq, _, payload in records:
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
