"""The newest data, in memory: what the WAL segments of one run contain.

Versions stand in two columns, ``seqs`` and ``values``, in the order in which they came, and the
``dict`` ``newest`` tells the place of each key's newest one. No object is made for a version: the
interpreter's garbage collector would look at all of them. The keys are sorted lazily, only when a
scan asks. What is overwritten stays in its place, but may be found there only while a snapshot may
need it: taking one sets ``pinned`` to its seq, and the writer notes the places of what it
overwrites if that is not newer. ``size`` is the memory of all, overheads counted, and ``limit`` up
to which size puts go on that nobody leads (``write/lone_put.py``). No commit in it is older than
``first_us`` or, once it is sealed, newer than ``last_us``.

Thread-safety: one writer at a time (the holder of the engine's state lock); any number of
readers, without a lock. Readers rely on each operation of a list or dict being one step under the
interpreter lock, and on a version being in its place before ``newest`` leads there. No point read
sees half of a batch: its keys arrive by a single ``dict.update`` from another dict, which
allocates nothing that could run other code. A batch with range deletes changes two things, the
tombstones first; so a reader that finds ``ranged`` set after it looked a key up must look again
under the state lock. ``special`` says that values may expire or be operands, and ``plain`` that
neither is so; both are told before it is. As long as it is plain, no version leaves its place;
after that, one that :meth:`find` would not give is ``GONE`` from it, since each of a thousand
operands for a key makes one as large as all before.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

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

ENTRY_OVERHEAD = 200
"""Bytes an entry costs beside its key and value: two bytes objects, an int, a slot in a list, an
array and a dict (measured with CPython 3.11: 184 to 214, as the dict is about to grow or has)."""

RANGE_OVERHEAD = 900
"""The same for a range tombstone: itself, its bounds, and its part of the stretches of its set
(measured: 900 to 1,080)."""

SCAN_CHUNK = 512

FREED_AT_ONCE = 1024
"""Entries that are freed between two moments in which other threads may run."""

_ONE_DELETE = bytes([DELETE])

GONE = Expiring(b"", 0)
"""Told by its identity: here was a version that no reader needs."""

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


def overhead_of(kinds: bytes | bytearray) -> int:
    """What operations of these kinds cost beside their keys and values, in bytes."""
    ranges = kinds.count(DELETE_RANGE)
    return ENTRY_OVERHEAD * (len(kinds) - ranges) + RANGE_OVERHEAD * ranges


Points: TypeAlias = tuple[list[bytes], list[Value], list[tuple[bytes, bytes]]]
"""What a batch without merges makes, whatever is there already: keys, their values, and ranges."""


def points_of(
    kinds: bytes | bytearray, keys: Sequence[bytes], values: Sequence[bytes]
) -> Points | None:
    """What :meth:`Memtable.apply` would find out about a batch while reads and writes may wait for
    it. ``None``: nothing, of mere puts or one delete, or of merges, which rest on what is there."""
    if kinds.count(PUT) == len(kinds) or MERGE in kinds or kinds == _ONE_DELETE:
        return None
    made: list[Value] = [
        value if kind == PUT else None if kind == DELETE else Expiring(*unpack_expiring(value))
        for kind, value in zip(kinds, values, strict=True)
        if kind != DELETE_RANGE
    ]
    if DELETE_RANGE not in kinds:
        return list(keys), made, []
    operations = list(zip(kinds, keys, values, strict=True))
    return (
        [key for kind, key, _ in operations if kind != DELETE_RANGE],
        made,
        [(start, end) for kind, start, end in operations if kind == DELETE_RANGE],
    )


class Memtable:
    """Entries of a run of WAL segments; see the module docstring for who may call what."""

    __slots__ = (
        "_index",
        "_index_lock",
        "first_us",
        "last_seq",
        "last_us",
        "limit",
        "newest",
        "older",
        "oldest_operand",
        "operator",
        "pinned",
        "plain",
        "ranged",
        "segments",
        "seqs",
        "size",
        "special",
        "tombstones",
        "values",
    )

    def __init__(self, segments: list[int], operator: MergeOperator | None = None) -> None:
        """``operator``: folds what is merged; without it operands are kept as they are."""
        self.segments = segments
        self.operator = operator
        self.newest: dict[bytes, int] = {}
        self.seqs: array[int] = array("Q")
        self.values: list[Value] = []
        self.older: dict[bytes, list[int]] = {}
        self.tombstones: RangeTombstones = NO_TOMBSTONES
        self.plain = True
        self.ranged = False
        self.special = False
        self.size = 0
        self.limit = 0
        self.last_seq = 0
        self.first_us = 0
        self.last_us = 0
        self.oldest_operand = NEVER
        self.pinned = 0
        self._index_lock = threading.Lock()
        self._index: SortedList[bytes] = SortedList()

    def __del__(self) -> None:
        """Let go of the entries some at a time: to free a full memtable takes 16 ms, in which no
        other thread would run. Who reads its columns has to hold on to it."""
        columns = list(self.newest.values()), list(self.newest), self.values
        self.newest = {}
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
            self.keep((key,))
        values = self.values
        place = len(values)
        self.seqs.append(seq)
        values.append(value)
        self.newest[key] = place
        self.size += size
        self.last_seq = seq

    def apply(
        self,
        seq: int,
        kinds: bytes | bytearray,
        keys: list[bytes],
        values: list[bytes],
        time_us: int = 0,
        points: Points | None = None,
    ) -> None:
        """Apply a normalised batch, committed at ``time_us``, in one step.

        Requires: ``seq`` above every one before; ``points``, if given, are :func:`points_of` it.
        """
        if len(kinds) == 1 and kinds[0] <= DELETE:
            size = len(keys[0]) + len(values[0]) + ENTRY_OVERHEAD
            self.put(seq, keys[0], None if kinds[0] == DELETE else values[0], size)
            return
        self.size += sum(map(len, keys)) + sum(map(len, values)) + overhead_of(kinds)
        if kinds.count(PUT) == len(kinds):
            self.add(keys, array("Q", [seq]) * len(keys), values)
        elif points := points or points_of(kinds, keys, values):
            self._add_points(seq, *points)
        else:
            operations = list(zip(kinds, keys, values, strict=True))
            self.add_versions(self.prepare(seq, operations, time_us))
        self.last_seq = seq

    def _add_points(
        self, seq: int, keys: list[bytes], values: list[Value], ranges: list[tuple[bytes, bytes]]
    ) -> None:
        self.add_tombstones([RangeTombstone(start, end, seq) for start, end in ranges])
        if Expiring in map(type, values):
            self.plain, self.special = False, True
        self._add_over(keys, array("Q", [seq]) * len(keys), values)

    def add(self, keys: Sequence[bytes], seqs: Iterable[int], values: Sequence[Value]) -> None:
        """Add versions that are newer than all here, of each key one, in one step. ``size`` and
        ``last_seq`` are up to the caller."""
        start = len(self.values)
        self.seqs.extend(seqs)
        self.values += values
        fresh = dict(zip(keys, range(start, start + len(keys)), strict=True))
        if self.pinned:
            self.keep(fresh)
        self.newest.update(fresh)

    def add_versions(self, versions: dict[bytes, Version]) -> None:
        """:meth:`add`, of what may have made use of the versions before: those are let go."""
        rows = versions.values()
        self._add_over(list(versions), [seq for seq, _ in rows], [value for _, value in rows])

    def _add_over(self, keys: list[bytes], seqs: Iterable[int], values: Sequence[Value]) -> None:
        """:meth:`add`, and let go of the versions before where they are not plain."""
        replaced: list[int] = []
        if not self.plain:
            before, pinned, seq_at = map(self.newest.get, keys), self.pinned, self.seqs
            replaced = [place for place in before if place is not None and seq_at[place] > pinned]
        self.add(keys, seqs, values)
        for place in replaced:
            self.values[place] = GONE

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
        operand = Operand(_second_of_merge(before, time_us), stored)
        self.oldest_operand = min(self.oldest_operand, operand.second)
        return self._merged(key, before or self._newest(key), (operand,))

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
            self.add_versions(dict(self._onto_here(newer)))
        else:
            start = len(self.values)
            self.seqs += newer.seqs
            self.values += newer.values
            places = (start + place for place in newer.newest.values())
            self.newest.update(zip(newer.newest, places, strict=True))
        self.add_tombstones(list(newer.tombstones.tombstones))
        self.size += newer.size
        self.last_seq = newer.last_seq
        self.first_us = self.first_us or newer.first_us
        self.last_us = newer.last_us or self.last_us

    def _onto_here(self, newer: Memtable) -> Iterator[tuple[bytes, Version]]:
        """Newer entries, those of which more is further down together with what is here."""
        for key, place in newer.newest.items():
            seq, value = newer.seqs[place], newer.values[place]
            if isinstance(value, Merge) and value.base is BELOW:
                value = self._merged(key, self._newest(key), value.operands)
            yield key, (seq, value)

    def add_tombstones(self, tombstones: list[RangeTombstone]) -> None:
        """Add range tombstones, if any; ``ranged`` tells readers first."""
        if tombstones:
            self.plain, self.ranged = False, True
            self.tombstones = self.tombstones.with_added(tombstones)

    def keep(self, keys: Iterable[bytes]) -> None:
        """Note what is about to be overwritten, as far as a snapshot may need it."""
        newest, seqs, pinned = self.newest, self.seqs, self.pinned
        for key in keys:
            place = newest.get(key)
            if place is not None and seqs[place] <= pinned:
                self.older.setdefault(key, []).append(place)

    def _newest(self, key: bytes) -> Version | None:
        """The newest version of ``key``. Requires: as :meth:`put`."""
        place = self.newest.get(key)
        return None if place is None else (self.seqs[place], self.values[place])

    def find(self, key: bytes, at: int) -> Version | None:
        """The newest version of ``key`` not above ``at``; range tombstones not considered."""
        while (place := self.newest.get(key)) is not None:
            seq, value = self.seqs[place], self.values[place]
            if value is GONE:  # a newer one has come meanwhile
                continue
            return (seq, value) if seq <= at else self._older(key, at)
        return None

    def _older(self, key: bytes, at: int) -> Version | None:
        for place in reversed(self.older.get(key, ())):
            if self.seqs[place] <= at:
                return self.seqs[place], self.values[place]
        return None

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The newest version of everything, in the order in which the keys came first, so many at a
        time. Requires: nobody writes any more."""
        keys, places = iter(self.newest), iter(self.newest.values())
        is_each_in_place = len(self.newest) == len(self.values)
        for start in range(0, len(self.newest), size):
            if is_each_in_place:  # nothing was overwritten
                here = slice(start, start + size)
                yield Chunk(list(islice(keys, size)), self.seqs[here], self.values[here])
            else:
                some = list(islice(places, size))
                seqs, values = map(self.seqs.__getitem__, some), map(self.values.__getitem__, some)
                yield Chunk(list(islice(keys, size)), list(seqs), list(values))

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
        found = [(key, version) for key in keys if (version := self.find(key, at)) is not None]
        return Chunk(
            [key for key, _ in found],
            [version[0] for _, version in found],
            [version[1] for _, version in found],
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
                return list(islice(reversed(self.newest), len(self.newest) - len(self._index)))
            except RuntimeError:
                continue


def _second_of_merge(before: Version | None, time_us: int) -> int:
    """The second in which a batch merges into what it made of the key ``before``: in which that is
    there, however long the commit had to wait after its lifetime began."""
    second = time_us // SECOND_US
    made = before and before[1]
    base = made.base if isinstance(made, Merge) else made
    return min(second, base.expires - 1) if isinstance(base, Expiring) else second
