"""The vocabulary of stored operations, and the range tombstones every layer shares.

Order: user key ascending, then seq descending. A range tombstone at seq S hides every
entry of a lower seq in ``[start, end)``; entries of seq S itself stay (a batch is
normalised before it is logged, so that a put after a range delete in one batch survives
and a put before it is gone).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat
from operator import itemgetter
from typing import NamedTuple

PUT = 1
DELETE = 2
DELETE_RANGE = 3
MERGE = 4
PUT_WITH_EXPIRY = 5
BLOB = 6
BLOB_WITH_EXPIRY = 7
"""Kinds of operation. Part of the WAL and table formats: do not change the numbers.
Tables hold all but DELETE_RANGE as entries; that has a section of its own. The BLOB kinds are
puts of large values, which lie elsewhere; no log has them."""


class RangeTombstone(NamedTuple):
    """Everything older than ``seq`` in ``[start, end)`` is deleted."""

    start: bytes
    end: bytes
    seq: int


def joined(tombstones: Iterable[RangeTombstone]) -> list[RangeTombstone]:
    """What says the same, by seq and then start: of one seq, none meets another."""
    found: list[RangeTombstone] = []
    for each in sorted(tombstones, key=itemgetter(2, 0)):
        last = found[-1] if found else None
        if last is not None and last.seq == each.seq and each.start <= last.end:
            found[-1] = last._replace(end=max(last.end, each.end))
        else:
            found.append(each)
    return found


class _Stretch:
    """Range tombstones that follow each other by seq, at least one, as fragments of the keys.

    From ``bounds[n]`` on, up to the next bound, ``seqs[n]`` is the highest seq; 0: none. What that
    hides is in the ``halves``, of which the second has no lower seqs than the first; tombstones of
    a single seq have none.
    """

    __slots__ = ("bounds", "count", "first", "halves", "last", "seqs")

    def __init__(self, bounds: list[bytes], seqs: list[int], *halves: _Stretch) -> None:
        self.bounds = bounds
        self.seqs = seqs
        self.halves = halves
        self.first: int = halves[0].first if halves else seqs[0]
        self.last: int = halves[1].last if halves else seqs[0]
        self.count: int = sum(half.count for half in halves) or len(bounds) // 2

    @classmethod
    def of(cls, tombstones: Iterable[RangeTombstone]) -> _Stretch:
        """Those of a single seq, at least one, as :func:`joined` has them."""
        starts, ends, seqs = zip(*tombstones, strict=True)
        bounds = list(chain.from_iterable(zip(starts, ends, strict=True)))
        return cls(bounds, [seqs[0], 0] * len(seqs))

    def above(self, older: _Stretch) -> _Stretch:
        """This, on top of one that has no higher seqs."""
        return _Stretch(*_overlaid(self, older), older, self)

    def covering(self, key: bytes, at: int) -> int:
        """As :meth:`RangeTombstones.covering`."""
        if at < self.first:
            return 0
        fragment = bisect_right(self.bounds, key) - 1
        seq = self.seqs[fragment] if fragment >= 0 else 0
        if seq <= at:
            return seq
        older, newer = self.halves
        return newer.covering(key, at) or older.covering(key, at)

    def over(self, keys: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
        """Where among ascending ``keys``, at least one, its fragments lie: from a position up to
        another, and the seq. It takes a bisect for each fragment between the first key and the
        last, or for each key where that is less."""
        bounds, seqs = self.bounds, self.seqs
        begin = max(bisect_right(bounds, keys[0]) - 1, 0)
        end = bisect_right(bounds, keys[-1])
        if end - begin > len(keys):
            for position, key in enumerate(keys):
                fragment = bisect_right(bounds, key, begin, end) - 1
                if fragment >= begin and seqs[fragment]:
                    yield position, position + 1, seqs[fragment]
            return
        low = 0
        for fragment in range(begin, end):
            low = bisect_left(keys, bounds[fragment], low)
            if seqs[fragment]:
                beyond = bounds[fragment + 1]  # is there: what hides anything ends somewhere
                yield low, bisect_left(keys, beyond, low), seqs[fragment]

    def leaves(self) -> Iterator[RangeTombstone]:
        """Each tombstone, the oldest first."""
        if not self.halves:
            yield from map(RangeTombstone, self.bounds[::2], self.bounds[1::2], self.seqs[::2])
        for half in self.halves:
            yield from half.leaves()


def _overlaid(newer: _Stretch, older: _Stretch) -> tuple[list[bytes], list[int]]:
    """The fragments of both."""
    changes = sorted(
        chain(
            zip(newer.bounds, repeat(1), newer.seqs),
            zip(older.bounds, repeat(0), older.seqs),
        )
    )
    bounds: list[bytes] = []
    seqs: list[int] = []
    current = [0, 0]
    for bound, group in groupby(changes, itemgetter(0)):
        for _, side, seq in group:
            current[side] = seq
        seq = current[1] or current[0]
        if seq != (seqs[-1] if seqs else 0):
            bounds.append(bound)
            seqs.append(seq)
    return bounds, seqs


_SET_MEMORY = 1000
"""About what a range tombstone takes in a set beside itself, in bytes (measured: 590 to 1,010)."""


class RangeTombstones:
    """An immutable set of range tombstones. Thread-safe.

    Those of one seq that overlap or touch may become one, as they say the same.

    It takes time and memory in proportion to n log n to add n, one by one too, however they
    overlap: stretches that grow as a binary number does are shared among all sets that were added
    to (the logarithmic method; J. L. Bentley and J. B. Saxe, Decomposable Searching Problems I,
    1980). A lookup takes a bisect for each stretch; one stretch is made of all for reading, once as
    many lookups have come as that costs.
    """

    __slots__ = ("_lookups_left", "_read", "_stretches")

    def __init__(self, tombstones: Iterable[RangeTombstone] = ()) -> None:
        by_seq = groupby(joined(tombstones), itemgetter(2))
        grown = _grown((), (_Stretch.of(same) for _, same in by_seq))
        self._begin(_united(grown) if grown else ())

    def _begin(self, stretches: tuple[_Stretch, ...]) -> None:
        self._stretches = stretches
        """The oldest first."""
        self._read = stretches[::-1]
        self._lookups_left = sum(stretch.count for stretch in stretches)

    def __bool__(self) -> bool:
        return bool(self._stretches)

    @property
    def memory(self) -> int:
        """About what it costs in bytes, beside the tombstones themselves."""
        return _SET_MEMORY * sum(stretch.count for stretch in self._stretches)

    @property
    def tombstones(self) -> tuple[RangeTombstone, ...]:
        """All of them, in order."""
        return tuple(sorted({each for stretch in self._stretches for each in stretch.leaves()}))

    def unhidden(self) -> tuple[RangeTombstone, ...]:
        """All but those that newer ones hide altogether, in order: they say the same of the
        newest versions."""
        if not self._stretches:
            return ()
        [whole] = _united(self._stretches)
        ordered = joined(self.tombstones)
        begins = [(each.seq, each.start) for each in ordered]
        fragments = zip(whole.seqs, whole.bounds, strict=True)
        seen = {bisect_right(begins, fragment) - 1 for fragment in fragments if fragment[0]}
        return tuple(sorted(ordered[place] for place in seen))

    def with_added(self, tombstones: Iterable[RangeTombstone]) -> RangeTombstones:
        """A new set that also holds ``tombstones``."""
        return self.under(RangeTombstones(tombstones))

    def under(self, newer: RangeTombstones) -> RangeTombstones:
        """A new set that also holds ``newer``; it costs the least where that has no lower seqs."""
        mine, theirs = self._stretches, newer._stretches
        if not mine or not theirs:
            return newer if theirs else self
        if theirs[0].first < mine[-1].last:
            return RangeTombstones((*self.tombstones, *newer.tombstones))
        joined = RangeTombstones()
        joined._begin(tuple(_grown(mine, theirs)))
        return joined

    def read_under(self, newer: RangeTombstones) -> RangeTombstones:
        """As :meth:`under`, for one read: it costs next to nothing where ``newer`` has no lower
        seqs, however many there are. Not to be added to."""
        mine, theirs = self._stretches, newer._stretches
        if not mine or not theirs or theirs[0].first < mine[-1].last:
            return self.under(newer)
        both = RangeTombstones()
        both._begin((*mine, *theirs))
        both._read = (*newer._read, *self._read)
        return both

    def covering(self, key: bytes, at: int) -> int:
        """The highest seq, at most ``at``, of a tombstone over ``key``; 0 when there is none."""
        if len(self._read) > 1:
            self._count_lookup()
        for stretch in self._read:
            fragment = bisect_right(stretch.bounds, key)
            if fragment and (seq := stretch.seqs[fragment - 1]):
                if seq <= at:
                    return seq
                if seq := stretch.covering(key, at):
                    return seq
        return 0

    def hidden(self, keys: Sequence[bytes], seqs: Sequence[int], at: int) -> set[int]:
        """The positions of the entries with these ascending ``keys``, at least one, and their
        ``seqs`` that a tombstone of a seq of ``at`` or lower hides."""
        found: set[int] = set()
        for stretch in self._read:
            for begin, end, highest in stretch.over(keys):
                for position in range(begin, end):
                    seq = highest if highest <= at else stretch.covering(keys[position], at)
                    if seqs[position] < seq:
                        found.add(position)
        return found

    def _count_lookup(self) -> None:
        self._lookups_left -= 1
        if self._lookups_left < 0:
            self._read = _united(self._stretches)


def _grown(stretches: Iterable[_Stretch], newer: Iterable[_Stretch]) -> list[_Stretch]:
    """Both, the oldest first, where each has more than all that are newer, or nearly so."""
    grown = list(stretches)
    for stretch in newer:
        grown.append(stretch)
        while len(grown) > 1 and grown[-2].count <= grown[-1].count:
            grown[-2:] = [grown[-1].above(grown[-2])]
    return grown


def _united(stretches: Sequence[_Stretch]) -> tuple[_Stretch]:
    """One of all, of which there is one at least; the oldest first."""
    newest, *others = reversed(stretches)
    for older in others:
        newest = newest.above(older)
    return (newest,)


NO_TOMBSTONES = RangeTombstones()
