"""Proves that a table which a flush has made holds what the log has: nothing is lost, doubled or
changed.

The log has every operation, the table the newest of each key. So *log = table + dropped*, as
digests: dropped are operations after which the same key was written again, or a range with it
deleted. What is dropped is found in the log alone, by a hash of each key, and not from the memtable
or the table, so that these are proved too: an entry that never came into the memtable shows as one
that the flush has lost. Large values, which the table has as pointers, count as they were.

Where operands were merged, the table has what they were folded to; what such a commit wrote is left
out on both sides.

The segments are read without looking at their checksums. When the proof fails, they are looked at:
if the log is damaged, there is nothing to compare with, which is told and no reason to hold back
what is in memory and sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from seerdb.errors import CorruptionError, DiskError
from seerdb.ids import MAX_SEQ
from seerdb.storage.digest import NONE, Digest, Numbers, digest, summed
from seerdb.storage.entry import (
    DELETE_RANGE,
    MERGE,
    RangeTombstone,
    RangeTombstones,
    joined,
)
from seerdb.storage.local.files import FileSystem
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.wal.entries import Operations, operations_in
from seerdb.storage.wal.reader import Condition, classify, scan_segment
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.wal.starts import Flags


class Flushed(NamedTuple):
    """What a flush has made of the log."""

    sums: Digest
    """Of the table, with values where it has pointers."""
    entries: Callable[[], Iterable[Packed]]
    """The same in full."""
    tombstones: Sequence[RangeTombstone]
    overwrites: bool
    """Whether some key was written more than once."""


class LocalSegments(NamedTuple):
    """The log of a memtable: the records after seq ``after`` in these."""

    files: FileSystem
    directory: str
    segments: Sequence[int]
    after: int


def prove(flushed: Flushed, log: LocalSegments) -> str:
    """Raise ``CorruptionError`` unless the table is what the log makes it; returns why that could
    not be told, if so. Where there are no segments, nothing is to be told."""
    if not log.segments:
        return ""
    detail = _Detail.SUMS
    if flushed.overwrites or flushed.tombstones:
        detail = _Detail.OPERATIONS if flushed.tombstones else _Detail.HASHES
    try:
        found = _Log(log, detail)
        if found.wanted > detail or not _agree(found, flushed):
            found = _Log(log, max(found.wanted, _Detail.HASHES))
            if not _agree(found, flushed):
                _check_log(log)
                raise _Disagreement
    except _Disagreement:
        expected, sums = found.newest(), _sums_of(flushed, found)
    except (CorruptionError, DiskError) as error:
        return str(error)
    else:
        return ""
    raise CorruptionError(
        "a flush would lose, double or change entries of the log",
        name=f"seq {found.first} to {found.last}",
        expected=f"{expected.entries} entries, {expected}",
        found=f"{sums.entries} entries, {sums}",
        hint="the log has it all and is kept: close the database and open it again, which reads "
        "the log; if that fails, verify the database",
    )


class _Detail(IntEnum):
    """What is to be known of the log."""

    SUMS = 1
    HASHES = 2
    """Which operations hide others, as keys are written again."""
    OPERATIONS = 3
    """Which operations are hidden by range deletes."""


class _Disagreement(Exception):
    pass


def _agree(found: _Log, flushed: Flushed) -> bool:
    ranges = joined(found.ranges) == joined(flushed.tombstones)
    return ranges and found.newest() == _sums_of(flushed, found)


def _sums_of(flushed: Flushed, found: _Log) -> Digest:
    if not found.merged:
        return flushed.sums
    return sum((digest(_others(each, found.merged)) for each in flushed.entries()), NONE)


def _others(entries: Packed, seqs: set[int]) -> Packed:
    return entries.take((~np.isin(entries.seqs, list(seqs))).nonzero()[0])


def _check_log(log: LocalSegments) -> None:
    for segment in log.segments:
        scan = scan_segment(log.files, log.directory, segment, take=lambda records: None)
        if classify(scan, is_last=False) is not Condition.SOUND:
            raise scan.error()


class _Log:
    """The operations of a memtable's log, as hashes."""

    def __init__(self, log: LocalSegments, detail: _Detail) -> None:
        self.ranges: list[RangeTombstone] = []
        self.merged: set[int] = set()
        """Commits that merged something."""
        self.first = self.last = 0
        self._detail = detail
        self._after = log.after
        self._sums = NONE
        self._hashes: list[Numbers] = []
        self._keys: list[Numbers] = []
        self._seqs: list[Numbers] = []
        self._operations: list[Operations] = []
        self._read(log)

    @property
    def wanted(self) -> _Detail:
        """In what detail it has to be known, for what is in it."""
        if self.ranges:
            return _Detail.OPERATIONS
        return _Detail.HASHES if self.merged else _Detail.SUMS

    def _read(self, log: LocalSegments) -> None:
        for segment in log.segments:
            path = segment_path(log.directory, segment)
            file = log.files.open_read(path)
            try:
                for operations in operations_in(file.read_at, path):
                    self._take(operations)
            finally:
                file.close()

    def _take(self, operations: Operations) -> None:
        operations = operations.chosen(operations.seqs > self._after)
        if not len(operations.kinds):
            return
        self.first = self.first or int(operations.seqs.min())
        self.last = int(operations.seqs.max())
        kinds = operations.kinds.tobytes()
        if MERGE in kinds:
            self.merged |= set(operations.seqs[operations.kinds == MERGE].tolist())
        if DELETE_RANGE in kinds:
            is_range = operations.kinds == DELETE_RANGE
            self.ranges += map(RangeTombstone._make, operations.chosen(is_range).listed())
            operations = operations.chosen(~is_range)
            if not len(operations.kinds):
                return
        if self._detail == _Detail.SUMS:
            self._sums += summed(operations.hashes(), operations.seqs)
            return
        self._hashes.append(operations.hashes())
        self._keys.append(operations.key_hashes())
        self._seqs.append(operations.seqs)
        if self._detail == _Detail.OPERATIONS:
            self._operations.append(operations)

    def newest(self) -> Digest:
        """Of what the newest operation of each key has put there and no range delete hides, but for
        commits that merged something."""
        if self._detail == _Detail.SUMS:
            return self._sums
        if not self._hashes:
            return NONE
        hashes, keys, seqs = map(np.concatenate, (self._hashes, self._keys, self._seqs))
        # Of one commit the later operation counts, so those are not to change places.
        by_seq = seqs.argsort(kind="stable")
        by_key = by_seq[keys[by_seq].argsort(kind="stable")]
        is_last: Flags = np.append(keys[by_key][1:] != keys[by_key][:-1], True)
        counts = np.zeros(len(keys), np.bool_)
        counts[by_key[is_last]] = True
        counts &= ~self._hidden(len(keys))
        if self.merged:
            counts &= ~np.isin(seqs, list(self.merged))
        return summed(hashes[counts], seqs[counts])

    def _hidden(self, count: int) -> Flags:
        """Which operations a range delete hides."""
        if not self.ranges:
            return np.zeros(count, np.bool_)
        covering = RangeTombstones(self.ranges).covering
        return np.fromiter(
            (
                covering(key, MAX_SEQ) > seq
                for operations in self._operations
                for key, _, seq in operations.listed()
            ),
            np.bool_,
            count,
        )
