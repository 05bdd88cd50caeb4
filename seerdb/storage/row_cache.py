"""The row cache: versions that point reads found in tables, by key, so that a hot key costs a
dict lookup instead of hash, filter, index and block.

It belongs to a layout: what it holds is what the layout's tables say. A flush makes a new
layout, which inherits the rows that the flushed memtable does not replace; late insertions of
readers still on the old layout go to the old cache and do no harm.

Two generations stand in for an order of use: rows go to the young one; when it has used half
of the budget it becomes the old one and the old one is dropped; a row found in the old one is
young again. The byte counts are updated without a lock: readers that race may undercount a
generation by the few rows they race with, and each generation starts from zero.
"""

from __future__ import annotations

from seerdb.storage.memtable import Memtable, Version

ROW_OVERHEAD = 280
"""Bytes a row costs beside its key and value (measured with CPython 3.11)."""

INSERT_EVERY = 4
"""One of so many reads from blocks is remembered: hot keys get in, uniform reads pay little."""


class RowCache:
    """Rows by key within a budget of bytes. Thread-safe; ``capacity`` 0 keeps nothing.

    ``young`` may be read directly; everything else through the methods.
    """

    __slots__ = ("_half", "_old", "_ticks", "_used", "young")

    def __init__(self, capacity: int) -> None:
        self.young: dict[bytes, Version] = {}
        self._old: dict[bytes, Version] = {}
        self._used = 0
        self._half = capacity // 2
        self._ticks = 0

    def find_old(self, key: bytes) -> Version | None:
        """A row that is not in ``young``; it is young from now on."""
        version = self._old.get(key)
        if version is not None:
            self._insert(key, version)
        return version

    def offer(self, key: bytes, version: Version) -> None:
        """Tell of a row that was read from a block; some of them are kept."""
        self._ticks += 1
        if self._ticks >= INSERT_EVERY:
            self._ticks = 0
            self._insert(key, version)

    def _insert(self, key: bytes, version: Version) -> None:
        size = len(key) + len(version[1] or b"") + ROW_OVERHEAD
        if size > self._half:
            return
        if self._used + size > self._half:
            self._old, self.young, self._used = self.young, {}, 0
        self.young[key] = version
        self._used += size

    def without(self, memtable: Memtable) -> RowCache:
        """A cache of its own with the rows that the memtable does not replace or delete."""
        kept = RowCache(self._half * 2)
        if not memtable.ranged:
            replaced = memtable.entries
            rows = self._old | self.young
            kept._old = {key: row for key, row in rows.items() if key not in replaced}
        return kept
