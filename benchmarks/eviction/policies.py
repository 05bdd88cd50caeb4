"""The policies under one replay: ours is the block cache of the engine, the others stand beside it.

Those that the engine could use find a block in its slot and set a flag, as a reader does, and are
called for a miss only. A library has to be called for each read.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from benchmarks.eviction.traces import BLOCKS, Trace
from seerdb.storage.sstable.block_cache import BlockCache

GHOSTS = 1.0
SMALL_SHARE = 10
"""Of S3-FIFO, as its authors have them: names remembered for each block cached; the part of
the cache that the small queue takes."""


class Block:
    """What a cache sees of a block: here all are of size 1."""

    __slots__ = ("memory", "number", "visited")

    def __init__(self, number: int) -> None:
        self.memory = 1
        self.number = number
        self.visited = False


class Policy(Protocol):
    """Replays traces over one cache."""

    def replay(self, trace: Trace) -> tuple[int, int]:
        """How many gets were hits, and how many gets there were."""


class Slots:
    """Reads blocks as the engine does: a hit is a look at a slot and a flag."""

    def __init__(self) -> None:
        self.slots: list[Any] = [None] * BLOCKS

    def admit(self, block: Block) -> None:
        """Put a block into its slot, making room for it."""
        raise NotImplementedError

    def replay(self, trace: Trace) -> tuple[int, int]:
        """See :class:`Policy`."""
        hits = gets = 0
        slots, admit = self.slots, self.admit
        for number in trace:
            if number < 0:
                if slots[~number] is None:
                    admit(Block(~number))
                continue
            gets += 1
            block = slots[number]
            if block is None:
                admit(Block(number))
            else:
                block.visited = True
                hits += 1
        return hits, gets


class Ours(Slots):
    """The block cache."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._cache = BlockCache(capacity)

    def admit(self, block: Block) -> None:
        """See :class:`Slots`."""
        self._cache.admit(self, block.number, block)  # type: ignore[arg-type]  # enough of one


class Sieve(Slots):
    """SIEVE: a queue, and a hand that spares what was visited."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        # A list of neighbours by number: older, newer; BLOCKS is the end on both sides.
        self._older = [BLOCKS] * (BLOCKS + 1)
        self._newer = [BLOCKS] * (BLOCKS + 1)
        self._hand = BLOCKS
        self._count = 0

    def admit(self, block: Block) -> None:
        """See :class:`Slots`."""
        if self._count == self._capacity:
            self._evict()
        older, newer, number = self._older, self._newer, block.number
        newest = older[BLOCKS]
        older[number], newer[number] = newest, BLOCKS
        newer[newest] = older[BLOCKS] = number
        self._count += 1
        self.slots[number] = block

    def _evict(self) -> None:
        older, newer, slots = self._older, self._newer, self.slots
        hand = self._hand if self._hand != BLOCKS else newer[BLOCKS]
        while slots[hand].visited:
            slots[hand].visited = False
            hand = newer[hand] if newer[hand] != BLOCKS else newer[BLOCKS]
        self._hand = newer[hand]
        newer[older[hand]], older[newer[hand]] = newer[hand], older[hand]
        slots[hand] = None
        self._count -= 1


class S3Fifo(Slots):
    """S3-FIFO as published, but for one flag in place of a count to three."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._small: deque[Block] = deque()
        self._main: deque[Block] = deque()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def admit(self, block: Block) -> None:
        """See :class:`Slots`."""
        if len(self._small) + len(self._main) == self._capacity:
            self._evict()
        if block.number in self._ghosts:
            del self._ghosts[block.number]
            self._main.append(block)
        else:
            self._small.append(block)
        self.slots[block.number] = block

    def _evict(self) -> None:
        while True:
            from_small = len(self._small) * SMALL_SHARE > self._capacity or not self._main
            block = (self._small if from_small else self._main).popleft()
            if block.visited:
                block.visited = False
                self._main.append(block)
                continue
            if from_small:
                self._ghosts[block.number] = None
                if len(self._ghosts) > GHOSTS * self._capacity:
                    self._ghosts.popitem(last=False)
            self.slots[block.number] = None
            return


class Lru:
    """Least recently used, over one ordered dict; scans count as uses."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def replay(self, trace: Trace) -> tuple[int, int]:
        """See :class:`Policy`."""
        hits = gets = 0
        blocks, capacity = self._blocks, self._capacity
        for each in trace:
            number = each if each >= 0 else ~each
            gets += each >= 0
            if number in blocks:
                blocks.move_to_end(number)
                hits += each >= 0
            else:
                blocks[number] = None
                if len(blocks) > capacity:
                    blocks.popitem(last=False)
        return hits, gets


class TinyLfu:
    """W-TinyLFU by the library theine. Raises: ``ImportError`` where that is not installed."""

    def __init__(self, capacity: int) -> None:
        self._cache = import_module("theine").Cache(capacity)

    def replay(self, trace: Trace) -> tuple[int, int]:
        """See :class:`Policy`."""
        hits = gets = 0
        get, put = self._cache.get, self._cache.set
        for each in trace:
            number = each if each >= 0 else ~each
            gets += each >= 0
            if get(number)[1]:
                hits += each >= 0
            else:
                put(number, number)
        return hits, gets


POLICIES: dict[str, Callable[[int], Policy]] = {
    "seerdb": Ours,
    "SIEVE": Sieve,
    "S3-FIFO": S3Fifo,
    "W-TinyLFU (theine)": TinyLfu,
    "LRU": Lru,
}
