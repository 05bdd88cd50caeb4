"""Which blocks stay in memory: a byte budget over the slots of many table readers.

Eviction is S3-FIFO (Yang et al., SOSP 2023) with SIEVE (Zhang et al., NSDI 2024) for its main
queue. A new block waits in a short queue of young ones. It moves to the main queue if it was
visited by the time its turn comes; if not it goes, and only its name is remembered for a while,
so that it enters the main queue at once if it is wanted again soon. So what a scan brings leaves
by the door it came in through. In the main queue a hand walks from the oldest to the newest,
spares a block that was visited since it last came by, and evicts the first that was not. A hit
costs nothing here: the reader finds the block in its slot and sets ``visited``. Measured beside
others in ADR 0020.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from seerdb.storage.sstable.block import Block

YOUNG_SHARE = 10
"""When room is needed, young blocks go first if they take one part in so many of the budget."""


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
    """A cached block; in the main queue, between its newer and its older neighbour."""

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
        self.capacity = capacity_bytes
        self._lock = threading.Lock()
        # guarded by _lock
        self._young: OrderedDict[Block, _Entry] = OrderedDict()
        self._young_bytes = 0
        self._main: dict[Block, _Entry] = {}
        self._newest: _Entry | None = None
        self._oldest: _Entry | None = None
        self._hand: _Entry | None = None
        self._gone: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._used = 0
        self._admissions = 0
        self._evictions = 0

    def admit(self, reader: Slotted, index: int, block: Block) -> None:
        """Put ``block`` into slot ``index`` of ``reader``, making room for it.

        Nothing happens when the block is larger than the whole budget, or when the slot was
        filled meanwhile.
        """
        with self._lock:
            if block.memory > self.capacity or reader.slots[index] is not None:
                return
            while self._used + block.memory > self.capacity:
                self._evict()
            entry = _Entry(reader.slots, index, block)
            name = id(entry.slots), index
            if name in self._gone:
                del self._gone[name]
                self._append(entry)
            else:
                self._young[block] = entry
                self._young_bytes += entry.memory
            self._used += entry.memory
            self._admissions += 1
            reader.slots[index] = block

    @property
    def spare(self) -> int:
        """Bytes of the budget that no block uses now."""
        return self.capacity - self._used

    def hot(self, reader: Slotted) -> list[int]:
        """Which blocks of ``reader`` have been asked for again, in order."""
        with self._lock:
            return [
                number
                for number, block in enumerate(reader.slots)
                if block is not None and (block.visited or block in self._main)
            ]

    def forget(self, reader: Slotted) -> None:
        """Drop all blocks of ``reader``, for example because its table is deleted."""
        with self._lock:
            for block in reader.slots:
                if block is not None:
                    self._remove(block)

    def statistics(self) -> CacheStatistics:
        """The state of this moment."""
        with self._lock:
            return CacheStatistics(
                entries=len(self._young) + len(self._main),
                bytes=self._used,
                capacity=self.capacity,
                admissions=self._admissions,
                evictions=self._evictions,
            )

    def _evict(self) -> None:
        """Evict one block. Requires: there is one."""
        self._evictions += 1
        young = self._young
        while young and (self._young_bytes * YOUNG_SHARE > self.capacity or not self._main):
            block, entry = young.popitem(last=False)
            self._young_bytes -= entry.memory
            if not block.visited:
                self._remember(entry)
                self._vacate(entry)
                return
            block.visited = False
            self._append(entry)
        self._remove(self._pass_over())

    def _pass_over(self) -> Block:
        """Move the hand past what was visited; returns the block it stops at."""
        entry = self._hand or self._oldest
        while entry is not None and entry.block.visited:
            entry.block.visited = False
            entry = entry.newer or self._oldest
        assert entry is not None
        self._hand = entry
        return entry.block

    def _remember(self, entry: _Entry) -> None:
        self._gone[id(entry.slots), entry.index] = None
        while len(self._gone) > len(self._young) + len(self._main):
            self._gone.popitem(last=False)

    def _append(self, entry: _Entry) -> None:
        """Make an entry the newest of the main queue."""
        entry.older, self._newest = self._newest, entry
        if entry.older is None:
            self._oldest = entry
        else:
            entry.older.newer = entry
        self._main[entry.block] = entry

    def _remove(self, block: Block) -> None:
        entry = self._young.pop(block, None)
        if entry is not None:
            self._young_bytes -= entry.memory
        else:
            entry = self._main.pop(block)
            self._unlink(entry)
        self._vacate(entry)

    def _vacate(self, entry: _Entry) -> None:
        entry.slots[entry.index] = None
        self._used -= entry.memory

    def _unlink(self, entry: _Entry) -> None:
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
