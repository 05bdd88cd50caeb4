"""The vocabulary of stored operations, and the range tombstones every layer shares.

Order: user key ascending, then seq descending. A range tombstone at seq S hides every
entry of a lower seq in ``[start, end)``; entries of seq S itself stay (a batch is
normalised before it is logged, so that a put after a range delete in one batch survives
and a put before it is gone).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
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


class RangeTombstones:
    """An immutable set of range tombstones, cut into fragments that do not overlap.

    Point lookup is one bisect. Thread-safe.
    """

    __slots__ = ("_bounds", "_seqs", "tombstones")

    def __init__(self, tombstones: Iterable[RangeTombstone] = ()) -> None:
        self.tombstones = tuple(sorted(set(tombstones)))
        self._bounds: list[bytes] = []
        self._seqs: list[tuple[int, ...]] = []
        for tombstone in self.tombstones:
            self._cover(*tombstone)

    def __bool__(self) -> bool:
        return bool(self.tombstones)

    def with_added(self, tombstones: Iterable[RangeTombstone]) -> RangeTombstones:
        """A new set that also holds ``tombstones``; the fewer they are, the less it costs."""
        grown = RangeTombstones()
        grown.tombstones = (*self.tombstones, *tombstones)
        grown._bounds, grown._seqs = self._bounds.copy(), self._seqs.copy()
        for tombstone in grown.tombstones[len(self.tombstones) :]:
            grown._cover(*tombstone)
        return grown

    def _cover(self, start: bytes, end: bytes, seq: int) -> None:
        first = self._cut(start)
        for fragment in range(first, self._cut(end)):
            seqs = self._seqs[fragment]
            if seqs and seqs[0] > seq:
                self._seqs[fragment] = tuple(sorted((*seqs, seq), reverse=True))
            else:
                self._seqs[fragment] = (seq, *seqs)

    def _cut(self, bound: bytes) -> int:
        """The fragment that begins at ``bound``, which is cut off the one before if need be."""
        fragment = bisect_left(self._bounds, bound)
        if fragment == len(self._bounds) or self._bounds[fragment] != bound:
            self._bounds.insert(fragment, bound)
            self._seqs.insert(fragment, self._seqs[fragment - 1] if fragment else ())
        return fragment

    def covering(self, key: bytes, at: int) -> int:
        """The highest seq, at most ``at``, of a tombstone over ``key``; 0 when there is none."""
        fragment = bisect_right(self._bounds, key) - 1
        if fragment >= 0:
            for seq in self._seqs[fragment]:
                if seq <= at:
                    return seq
        return 0


NO_TOMBSTONES = RangeTombstones()
