"""The newest data, in memory: what the WAL segments of one run contain.

A ``dict`` answers point reads; its keys are sorted lazily, only when a scan asks. An
overwritten version is kept aside only while a snapshot may need it: taking a snapshot sets
``pinned`` to its seq, and the writer keeps what it overwrites if that is not newer. ``size`` is the
memory of all, overheads counted; ``kept`` the part of it for what is kept aside. No commit in it is
older than ``first_us`` or, once it is sealed, newer than ``last_us``.

Thread-safety: one writer at a time (the holder of the engine's state lock); any number of
readers, without a lock. Readers rely on each dict operation being one step under the
interpreter lock. No point read sees half of a batch: its entries arrive by a single
``dict.update`` from another dict, which allocates nothing that could run other code. A batch
with range deletes changes two things, the tombstones first; so a reader that finds ``ranged``
set after it looked a key up must look again under the state lock. ``special`` says that values
may expire or be operands, and ``plain`` that neither is so; both are told before it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice, repeat

from sortedcontainers import SortedList

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import (
    DELETE,
    DELETE_RANGE,
    MERGE,
    NO_TOMBSTONES,
    PUT,
    PUT_WITH_EXPIRY,
    RangeTombstone,
    RangeTombstones,
)
from seerdb.storage.merge import Chunk, Piece
from seerdb.storage.operators import MergeOperator, absorb
from seerdb.storage.pointer import BlobPointer
from seerdb.storage.value import (
    BELOW,
    SECOND_US,
    Expiring,
    Merge,
    Operand,
    Value,
    Version,
    unpack_expiring,
)

ENTRY_OVERHEAD = 280
"""Bytes an entry costs beside its key and value: two bytes objects, a tuple, an int, a dict
slot at average fill (measured with CPython 3.11)."""

SCAN_CHUNK = 512

FREED_AT_ONCE = 1024
"""Entries that are freed between two moments in which other threads may run."""

NEVER = 1 << 63
"""The second of the oldest operand, where nothing was merged."""


def memory_of(value: Value) -> int:
    """About what a value costs, in bytes, beside its entry."""
    if value is None:
        return 0
    assert not isinstance(value, BlobPointer), "a memtable has its values itself"
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Expiring):
        return memory_of(value.value)
    base = 0 if value.base is BELOW else memory_of(value.base)
    return base + sum(ENTRY_OVERHEAD + len(each.operand) for each in value.operands)


class Memtable:
    """Entries of a run of WAL segments; see the module docstring for who may call what."""

    __slots__ = (
        "_index",
        "_index_lock",
        "entries",
        "first_us",
        "kept",
        "last_seq",
        "last_us",
        "older",
        "oldest_operand",
        "operator",
        "pinned",
        "plain",
        "ranged",
        "segments",
        "size",
        "special",
        "tombstones",
    )

    def __init__(self, segments: list[int], operator: MergeOperator | None = None) -> None:
        """``operator``: folds what is merged; without it operands are kept as they are."""
        self.segments = segments
        self.operator = operator
        self.entries: dict[bytes, Version] = {}
        self.older: dict[bytes, list[Version]] = {}
        self.tombstones: RangeTombstones = NO_TOMBSTONES
        self.plain = True
        self.ranged = False
        self.special = False
        self.size = 0
        self.kept = 0
        self.last_seq = 0
        self.first_us = 0
        self.last_us = 0
        self.oldest_operand = NEVER
        self.pinned = 0
        self._index_lock = threading.Lock()
        self._index: SortedList[bytes] = SortedList()

    def __del__(self) -> None:
        """Let go of the entries some at a time: to free a full memtable takes 16 ms, in which no
        other thread would run. Whoever has ``entries`` keeps them."""
        columns = list(self.entries.values()), list(self.entries)
        self.entries = {}
        for column in columns:
            while column:
                del column[-FREED_AT_ONCE:]

    def __bool__(self) -> bool:
        return self.last_seq > 0

    def put(self, seq: int, key: bytes, value: bytes | None, size: int) -> None:
        """Set one key, or delete it if ``value`` is ``None``; it costs ``size`` bytes.

        Requires: ``seq`` above every seq applied before.
        """
        if self.pinned:
            self._keep((key,))
        self.entries[key] = (seq, value)
        self.size += size
        self.last_seq = seq

    def apply(
        self,
        seq: int,
        kinds: bytes | bytearray,
        keys: list[bytes],
        values: list[bytes],
        time_us: int = 0,
    ) -> None:
        """Apply a normalised batch, committed at ``time_us``, in one step.

        Requires: ``seq`` above every one before.
        """
        if len(kinds) == 1 and kinds[0] <= DELETE:
            size = len(keys[0]) + len(values[0]) + ENTRY_OVERHEAD
            self.put(seq, keys[0], None if kinds[0] == DELETE else values[0], size)
            return
        self.size += sum(map(len, keys)) + sum(map(len, values)) + ENTRY_OVERHEAD * len(kinds)
        if kinds.count(PUT) == len(kinds):
            fresh: dict[bytes, Version] = dict(zip(keys, zip(repeat(seq), values), strict=False))
        else:
            fresh = self.prepare(seq, list(zip(kinds, keys, values, strict=True)), time_us)
        if self.pinned:
            self._keep(fresh)
        self.entries.update(fresh)
        self.last_seq = seq

    def prepare(
        self, seq: int, operations: list[tuple[int, bytes, bytes]], time_us: int
    ) -> dict[bytes, Version]:
        """The new versions that a normalised batch makes; adds its range tombstones, first."""
        ranges = [RangeTombstone(k, v, seq) for kind, k, v in operations if kind == DELETE_RANGE]
        self.add_tombstones(ranges)
        fresh: dict[bytes, Version] = {}
        for kind, key, value in operations:
            if kind <= DELETE:
                fresh[key] = seq, None if kind == DELETE else value
            elif kind != DELETE_RANGE:
                self.plain, self.special = False, True
                fresh[key] = seq, self._special(kind, key, value, fresh.get(key), time_us)
        return fresh

    def _special(
        self, kind: int, key: bytes, stored: bytes, before: Version | None, time_us: int
    ) -> Value:
        """What an operation makes of a key of which this batch already made ``before``."""
        if kind == PUT_WITH_EXPIRY:
            return Expiring(*unpack_expiring(stored))
        assert kind == MERGE
        operand = Operand(time_us // SECOND_US, stored)
        self.oldest_operand = min(self.oldest_operand, operand.second)
        return self._merged(key, before or self.entries.get(key), (operand,))

    def _merged(self, key: bytes, before: Version | None, operands: tuple[Operand, ...]) -> Value:
        """What operands make of a key of which ``before`` is the newest version here."""
        covered = self.tombstones.covering(key, MAX_SEQ) if self.ranged else 0
        if before is None or before[0] < covered:
            if not covered:
                return Merge(BELOW, operands)
            before = covered, None
        value = before[1]
        for operand in operands:
            value = absorb(value, operand, self.operator)
        return value

    def absorb(self, newer: Memtable) -> None:
        """Add all of a memtable that begins above where this one ends, and its segments.

        Requires: nobody else uses either.
        """
        self.segments += newer.segments
        if newer.special:
            self.plain, self.special = False, True
            self.oldest_operand = min(self.oldest_operand, newer.oldest_operand)
            self.entries.update(self._onto_here(newer.entries))
        else:
            self.entries.update(newer.entries)
        self.add_tombstones(list(newer.tombstones.tombstones))
        self.size += newer.size
        self.kept += newer.kept
        self.last_seq = newer.last_seq
        self.first_us = self.first_us or newer.first_us
        self.last_us = newer.last_us or self.last_us

    def _onto_here(self, newer: dict[bytes, Version]) -> Iterator[tuple[bytes, Version]]:
        """Newer entries, those of which more is further down together with what is here."""
        for key, version in newer.items():
            value = version[1]
            if isinstance(value, Merge) and value.base is BELOW:
                merged = self._merged(key, self.entries.get(key), value.operands)
                yield key, (version[0], merged)
            else:
                yield key, version

    def add_tombstones(self, tombstones: list[RangeTombstone]) -> None:
        """Add range tombstones, if any; ``ranged`` tells readers first."""
        if tombstones:
            self.plain, self.ranged = False, True
            self.tombstones = self.tombstones.with_added(tombstones)

    def _keep(self, keys: Iterable[bytes]) -> None:
        entries, pinned = self.entries, self.pinned
        for key in keys:
            version = entries.get(key)
            if version is not None and version[0] <= pinned:
                self.older.setdefault(key, []).append(version)
                memory = ENTRY_OVERHEAD + memory_of(version[1])
                self.size += memory
                self.kept += memory

    def find(self, key: bytes, at: int) -> Version | None:
        """The newest version of ``key`` not above ``at``; range tombstones not considered."""
        version = self.entries.get(key)
        if version is None or version[0] <= at:
            return version
        for version in reversed(self.older.get(key, ())):
            if version[0] <= at:
                return version
        return None

    def pieces(
        self, start: bytes | None, end: bytes | None, at: int, *, reverse: bool
    ) -> Iterator[Piece[Chunk]]:
        """The versions in ``[start, end)`` visible at ``at``, as a source for a merge.

        Requires: ``pinned`` was at least ``at`` since that was the newest seq, so that no
        version it may need has been overwritten.
        """
        while True:
            keys, more = self._keys_between(start, end, reverse=reverse)
            frontier = None if not more else keys[0] if reverse else keys[-1] + b"\0"
            yield Piece(self._visible(keys, at), frontier)
            if frontier is None:
                return
            start, end = (start, frontier) if reverse else (frontier, end)

    def _visible(self, keys: list[bytes], at: int) -> Chunk:
        found = [(key, self.find(key, at)) for key in keys]
        return Chunk(
            [key for key, version in found if version is not None],
            [version[0] for _, version in found if version is not None],
            [version[1] for _, version in found if version is not None],
        )

    def _keys_between(
        self, start: bytes | None, end: bytes | None, *, reverse: bool
    ) -> tuple[list[bytes], bool]:
        with self._index_lock:
            index = self._index
            index.update(self._not_in_index())
            low = 0 if start is None else index.bisect_left(start)
            high = len(index) if end is None else index.bisect_left(end)
            if reverse:
                first = max(low, high - SCAN_CHUNK)
                return list(index[first:high]), first > low
            last = min(high, low + SCAN_CHUNK)
            return list(index[low:last]), last < high

    def _not_in_index(self) -> list[bytes]:
        # Keys never leave the dict and it keeps their order of insertion, so the ones not yet in
        # the index are the last ones. A writer that adds one meanwhile makes the iterator raise.
        while True:
            try:
                return list(islice(reversed(self.entries), len(self.entries) - len(self._index)))
            except RuntimeError:
                continue
