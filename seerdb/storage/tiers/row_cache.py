"""The row cache: versions that point reads found in tables, by key, so that a key asked for
again costs a dict lookup instead of hash, filter, index and block.

It holds what the newest layout's tables say. A flush :meth:`~RowCache.advance`\\ s it: rows that
the flushed memtable replaces go, and the generation changes, so that a reader still on an
older layout cannot bring a replaced row back. A compaction changes nothing a read sees. What
expires or is merged is not kept, for what it shows may change.

Snapshots on older layouts look here too, and pass over what is newer than they are. Tables that
bring older versions back, as those of a restore in place do, would mislead them: such a layout gets
a cache of its own (:meth:`~RowCache.anew`).

It may use what nobody else needs (:class:`Allowance`). While there is room every read inserts
its row. When there is none, a row gets in, and the oldest goes, when its key is asked for twice
within about as many reads as :data:`REMEMBERED`: keys that are hot get in at once, and those asked
for once and never again cost one byte (the "doorkeeper" of Einziger, Friedman and Manes:
TinyLFU, 2017).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from itertools import islice
from weakref import WeakSet

from seerdb.storage.memtable import Memtable
from seerdb.storage.value import Version

ROW_OVERHEAD = 360
"""Bytes a row costs beside its key and value (measured with CPython 3.11)."""

REMEMBERED = 1 << 16
"""Of how many keys that were asked for something is remembered: one byte each."""

_DROPPED_AT_ONCE = 1024

Allowance = Callable[[], int]
"""How many bytes the rows may take at this moment."""


class RowCache:
    """Rows by key within an allowance of bytes. Thread-safe.

    ``get`` is the lookup; a reader that had to look further then calls :meth:`offer`.
    ``generation`` is that of the layout whose reads may insert.
    """

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_allowed",
        "_bytes",
        "_has_room",
        "_living",
        "_lock",
        "_rows",
        "_seen",
        "generation",
        "get",
    )

    def __init__(self, allowance: Allowance, living: WeakSet[RowCache] | None = None) -> None:
        """``living``: all that share what is allowed; this one is added."""
        self._living: WeakSet[RowCache] = WeakSet() if living is None else living
        self._living.add(self)
        self._allowance = allowance
        self._allowed = allowance()
        self._rows: OrderedDict[bytes, Version] = OrderedDict()
        self.get = self._rows.get
        # Hints, which racing readers may miss.
        self._has_room = True
        self._seen = bytearray(REMEMBERED)
        self._lock = threading.Lock()
        # Changed under the lock.
        self._bytes = 0
        self.generation = 0

    def anew(self) -> RowCache:
        """An empty one, for a layout whose tables may replace any row, also by an older one."""
        return RowCache(self._allowance, self._living)

    def offer(self, key: bytes, version: Version, generation: int) -> None:
        """Keep a row, if that seems worth it, that a read of a layout of ``generation`` found."""
        if not self._has_room:
            digest = hash(key)
            place, mark = digest % REMEMBERED, digest >> 24 & 255
            if self._seen[place] != mark:
                self._seen[place] = mark
                return
        self._insert(key, version, generation)

    def _insert(self, key: bytes, version: Version, generation: int) -> None:
        size = _size(key, version)
        with self._lock:
            if generation != self.generation or key in self._rows:
                return
            if self._bytes + size > self._allowed:
                self._has_room = False
                if size > self._allowed:
                    return
                self._shrink(self._allowed - size)
            self._rows[key] = version
            self._bytes += size

    def fit(self) -> None:
        """Find out what is allowed now; call it when blocks were loaded."""
        with self._lock:
            self._allowed = self._allowance()
            self._shrink(self._allowed)
            self._has_room = self._bytes < self._allowed

    def advance(self, memtable: Memtable) -> None:
        """Begin the generation of a layout whose tables also hold ``memtable``, of which blocks may
        have been loaded."""
        with self._lock:
            self.generation += 1
            keys = iter(self._replaced_by(memtable))
        # A few at a time: readers wait for the lock.
        while some := list(islice(keys, _DROPPED_AT_ONCE)):
            with self._lock:
                self._drop(some)
        self.fit()

    def _replaced_by(self, memtable: Memtable) -> Collection[bytes]:
        rows = self._rows
        if memtable.ranged:  # a range delete may hide any row
            return list(rows)
        if len(rows) < len(memtable.newest):
            return list(filter(memtable.newest.__contains__, rows))
        return memtable.newest

    def _drop(self, keys: list[bytes]) -> None:
        rows = self._rows
        for key in keys:
            version = rows.pop(key, None)
            if version is not None:
                self._bytes -= _size(key, version)

    def _shrink(self, target: int) -> None:
        rows = self._rows
        while rows and self._bytes > target:
            self._bytes -= _size(*rows.popitem(last=False))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        """What its rows cost now."""
        return self._bytes


def _size(key: bytes, version: Version) -> int:
    value = version[1]
    return len(key) + ROW_OVERHEAD + (len(value) if value else 0)
