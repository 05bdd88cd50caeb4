"""Who answers gets: the memtables, the row cache, or the tables.

Counting every get that memory answers would cost it a tenth of its time. So a sample is counted:
the first gets after each look at the statistics, by standing in for the function that serves
them. Between samples nothing is in the way.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

import msgspec

from seerdb.storage.read.lookup import Need
from seerdb.storage.read.state import LiveState

SAMPLE = 1000
"""Gets counted after each look."""

R = TypeVar("R")
Get = Callable[[bytes], R]


class GetSample(msgspec.Struct, frozen=True):
    """Of ``gets`` that were counted since the open, how many each tier answered. Of the other
    gets nothing is known."""

    gets: int
    memtable: int
    row_cache: int
    tables: int

    @property
    def tiers(self) -> dict[str, int]:
        """The gets by the tier that answered."""
        return {"memtable": self.memtable, "row_cache": self.row_cache, "tables": self.tables}


class GetSampler(Generic[R]):
    """Samples one handle's single gets; :meth:`attach` it. Racing readers may lose a count, and
    a get that races with a flush may be counted for its neighbour."""

    def __init__(self, live: LiveState, get: Get[R]) -> None:
        self._live = live
        self._get = get
        self._lock = Lock()  # so that nothing replaces what it ends with
        self._ended = False
        self._left = self._memtable = self._rows = self._tables = 0

    def attach(self, use: Callable[[Get[R]], None]) -> None:
        """From now on ``use`` is told what to serve gets with; begins with a sample."""
        self._use = use
        self.begin()

    def begin(self) -> None:
        """Count the next gets, each once it is answered. Requires: attached."""
        self._left = SAMPLE
        self._serve(self._counted)

    def end(self, get: Get[R]) -> None:
        """Once this returns, gets are served with ``get``, whatever else is asked for here.
        Requires: attached."""
        with self._lock:
            self._ended = True
            self._use(get)

    def _serve(self, get: Get[R]) -> None:
        with self._lock:
            if not self._ended:
                self._use(get)

    def statistics(self) -> GetSample:
        """What was counted so far."""
        memtable, rows, tables = self._memtable, self._rows, self._tables
        return GetSample(memtable + rows + tables, memtable, rows, tables)

    def loaded(self) -> None:
        """A get was answered that memory could not answer."""
        if self._left > 0:
            self._tables += 1
            self._counted_one()

    def _counted(self, key: bytes) -> R:
        state = self._live.current
        in_memtable = any(key in memtable.newest for memtable in state.memtables)
        in_rows = not in_memtable and state.layout.rows.get(key) is not None
        found = self._get(key)
        if isinstance(found, Need):  # asked again, or loaded for
            return found
        if in_memtable:
            self._memtable += 1
        elif in_rows:
            self._rows += 1
        else:
            self._tables += 1
        self._counted_one()
        return found

    def _counted_one(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._serve(self._get)
