"""Warming up in the background: what reads will look for is brought in before they do.

After an opening, in this order: the tails of all tables, newest runs first, without which a cold
read is two requests instead of one; the blocks that were hot when the database was closed; and
what tables of pinned levels lack on the local disk. The last also whenever new tables were
published whose bytes were not at hand.

One step is one request at most, and after each it rests for as long as that took, so that it
takes no more than half of a connection, and reads never wait for it. Bounded: tails up to the
capacity of the block cache (or :data:`LEAST_TAILS`), blocks as long as there is memory to spare.
"""

from __future__ import annotations

from seerdb.storage.read.state import LiveState
from seerdb.storage.tiers.heat import Heat
from seerdb.storage.tiers.pinning import Pins
from seerdb.storage.tiers.table_store import TableHandle, TableStore
from seerdb.storage.tiers.warming import load_hot

LEAST_TAILS = 64 << 20
"""Bytes of tails that are brought in with any cache: what some 30 million keys need."""

REST_SECONDS = 0.01
"""The shortest rest after a step."""

BLOCKS_A_STEP = 64
_MEMORY_FACTOR, _BLOCK_OVERHEAD = 3, 512
"""A block in memory costs at most so many times its bytes, and so many more."""


class WarmUp:
    """The work of a lane, a step at a time. For one thread.

    ``memory`` is the capacity of the block cache; with 0 nothing is brought into memory.
    """

    def __init__(
        self, live: LiveState, tables: TableStore, pins: Pins, heat: Heat, *, memory: int
    ) -> None:
        self._live = live
        self._tables = tables
        self._pins = pins
        self._heat = heat if memory else {}
        self._tails_left = max(memory, LEAST_TAILS) if memory else 0
        self.steps = 0
        """Taken so far."""

    def heat(self) -> Heat:
        """What is hot now, for the next opening."""
        tables = self._tables
        return {
            handle.meta.id: hot
            for handle in self._handles()
            if handle.reader is not None and (hot := tables.hot_blocks(handle.reader))
        }

    def step(self) -> bool:
        """Make one request; returns whether there was something to do."""
        goes_on = self._open_one() or self._load_some() or self._pins.bring()
        self.steps += goes_on
        return goes_on

    def _open_one(self) -> bool:
        if self._tails_left <= 0:
            return False
        handle = next((each for each in self._handles() if each.reader is None), None)
        if handle is None:
            self._tails_left = 0
            return False
        self._tables.open(handle)
        self._tails_left -= handle.meta.size - handle.meta.tail_offset
        return True

    def _load_some(self) -> bool:
        handle = next((each for each in self._handles() if each.meta.id in self._heat), None)
        if handle is None:
            self._heat.clear()
            return False
        reader = self._tables.open(handle)
        numbers = [n for n in self._heat[handle.meta.id] if 0 <= n < reader.block_count]
        average = reader.properties.raw_bytes // (1 + reader.block_count)
        room = self._tables.spare_memory // (_MEMORY_FACTOR * average + _BLOCK_OVERHEAD)
        most = min(BLOCKS_A_STEP, room)
        if not most:
            self._heat.clear()
            return False
        some, rest = _neighbours(numbers, most)
        if rest:
            self._heat[handle.meta.id] = rest
        else:
            del self._heat[handle.meta.id]
        load_hot(self._tables, handle, some)
        return True

    def _handles(self) -> list[TableHandle]:
        return [handle for run in self._live.current.layout.runs for handle in run.handles]


def _neighbours(numbers: list[int], most: int) -> tuple[list[int], list[int]]:
    """The first numbers that follow each other, at most so many, and the rest."""
    count = 1
    while count < min(most, len(numbers)) and numbers[count] == numbers[count - 1] + 1:
        count += 1
    return numbers[:count], numbers[count:]
