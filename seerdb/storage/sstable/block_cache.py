"""Which blocks stay in memory: a byte budget over the slots of many table readers.

Eviction is SIEVE: blocks queue by admission; a hand walks from the oldest to the newest,
spares a block that was visited since it last came by, and evicts the first that was not.
A scan, whose blocks are not visited again, thus passes through without driving out the
blocks that are. A hit costs nothing here: the reader finds the block in its slot and sets
``visited``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from seerdb.storage.sstable.block import Block


class Slotted(Protocol):
    """A table reader, as far as the cache knows it."""

    slots: list[Block | None]
    """A place for each block of the table; only the cache writes to it."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """``bytes`` is what the cached blocks cost, overheads counted."""

    entries: int
    bytes: int
    capacity: int
    admissions: int
    evictions: int


class _Entry:
    """A cached block in the queue, between its newer and its older neighbour."""

    __slots__ = ("block", "index", "memory", "newer", "older", "slots")

    def __init__(self, slots: list[Block | None], index: int, block: Block) -> None:
        self.slots = slots
        self.index = index
        self.block = block
        self.memory = block.memory
        self.newer: _Entry | None = None
        self.older: _Entry | None = None


class BlockCache:
    """A budget of ``capacity_bytes`` for blocks. Thread-safe.

    Holds the slots of a reader, not the reader: one that is dropped without
    :meth:`forget` frees its index and filter at once, and its blocks as others need room.
    """

    def __init__(self, capacity_bytes: int) -> None:
        # constant
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        # guarded by _lock
        self._entries: dict[Block, _Entry] = {}
        self._newest: _Entry | None = None
        self._oldest: _Entry | None = None
        self._hand: _Entry | None = None
        self._used = 0
        self._admissions = 0
        self._evictions = 0

    def admit(self, reader: Slotted, index: int, block: Block) -> None:
        """Put ``block`` into slot ``index`` of ``reader``, making room for it.

        Nothing happens when the block is larger than the whole budget, or when the slot was
        filled meanwhile.
        """
        with self._lock:
            if block.memory > self._capacity or reader.slots[index] is not None:
                return
            while self._used + block.memory > self._capacity:
                self._evict()
            entry = _Entry(reader.slots, index, block)
            entry.older, self._newest = self._newest, entry
            if entry.older is None:
                self._oldest = entry
            else:
                entry.older.newer = entry
            self._entries[block] = entry
            self._used += entry.memory
            self._admissions += 1
            reader.slots[index] = block

    @property
    def spare(self) -> int:
        """Bytes of the budget that no block uses now."""
        return self._capacity - self._used

    def forget(self, reader: Slotted) -> None:
        """Drop all blocks of ``reader``, for example because its table is deleted."""
        with self._lock:
            for block in reader.slots:
                if block is not None:
                    self._remove(self._entries[block])

    def statistics(self) -> CacheStatistics:
        """The state of this moment."""
        with self._lock:
            return CacheStatistics(
                entries=len(self._entries),
                bytes=self._used,
                capacity=self._capacity,
                admissions=self._admissions,
                evictions=self._evictions,
            )

    def _evict(self) -> None:
        entry = self._hand or self._oldest
        while entry is not None and entry.block.visited:
            entry.block.visited = False
            entry = entry.newer or self._oldest
        if entry is not None:
            self._hand = entry.newer
            self._remove(entry)
            self._evictions += 1

    def _remove(self, entry: _Entry) -> None:
        if self._hand is entry:
            self._hand = entry.newer
        if entry.newer is None:
            self._newest = entry.older
        else:
            entry.newer.older = entry.older
        if entry.older is None:
            self._oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        entry.slots[entry.index] = None
        self._used -= entry.memory
        del self._entries[entry.block]
